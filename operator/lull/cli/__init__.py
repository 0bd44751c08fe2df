"""The `lull` command: one file per subcommand, imported only when it runs."""

from __future__ import annotations

from typing import Annotated

import typer

from lull import __version__

app = typer.Typer(
    name="lull", help="Autoscaled LLM serving on vLLM for Kubernetes.", no_args_is_help=True, add_completion=False
)


@app.callback()
def options() -> None:
    """Options of every command."""


@app.command()
def version() -> None:
    """Print the version."""
    print(__version__)


@app.command()
def fetch(
    source: Annotated[str, typer.Argument(help="hf://org/name or hf://org/name@revision")],
    to: Annotated[str, typer.Option(help="Folder that gets the files.")],
) -> None:
    """Bring a model's files from a hub to a folder (HF_ENDPOINT, HF_TOKEN)."""
    from lull.cli.fetch import run

    raise typer.Exit(run(source, to))


def main() -> None:
    """Entry point of the console script."""
    app()
