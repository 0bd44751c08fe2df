"""The ways in which fetching ends without the files: each an exit code and a sentence for the pod's status."""

from __future__ import annotations

from typing import ClassVar


class Failed(Exception):  # noqa: N818  a sentence, as the user reads it
    """Fetching ends here; the text says why and what to do."""

    exit_code: ClassVar[int] = 1


class NotFound(Failed):
    """The source, the revision or a file of it does not exist."""

    exit_code = 10


class Forbidden(Failed):
    """The source asks for credentials, or for better ones."""

    exit_code = 11


class DiskFull(Failed):
    """The files do not fit where they should go."""

    exit_code = 12


class Contradiction(Failed):
    """The model's config.json rules out what the LLMDeployment asks for."""

    exit_code = 13


class NotWritable(Failed):
    """The folder that should get the files cannot be written."""

    exit_code = 14


class Unreachable(Failed):
    """The way to the source stayed broken for as long as patience lasted; another time it may not be."""


class Transient(Exception):  # noqa: N818  the next try may succeed
    """A try failed in a way that may pass."""

    def __init__(self, message: str, retry_after: str | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after
