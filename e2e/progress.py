"""Progress on stderr: one line per step, with the seconds that it took; stdout stays free for results."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_SILENCE_SECONDS = 3.0
"""After so long somebody who waits wants to know for what."""


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Run one step; say what it was and how long it took, or that it failed, and meanwhile that it goes on."""
    begun = time.monotonic()
    under_way = threading.Timer(_SILENCE_SECONDS, say, (f"  … {title}",))
    under_way.daemon = True
    under_way.start()
    try:
        yield
    except BaseException:
        say(f"  ✗ {title}  {time.monotonic() - begun:.1f} s")
        raise
    finally:
        under_way.cancel()
    say(f"  ✓ {title}  {time.monotonic() - begun:.1f} s")


def wait_until(is_true: Callable[[], bool], *, seconds: float, every: float = 0.1) -> bool:
    """Ask again and again until the answer is yes or the time is up; return the last answer."""
    deadline = time.monotonic() + seconds
    while not (answer := is_true()) and time.monotonic() < deadline:
        time.sleep(every)
    return answer
