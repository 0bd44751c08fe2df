"""The command line: up, down, status, load, stop-node, start-node, kubeconfig, tools."""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from e2e.cluster.choosing import find_cluster, open_cluster
from e2e.cluster.model import ClusterError, Provider
from e2e.cluster.tools import build_toolbox
from e2e.progress import say


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; an error that the user can put right is one line and exit code 1."""
    options = build_parser().parse_args(arguments)
    try:
        return _run(options)
    except ClusterError as error:
        say(f"error: {error}")
    except KeyboardInterrupt:
        say("interrupted; run the command again, or `down`")
    return 1


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m e2e.cluster", description=__doc__)
    parser.add_argument(
        "--provider", choices=list(Provider), help="force one (LULL_PROVIDER); default: by what is there"
    )
    parser.add_argument("--kubeconfig", help="use the cluster behind this kubeconfig (LULL_KUBECONFIG)")
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="bring the cluster up, or mend it")
    up.add_argument("--adopt", action="store_true", help="label and patch the nodes of an existing cluster")
    commands.add_parser("down", help="take the cluster away, with everything it made")
    commands.add_parser("status", help="say how the cluster is; exit code 1 unless all is well")
    load = commands.add_parser("load", help="load image archives into nodes")
    load.add_argument("archives", nargs="+", type=Path, metavar="ARCHIVE")
    load.add_argument("--node", nargs="+", action="extend", metavar="NODE", help="only these nodes")
    stop = commands.add_parser("stop-node", help="lose a node as when its machine goes off")
    stop.add_argument("node")
    stop.add_argument("--hard", action="store_true", help="cut its network first: its peers hear nothing")
    start = commands.add_parser("start-node", help="start a stopped node again")
    start.add_argument("node")
    commands.add_parser("kubeconfig", help="print the path of the kubeconfig")
    commands.add_parser("tools", help="build what the local cluster runs; print where each program is")
    return parser


def _run(options: argparse.Namespace) -> int:
    match options.command:
        case "tools":
            for name, path in build_toolbox().paths.items():
                print(f"{name}\t{path}")
        case "up":
            _up(options)
        case "down":
            find_cluster(options.provider, options.kubeconfig).down()
        case "status":
            lines, is_well = find_cluster(options.provider, options.kubeconfig).status()
            print("\n".join(lines))
            return 0 if is_well else 1
        case "load":
            cluster = open_cluster(options.provider, options.kubeconfig)
            for archive in options.archives:
                cluster.load(archive, options.node)
        case "stop-node":
            open_cluster(options.provider, options.kubeconfig).stop_node(options.node, hard=options.hard)
        case "start-node":
            open_cluster(options.provider, options.kubeconfig).start_node(options.node)
        case "kubeconfig":
            print(open_cluster(options.provider, options.kubeconfig).kubeconfig)
    return 0


def _up(options: argparse.Namespace) -> None:
    begun = time.monotonic()
    cluster = find_cluster(options.provider, options.kubeconfig, adopt=options.adopt)
    say(f"cluster: {cluster.provider}")
    cluster.up()
    say(f"cluster is up after {time.monotonic() - begun:.1f} s; export KUBECONFIG={cluster.kubeconfig}")


if __name__ == "__main__":
    sys.exit(main())
