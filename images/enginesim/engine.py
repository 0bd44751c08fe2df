"""Continuous batching as a model: who waits, who runs, and when each token comes.

Nothing here reads a clock: every call says what time it is, and `advance` makes happen what is due by then. Prompts are
read one after another at `prefill_tps`; then each running request gets a token every 1 / `decode_tps` seconds. A request
needs a slot (`max_num_seqs`) and room for its tokens (`kv_tokens`); when the room runs out, the latest one is preempted
and starts over, as in vLLM.
"""

import heapq
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum


class Finish(StrEnum):
    """vLLM's reasons for the end of a request."""

    STOP = "stop"
    LENGTH = "length"
    ABORT = "abort"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Speed:
    """What the pretended hardware can do."""

    prefill_tps: float = 20000.0
    decode_tps: float = 50.0
    max_num_seqs: int = 256
    kv_tokens: int = 1_000_000


@dataclass(frozen=True, slots=True)
class Request:
    """What the model of the batch needs to know of a request."""

    id: str
    prompt_tokens: int
    max_tokens: int
    finish: Finish = Finish.LENGTH
    adapter: str | None = None


@dataclass(frozen=True, slots=True)
class Token:
    """One token, or the end of a request without one more (`index` is then the number of tokens before it)."""

    request: str
    index: int
    at: float
    finish: Finish | None = None
    is_empty: bool = False


@dataclass(slots=True)
class Timeline:
    """When things happened to a request, for the engine's histograms."""

    request: Request
    arrived: float
    scheduled: float | None = None
    first: float | None = None
    last: float | None = None
    finished: float | None = None
    finish: Finish | None = None
    generated: int = 0
    preemptions: int = 0


@dataclass(frozen=True, slots=True)
class Gauges:
    """The engine's own gauges at one moment."""

    running: int
    waiting: int
    kv_usage: float
    running_adapters: tuple[str, ...] = ()
    waiting_adapters: tuple[str, ...] = ()


@dataclass(slots=True)
class Engine:
    """The state of one batch."""

    speed: Speed = field(default_factory=Speed)
    _waiting: deque[str] = field(default_factory=deque)
    _running: dict[str, Timeline] = field(default_factory=dict)
    _held: dict[str, Timeline] = field(default_factory=dict)
    _due: list[tuple[float, int, str]] = field(default_factory=list)
    _prefill_free_at: float = 0.0
    _counter: int = 0
    _paused_at: float | None = None

    @property
    def is_paused(self) -> bool:
        return self._paused_at is not None

    @property
    def unfinished(self) -> int:
        return len(self._waiting) + len(self._running)

    @property
    def running(self) -> int:
        return len(self._running)

    def gauges(self) -> Gauges:
        """Read the gauges; while paused they stand at zero, whatever is held, because vLLM's stand still too."""
        if self.is_paused:
            return Gauges(0, 0, 0.0)
        return Gauges(
            running=len(self._running),
            waiting=len(self._waiting),
            kv_usage=min(1.0, self._used() / self.speed.kv_tokens),
            running_adapters=_adapters(self._running.values()),
            waiting_adapters=_adapters(self._held.values()),
        )

    def submit(self, request: Request, now: float) -> Timeline:
        """Queue a request; it starts at once if there is a slot and room."""
        timeline = Timeline(request, arrived=now)
        self._held[request.id] = timeline
        self._waiting.append(request.id)
        self._schedule(now)
        return timeline

    def finish(self, request: str, reason: Finish, now: float) -> None:
        """End a request early, because of what it said."""
        timeline = self._running.get(request)
        if timeline is not None:
            timeline.finished, timeline.finish = now, reason
            self.abort(request, now)

    def abort(self, request: str, now: float) -> None:
        """Forget a request whose client is gone."""
        if request in self._held:
            del self._held[request]
            self._waiting.remove(request)
        self._running.pop(request, None)
        self._schedule(now)

    def advance(self, now: float) -> list[Token]:
        """Let everything happen that is due by now, in order."""
        tokens: list[Token] = []
        while not self.is_paused and self._due and self._due[0][0] <= now:
            at, _, name = heapq.heappop(self._due)
            timeline = self._running.get(name)
            if timeline is not None:
                tokens.append(self._generate(timeline, at))
        return tokens

    def next_at(self) -> float | None:
        """When the next token comes; None while nothing runs."""
        while self._due and self._due[0][2] not in self._running:
            heapq.heappop(self._due)
        return None if self.is_paused or not self._due else self._due[0][0]

    def pause(self, now: float) -> None:
        """Stop the clock for every request, new ones included."""
        if self._paused_at is None:
            self._paused_at = now

    def resume(self, now: float) -> None:
        """Go on as if the time in between had not passed."""
        if self._paused_at is None:
            return
        lost = now - self._paused_at
        self._paused_at = None
        self._due = [(at + lost, order, name) for at, order, name in self._due]
        self._prefill_free_at += lost
        self._schedule(now)

    def abort_all(self, now: float) -> list[Token]:
        """End every request where it stands."""
        unfinished = [*self._running.values(), *self._held.values()]
        self._waiting.clear()
        self._running.clear()
        self._held.clear()
        self._due.clear()
        for timeline in unfinished:
            timeline.finished, timeline.finish = now, Finish.ABORT
        return [Token(each.request.id, each.generated, now, Finish.ABORT, is_empty=True) for each in unfinished]

    def _generate(self, timeline: Timeline, at: float) -> Token:
        request = timeline.request
        index = timeline.generated
        timeline.generated += 1
        timeline.first = timeline.first if timeline.first is not None else at
        timeline.last = at
        if timeline.generated >= request.max_tokens:
            timeline.finished, timeline.finish = at, request.finish
            del self._running[request.id]
            self._schedule(at)
            return Token(request.id, index, at, request.finish)
        self._push(request.id, at + 1 / self.speed.decode_tps)
        self._preempt()
        return Token(request.id, index, at)

    def _schedule(self, now: float) -> None:
        if self.is_paused:
            return
        while self._waiting and len(self._running) < self.speed.max_num_seqs:
            timeline = self._held[self._waiting[0]]
            request = timeline.request
            needed = request.prompt_tokens + timeline.generated
            # A request that is alone is let in even if it is too big: otherwise it would wait for ever.
            if self._running and self._used() + needed > self.speed.kv_tokens:
                return
            self._waiting.popleft()
            del self._held[request.id]
            self._running[request.id] = timeline
            timeline.scheduled = timeline.scheduled if timeline.scheduled is not None else now
            self._prefill_free_at = max(self._prefill_free_at, now) + needed / self.speed.prefill_tps
            self._push(request.id, self._prefill_free_at)

    def _preempt(self) -> None:
        while len(self._running) > 1 and self._used() > self.speed.kv_tokens:
            name, timeline = self._running.popitem()
            self._due = [each for each in self._due if each[2] != name]
            heapq.heapify(self._due)
            self._held[name] = timeline
            self._waiting.appendleft(name)
            timeline.preemptions += 1

    def _used(self) -> int:
        return sum(each.request.prompt_tokens + each.generated for each in self._running.values())

    def _push(self, name: str, at: float) -> None:
        # The counter keeps requests that are due at the same moment in the order of their last token.
        self._counter += 1
        heapq.heappush(self._due, (at, self._counter, name))


def _adapters(timelines: Iterable[Timeline]) -> tuple[str, ...]:
    return tuple(sorted({each.request.adapter for each in timelines if each.request.adapter}))
