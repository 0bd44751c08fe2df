"""The `lull` command: one file per subcommand, imported only when it runs."""

from __future__ import annotations

import sys
from enum import StrEnum, unique
from pathlib import Path
from typing import Annotated

import typer

from lull import __version__

app = typer.Typer(
    name="lull",
    help="Autoscaled LLM serving on vLLM for Kubernetes.",
    no_args_is_help=True,
    add_completion=False,
    # Rich's help takes as long to import as everything else together.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


@unique
class Output(StrEnum):
    TEXT = "text"
    JSON = "json"


@app.callback()
def options() -> None:
    """Options of every command."""


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


@app.command("operator")
def run_operator() -> None:
    """Run the operator, as its Deployment in the cluster does."""
    from lull.cli.operator import main

    main()


@app.command()
def fetch(
    source: Annotated[
        str,
        typer.Argument(
            help="hf://org/name[@revision], s3://bucket/prefix, gs://bucket/prefix, "
            "oci://host/repository[:tag][@sha256:digest], pvc://claim/path or file:///path"
        ),
    ],
    to: Annotated[Path, typer.Option(help="Folder that gets the files; for pvc:// and file:// the one that has them.")],
    credentials: Annotated[Path | None, typer.Option(help="Folder where the model's Secret is mounted.")] = None,
    check: Annotated[
        str | None, typer.Option(help="JSON of what the model must allow; compared with its config.json first.")
    ] = None,
    weights: Annotated[
        str, typer.Option(help="Copy of the weights to take of several: safetensors, pytorch or mistral.")
    ] = "safetensors",
) -> None:
    """Bring a model's files to a folder.

    HF_ENDPOINT, AWS_ENDPOINT_URL and LULL_GS_ENDPOINT name other servers, LULL_OCI_PLAIN_HTTP the registries that go
    without TLS; HF_TOKEN opens gated models.
    """
    from lull.cli.fetch import run

    raise typer.Exit(run(source, to, credentials=credentials, check=check, weights=weights))


@app.command("fetch-adapters")
def fetch_adapters(
    root: Annotated[Path, typer.Option(help="Folder that gets a folder for each adapter.")],
    max_rank: Annotated[int, typer.Option(help="Highest rank that the engine takes.")],
    model: Annotated[str, typer.Option(help="Source of the model that the adapters are for.")] = "",
    port: Annotated[int, typer.Option(help="Port to be told on.")] = 8002,
    credentials: Annotated[Path | None, typer.Option(help="Folder with the keys that open the sources.")] = None,
) -> None:
    """Fetch and check LoRA adapters when told to: the sidecar of an engine pod.

    PUT /adapters/ID {name, source} begins, GET /adapters tells how far each is, DELETE /adapters/ID forgets one.
    """
    from lull.cli.fetch_adapters import run
    from lull.fetcher.adapters import Wanted

    run(root, port, Wanted(max_rank, model), credentials)


@app.command()
def crd(
    check: Annotated[Path | None, typer.Option(help="Only compare with this file; exit 1 where it differs.")] = None,
) -> None:
    """Print the CustomResourceDefinition."""
    from lull.cli.crd import check_crd, render_crd

    if check is not None:
        raise typer.Exit(check_crd(check))
    print(render_crd(), end="")


@app.command()
def render(
    file: Annotated[Path, typer.Argument(help="Manifest with LLMDeployments; - reads standard input.")],
    namespace: Annotated[str, typer.Option("--namespace", "-n", help="For objects that name none.")] = "default",
    pod_monitors: Annotated[
        bool, typer.Option("--pod-monitors", help="As where the cluster knows PodMonitors.")
    ] = False,
) -> None:
    """Print what the operator would apply, without a cluster."""
    from lull.cli.render import render_file

    print(render_file(file, namespace=namespace, pod_monitors=pod_monitors), end="")


@app.command()
def lint(
    files: Annotated[list[Path], typer.Argument(help="Manifests with LLMDeployments; - reads standard input.")],
    output: Annotated[Output, typer.Option("--output", "-o", help="text or json.")] = Output.TEXT,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings fail, too.")] = False,
) -> None:
    """Say by line what a cluster would refuse, or drop without a word.

    Exit code 1 where anything would be refused.
    """
    from lull.cli.lint import run

    raise typer.Exit(run(files, output=output, strict=strict))


Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig; default: the current one.")]


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="An LLMDeployment; default: all of the namespace.")] = None,
    namespace: Annotated[str | None, typer.Option("--namespace", "-n", help="Default: the context's.")] = None,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Every namespace.")] = False,
    context: Context = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="text or json.")] = Output.TEXT,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow, until interrupted.")] = False,
) -> None:
    """Show LLMDeployments with their pools, pods and nodes, and why what is not ready is not.

    Exit code 3 where one is not ready.
    """
    from lull.cli.status import run

    raise typer.Exit(
        run(name, namespace=namespace, everywhere=all_namespaces, context=context, output=output, watch=watch)
    )


OneNamespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Default: the context's.")]


@app.command()
def why(
    name: Annotated[str, typer.Argument(help="An LLMDeployment.")],
    namespace: OneNamespace = None,
    context: Context = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="text or json.")] = Output.TEXT,
    last: Annotated[int, typer.Option(min=1, max=10, help="Most decisions to show.")] = 10,
) -> None:
    """Explain the number of replicas: the last decisions, what holds it now, and what would change it."""
    from lull.cli.why import run

    raise typer.Exit(run(name, namespace=namespace, context=context, output=output, last=last))


@app.command()
def wake(
    name: Annotated[str, typer.Argument(help="An LLMDeployment.")],
    namespace: OneNamespace = None,
    context: Context = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="text or json.")] = Output.TEXT,
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Stay until a replica is ready, and say how far it is.")
    ] = (False),
    timeout: Annotated[str, typer.Option(help="Longest time to stay.")] = "30m",
) -> None:
    """Wake a sleeping model without a request. It sleeps again when nobody asks for `scaling.idleAfter`.

    Exit code 1, with the reason, where it does not wake.
    """
    from lull.cli.wake import run

    raise typer.Exit(run(name, namespace=namespace, context=context, output=output, wait=wait, timeout=timeout))


@app.command()
def cost(
    name: Annotated[str | None, typer.Argument(help="An LLMDeployment; default: all of the namespace.")] = None,
    namespace: OneNamespace = None,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A", help="Every namespace.")] = False,
    context: Context = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="text or json.")] = Output.TEXT,
) -> None:
    """Show what LLMDeployments cost, an hour and this month, by the operator's prices."""
    from lull.cli.cost import run

    raise typer.Exit(run(name, namespace=namespace, everywhere=all_namespaces, context=context, output=output))


@app.command()
def doctor(
    context: Context = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="text or json.")] = Output.TEXT,
) -> None:
    """Check a cluster: version, CRD, operator, gateway, access, accelerators, storage, LeaderWorkerSet, Prometheus.

    Exit code 1 where something that Lull needs is missing.
    """
    from lull.cli.doctor import run

    raise typer.Exit(run(context=context, output=output))


@app.command()
def simulate(  # noqa: PLR0917  each is an option
    trace: Annotated[
        str,
        typer.Option(
            metavar="FILE|URL",
            help="CSV, gzipped or not: timestamp_s, input_tokens, output_tokens and, if known, cached_tokens; "
            "or URL of a Prometheus.",
        ),
    ],
    policy: Annotated[
        list[Path],
        typer.Option(help="LLMDeployment, or only its spec.scaling; several are compared."),
    ],
    engine: Annotated[
        str, typer.Option(help="Preset such as qwen3-32b-h100-tp2, or a YAML file with a replica's parameters.")
    ],
    llm: Annotated[
        str | None,
        typer.Option(metavar="NAMESPACE/NAME", help="With Prometheus: the LLMDeployment whose requests it counted."),
    ] = None,
    days: Annotated[
        float, typer.Option(min=0.01, max=90, help="With Prometheus: how many of the last days are played.")
    ] = 7.0,
    cold_start: Annotated[
        str, typer.Option(help="From asked to ready; 80s-140s draws from a range (its 10th to 90th percentile).")
    ] = "100s",
    slo_ttft: Annotated[
        str | None, typer.Option(help="Longest time to the first token; default: spec.slo, 3s.")
    ] = None,
    slo_tpot: Annotated[
        str | None, typer.Option(help="Longest time per further token; default: spec.slo, 100ms.")
    ] = None,
    attainment: Annotated[
        float | None,
        typer.Option(min=0, max=100, help="Requests that should meet both, in per cent; default: spec.slo, 99."),
    ] = None,
    gpu_price: Annotated[float | None, typer.Option(min=0, help="Of one GPU for an hour, for costs.")] = None,
    initial_replicas: Annotated[
        int | None, typer.Option(min=0, max=1000, help="Ready when it begins; default: minReplicas.")
    ] = None,
    spot_lifetime: Annotated[
        str | None, typer.Option(help="Mean time until spot capacity takes a replica away; default: never.")
    ] = None,
    spot_notice: Annotated[str, typer.Option(help="Time between its notice and its end.")] = "2m",
    tune: Annotated[
        bool, typer.Option("--tune", help="Find the cheapest policy around the given one that meets the SLO.")
    ] = False,
    tries: Annotated[int, typer.Option(min=1, max=1000, help="Most policies that --tune tries.")] = 40,
    plot: Annotated[Path | None, typer.Option(help="Picture to write, .svg or, with matplotlib, .png.")] = None,
    seed: Annotated[int, typer.Option(help="For what is random: cold starts within a range, losses of spot.")] = 0,
    output: Annotated[Output, typer.Option("--output", "-o", help="text or json.")] = Output.TEXT,
    as_json: Annotated[bool, typer.Option("--json", help="As -o json.")] = False,
) -> None:
    """Show what policies make of a trace: SLO, GPU-hours, cold starts.

    Exit code 3 where --tune finds no policy that meets the SLO.
    """
    from lull.cli.simulate import Question, run

    question = Question(
        trace=trace,
        llm=llm,
        days=days,
        policies=policy,
        engine=engine,
        cold_start=cold_start,
        slo_ttft=slo_ttft,
        slo_tpot=slo_tpot,
        attainment=attainment,
        gpu_price=gpu_price,
        initial_replicas=initial_replicas,
        spot_lifetime=spot_lifetime,
        spot_notice=spot_notice,
        tune=tune,
        tries=tries,
        plot=plot,
        seed=seed,
    )
    raise typer.Exit(run(question, output=Output.JSON if as_json else output))


@app.command("gateway")
def run_gateway(
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML with models and their engines, read again when it changes. Default: what a cluster has."
        ),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only say what is wrong with the file.")] = False,
    worker: Annotated[int | None, typer.Option(hidden=True)] = None,
    listen: Annotated[int, typer.Option(hidden=True)] = 0,
    admin: Annotated[Path, typer.Option(hidden=True)] = Path(),
) -> None:
    """Run the OpenAI-compatible door in front of the engines."""
    from lull.cli.gateway import Place, check_file, run, run_file

    place = None if worker is None else Place(worker, listen, admin)
    if config is None and check:
        raise typer.BadParameter("--check goes with --config")
    if config is None:
        run(place)
    elif check:
        check_file(config)
    else:
        run_file(config, place)


keys = typer.Typer(
    name="keys",
    help="API keys of clients, in the Secret that gateways watch.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(keys)
OfLull = Annotated[str, typer.Option("--namespace", "-n", help="Namespace that Lull runs in.")]
InSecret = Annotated[str, typer.Option("--secret", help="Name of the Secret, as in gateway.keys.secret.")]


@keys.command("create")
def create_key(  # noqa: PLR0917  each is an option
    name: Annotated[str, typer.Argument(metavar="ID", help="Lower-case letters, digits, hyphens and dots.")],
    models: Annotated[
        str, typer.Option(help="Models and adapters that it may use, separated by commas; default: all.")
    ] = "",
    rpm: Annotated[int | None, typer.Option(min=1, help="Most requests in a minute.")] = None,
    tpm: Annotated[
        int | None, typer.Option(min=1, help="Most tokens in a minute, prompts and answers together.")
    ] = None,
    tpd: Annotated[int | None, typer.Option(min=1, help="Most tokens in 24 hours.")] = None,
    priority: Annotated[int, typer.Option(min=-100, max=100, help="Held requests of a higher one go first.")] = 0,
    expires: Annotated[
        str | None, typer.Option(help="90d, 12h, 2027-01-31 (UTC) or a full timestamp; default: never.")
    ] = None,
    note: Annotated[str, typer.Option(help="Whose it is, or what for.")] = "",
    namespace: OfLull = "lull-system",
    secret: InSecret = "lull-gateway-keys",  # noqa: S107  a name
    context: Context = None,
    only_print: Annotated[
        bool, typer.Option("--print", help="Print the entry, for a file or a Secret of yours, and change nothing.")
    ] = False,
) -> None:
    """Make a key and print it: this once, as only its digest is stored."""
    from lull.cli.keys import Place, create

    fields = {
        "models": [part for one in models.split(",") if (part := one.strip())],
        "requestsPerMinute": rpm,
        "tokensPerMinute": tpm,
        "tokensPerDay": tpd,
        "priority": priority,
        "note": note,
    }
    raise typer.Exit(create(Place(namespace, secret, context), name, fields, expires=expires, only_print=only_print))


@keys.command("list")
def list_keys(
    namespace: OfLull = "lull-system",
    secret: InSecret = "lull-gateway-keys",  # noqa: S107  a name
    context: Context = None,
    output: Annotated[Output, typer.Option("--output", "-o", help="text or json.")] = Output.TEXT,
) -> None:
    """Show what each key may do. Exit code 1 where an entry cannot be read."""
    from lull.cli.keys import Place, list_all

    raise typer.Exit(list_all(Place(namespace, secret, context), output=output))


@keys.command("revoke")
def revoke_keys(
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Keys to remove.")],
    namespace: OfLull = "lull-system",
    secret: InSecret = "lull-gateway-keys",  # noqa: S107  a name
    context: Context = None,
) -> None:
    """Remove keys. Gateways stop knowing them within seconds."""
    from lull.cli.keys import Place, revoke

    raise typer.Exit(revoke(Place(namespace, secret, context), ids))


def main() -> None:
    """Entry point of the console scripts: `lull`, and `kubectl-lull`, which kubectl runs as `kubectl lull`."""
    program = "kubectl lull" if Path(sys.argv[0]).name == "kubectl-lull" else "lull"
    *words, last = ("", *sys.argv[1:])
    text = render_help(program, words[1:]) if last == "--help" else None
    if text is None:
        app(prog_name=program)
    else:
        print(text)


def render_help(program: str, words: list[str]) -> str | None:
    """The help of a command, as typer prints it; None where the words name none.

    Typer itself would import all of pydantic to find out that `--help` is meant, which takes as long as everything else.
    """
    command = typer.main.get_command(app)
    context = typer.Context(command, info_name=program)
    for word in words:
        found = command.get_command(context, word) if isinstance(command, typer.core.TyperGroup) else None
        if found is None:
            return None
        command, context = found, typer.Context(found, info_name=word, parent=context)
    return command.get_help(context)
