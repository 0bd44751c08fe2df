"""The ways in which fetching ends without the files: each an exit code and a sentence for the pod's status."""

from __future__ import annotations

from typing import ClassVar


class Failed(Exception):  # noqa: N818  a sentence, as the user reads it
    """Fetching ends here; the text says why and what to do."""

    exit_code: ClassVar[int] = 1


class NotFound(Failed):
    """The repository, the revision or a file of it does not exist."""

    exit_code = 10


class Forbidden(Failed):
    """The hub asks for a token, or for a better one."""

    exit_code = 11


class DiskFull(Failed):
    """The files do not fit where they should go."""

    exit_code = 12
