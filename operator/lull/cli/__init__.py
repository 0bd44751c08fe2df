"""The `lull` command: one file per subcommand, imported only when it runs."""

from __future__ import annotations

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


@app.command("gateway")
def run_gateway() -> None:
    """Run the OpenAI-compatible door in front of the engines (configured by LULL_* variables)."""
    from lull.cli.gateway import run

    run()


def main() -> None:
    """Entry point of the console script."""
    app()
