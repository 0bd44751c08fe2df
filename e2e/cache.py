"""Where built programs and images stay between runs."""

import os
from pathlib import Path


def cache_folder() -> Path:
    """LULL_CACHE, or `lull` in the user's cache folder."""
    if named := os.environ.get("LULL_CACHE"):
        return Path(named).expanduser().absolute()
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base).absolute() / "lull"
