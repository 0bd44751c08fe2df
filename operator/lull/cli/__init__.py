"""The `lull` command: one file per subcommand, imported only when it runs."""

from __future__ import annotations

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
) -> None:
    """Bring a model's files to a folder.

    HF_ENDPOINT, AWS_ENDPOINT_URL and LULL_GS_ENDPOINT name other servers, LULL_OCI_PLAIN_HTTP the registries that go
    without TLS; HF_TOKEN opens gated models.
    """
    from lull.cli.fetch import run

    raise typer.Exit(run(source, to, credentials=credentials, check=check))


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
) -> None:
    """Print what the operator would apply, without a cluster."""
    from lull.cli.render import render_file

    print(render_file(file, namespace=namespace), end="")


@app.command("gateway")
def run_gateway() -> None:
    """Run the OpenAI-compatible door in front of the engines."""
    from lull.cli.gateway import run

    run()


def main() -> None:
    """Entry point of the console script."""
    app()
