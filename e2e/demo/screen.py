"""The terminal: a live picture where there is a terminal, plain lines where there is none."""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from e2e.demo.recorder import Recorder, Sample

SPARKS: Final = " ▁▂▃▄▅▆▇█"
WIDTH: Final = 32


@dataclass(slots=True)
class Screen:
    """What the demo says, as it goes."""

    console: Console = field(default_factory=lambda: Console(stderr=False, highlight=False))
    began: float = field(default_factory=time.monotonic)
    _recorder: Recorder | None = None
    _shown: list[str] = field(default_factory=list)
    _doing: str = ""
    _answer: str = ""
    _live: Live | None = None

    def title(self, words: str) -> None:
        """Begin an act."""
        self.console.print()
        self.console.rule(f"[bold]{words}", align="left", style="blue")

    def said(self, words: str) -> None:
        """Something happened: it stays on the screen."""
        self.console.print(f"[dim]{self._clock()}[/dim] [green]✓[/green] {words}")

    def note(self, words: str) -> None:
        """Something to know: it stays on the screen."""
        self.console.print(f"[dim]{self._clock()}[/dim]   {words}")

    @contextmanager
    def doing(self, words: str) -> Iterator[None]:
        """Something is under way; what came of it stays on the screen."""
        began = time.monotonic()
        self._doing = words
        if not self.console.is_terminal:
            self.note(f"{words} …")
        yield
        self._doing = ""
        self.said(f"{words} [dim]({time.monotonic() - began:.1f} s)[/dim]")

    def answer(self, text: str) -> None:
        """The answer that is streaming in; empty ends it."""
        self._answer = text

    @contextmanager
    def watching(self, recorder: Recorder) -> Iterator[None]:
        """Show the recorder's view below what is said, for as long as the block runs."""
        self._recorder = recorder
        if not self.console.is_terminal:
            yield
            return
        with Live(get_renderable=self._render, console=self.console, refresh_per_second=6, transient=True):
            yield

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self.began)
        return f"{seconds // 60:02d}:{seconds % 60:02d}"

    def _render(self) -> Panel:
        assert self._recorder is not None
        lines: list[RenderableType] = []
        for name, samples in self._recorder.samples.items():
            last = samples[-1]
            replicas = "●" * last.ready + "○" * (last.replicas - last.ready) or "asleep"
            row = Table.grid(padding=(0, 2))
            row.add_row(
                Text(name, style="bold"),
                Text(replicas, style="blue"),
                Text(f"held {last.held}", style="yellow" if last.held else "dim"),
                Text(f"in flight {last.in_flight}", style="green" if last.in_flight else "dim"),
                Text(_sparkline(samples), style="green"),
            )
            lines.append(row)
            decision = self._recorder.decision(name)
            if decision is not None:
                lines.append(Text(f"  {decision['message']}", style="dim"))
        if self._answer:
            lines.append(Text(f"» {self._answer[-300:]}", style="italic"))
        return Panel(
            Group(*lines),
            title=f"{self._clock()}  {self._doing}" if self._doing else self._clock(),
            title_align="left",
            border_style="blue",
        )


def _sparkline(samples: list[Sample]) -> str:
    recent = [sample.held + sample.in_flight for sample in samples[-WIDTH * 4 :: 4]]
    most = max([*recent, 1])
    return "".join(SPARKS[min(8, -(-value * 8 // most))] for value in recent)
