"""`python -m e2e.images build [NAME...] [--json]`: progress on standard error, references and archives on standard output."""

import argparse
import json
import sys

from e2e.images import BuildError, build
from e2e.images.recipes import RECIPES


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m e2e.images", description="Build Lull's images into archives.")
    commands = parser.add_subparsers(required=True)
    builds = commands.add_parser("build", help="build what is not built yet, and print references and archives")
    builds.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(RECIPES)}; all by default")
    builds.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    try:
        images = build(arguments.names or tuple(RECIPES))
    except BuildError as error:
        print(f"cannot build: {error}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps({name: {"reference": i.reference, "archive": str(i.archive)} for name, i in images.items()}))
    else:
        for image in images.values():
            print(f"{image.reference}  {image.archive}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
