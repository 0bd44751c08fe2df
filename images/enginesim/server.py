"""The HTTP shell: vLLM's endpoints around the model of the batch, and its lies."""

import asyncio
import json
import logging
import os
import secrets
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

from aiohttp import web

from . import payloads
from .adapters import Adapters
from .dialects import Completions, Dialect, Messages, Responses, UsageAsked
from .engine import Engine, Finish, Request, Timeline, Token
from .groups import joining, leading
from .metrics import Registry
from .options import Behaviour, Options, missing_model, speed_of
from .payloads import Answer, ApiError, Choice, Json, bad_request, invalid
from .pooling import embed, embedding_answer, rerank_answer, score_answer

_log = logging.getLogger("enginesim")
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_MAX_BODY = 32 << 20
_MAX_CHOICES = 64
_CHARACTERS_PER_TOKEN = 16
_NO_TYPE = "application/x-none"
# A client that leaves cancels its handler; what is still open at the end was waited for already.
_RUNNER: dict[str, Any] = {
    "keepalive_timeout": 5.0,
    "access_log": None,
    "handler_cancellation": True,
    "shutdown_timeout": 0.0,
}
_GUARDED = ("/v1", "/v2", "/inference")
_REASONS = ("weights_offloaded", "discard_all")


class EngineDeadError(ApiError):
    """The engine core is gone, and with it every request in it."""

    def __init__(self) -> None:
        super().__init__(500, "InternalServerError", payloads.DEAD)


@dataclass(slots=True)
class Sequence:
    """One choice of one request; the choices of a request share a queue, where None says that the core is dead."""

    index: int
    request: Request
    arrivals: "asyncio.Queue[tuple[int, Token | None]]"
    timeline: Timeline | None = None
    counted: int = 0
    """Of its tokens, those that the metrics have."""


class Server:
    """One pretended vLLM process."""

    def __init__(self, options: Options, now: float) -> None:
        self.options = options
        self.behaviour = options.behaviour
        self.engine = Engine(options.speed)
        self.adapters = Adapters(options.served_names, options.max_lora_rank, Path(options.model), {})
        self.adapters.loaded.update(options.lora_modules)
        blocks = options.behaviour.kv_tokens // 128
        cache = {"num_gpu_blocks": str(blocks), "kv_cache_size_tokens": str(options.behaviour.kv_tokens)}
        self.metrics = Registry(options.served_names[0], cache, now)
        self.stopped = asyncio.Event()
        self.draining = False
        self.died_at: float | None = None
        self._sequences: dict[str, Sequence] = {}
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._load = 0
        self._open = 0
        self._sleep_level: int | None = None
        self._woken: set[str] = set()
        self._failures = 0
        self._lacks_member = False

    # ------------------------------------------------------------------ life

    def eat(self) -> None:
        """Take memory and keep it; written to, so that it is really taken."""
        self._eaten = b"\1" * (self.options.eat_memory << 20)

    async def drive(self) -> None:
        """Hand out tokens as they come due, for as long as the engine core lives."""
        while True:
            for token in self.engine.advance(time.monotonic()):
                self._deliver(token)
            due = None if self.behaviour.hang else self.engine.next_at()
            self._wake.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(None if due is None else max(0.0, due - time.monotonic())):
                    await self._wake.wait()

    async def drain(self) -> None:
        """Answer SIGTERM as vLLM does; return when the listener may close."""
        _log.info("draining for %s s", self.options.shutdown_timeout)
        self.draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self.options.shutdown_timeout):
                await self._until(lambda: not self._sequences)
        if self._sequences and self.options.shutdown_timeout > 0:
            # The engine core is killed, and nobody tells the open streams: they hang until their clients leave.
            self.engine.pause(time.monotonic())
        elif self._sequences:
            self._kill_core()

    async def wait_for_clients(self) -> None:
        """Wait until every open request is answered or left."""
        await self._until(lambda: not self._open)

    async def _until(self, is_true: Callable[[], bool]) -> None:
        """Wait for what a settled request may change."""
        while not is_true():
            self._settled.clear()
            await self._settled.wait()

    def _kill_core(self) -> None:
        self.died_at = time.monotonic()
        for sequence in self._sequences.values():
            sequence.arrivals.put_nowait((sequence.index, None))

    def lose_member(self) -> None:
        """Lose a process of the group; only a request shows it, one that runs or the next one."""
        self._lacks_member = True
        if self._sequences:
            self._begin_death()

    def _begin_death(self) -> None:
        if self.died_at is None:
            self._death = asyncio.get_running_loop().create_task(self._die())

    async def _die(self) -> None:
        self._kill_core()
        await asyncio.sleep(self.behaviour.death_delay)
        self.stopped.set()

    def _deliver(self, token: Token) -> None:
        sequence = self._sequences.get(token.request)
        if sequence is not None:
            sequence.arrivals.put_nowait((sequence.index, token))

    # ------------------------------------------------------------------ routes

    def app(self) -> web.Application:
        app = web.Application(client_max_size=_MAX_BODY, middlewares=[self._outermost])
        app.on_response_prepare.append(_drop_no_type)
        get, post = app.router.add_get, app.router.add_post
        get("/health", self.health, allow_head=False)
        get("/ping", self.health, allow_head=False)
        post("/ping", self.health)
        get("/version", _constant({"version": payloads.VERSION}), allow_head=False)
        get("/load", self.load, allow_head=False)
        get("/metrics", self.show_metrics, allow_head=False)
        get("/kv_event_sources", _constant({}), allow_head=False)
        get("/v1/models", self.models, allow_head=False)
        if self.options.is_pooling:
            self._route_pooling(post)
        else:
            post("/v1/chat/completions", self.chat)
            post("/v1/completions", self.completions)
            post("/v1/responses", self.responses)
            get("/v1/responses/{id}", self.response, allow_head=False)
            post("/v1/messages", self.messages)
            post("/v1/messages/count_tokens", self.count_tokens)
            post("/invocations", self.invocations)
        post("/tokenize", self.tokenize)
        post("/detokenize", self.detokenize)
        if self.options.enable_lora and self.options.runtime_lora:
            post("/v1/load_lora_adapter", self.load_adapter)
            post("/v1/unload_lora_adapter", self.unload_adapter)
        if self.options.dev_mode:
            post("/sleep", self.sleep)
            post("/wake_up", self.wake_up)
            get("/is_sleeping", self.is_sleeping, allow_head=False)
            post("/pause", self.pause)
            post("/resume", self.resume)
            get("/is_paused", self.is_paused, allow_head=False)
            post("/reset_prefix_cache", _constant({"success": True}))
            post("/collective_rpc", _constant({"results": [None]}))
        get("/sim/state", self.state, allow_head=False)
        post("/sim/config", self.configure)
        post("/sim/die", self.die)
        return app

    def _route_pooling(self, post: Callable[..., object]) -> None:
        post("/v1/embeddings", self.embeddings)
        for version in ("", "/v1", "/v2"):
            post(f"{version}/rerank", self.rerank)
        for version in ("", "/v1"):
            post(f"{version}/score", self.score)
        post("/invocations", self.embeddings)

    @web.middleware
    async def _outermost(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        begun = time.monotonic()
        self._open += 1
        try:
            response = await self._answer(request, handler)
        finally:
            self._open -= 1
            self._settled.set()
        if self.options.echoes_request_id and "X-Request-Id" in request.headers and not response.prepared:
            response.headers["X-Request-Id"] = request.headers["X-Request-Id"]
        self._count_http(request, response, time.monotonic() - begun)
        if self.draining and response.status == 500 and request.transport is not None:
            # vLLM did not foresee this error, so its server closes the connection, without saying so in the answer.
            await response.prepare(request)
            await response.write_eof()
            request.transport.close()
        return response

    async def _answer(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        key = self.options.api_key
        if key and request.path.startswith(_GUARDED) and request.headers.get("Authorization") != f"Bearer {key}":
            return _json({"error": "Unauthorized"}, status=401)
        try:
            return await handler(request)
        except ApiError as error:
            return _json(_in_words_of(request.path, error), status=error.status)
        except web.HTTPMethodNotAllowed as error:
            allowed = {"Allow": ", ".join(sorted(error.allowed_methods))}
            return _json({"detail": error.reason}, status=error.status, headers=allowed)
        except web.HTTPException as error:
            return _json({"detail": error.reason}, status=error.status)

    # ------------------------------------------------------------------ plain endpoints

    async def health(self, _: web.Request) -> web.Response:
        await asyncio.sleep(self.behaviour.health_delay)
        if self.died_at is not None and time.monotonic() - self.died_at >= self.behaviour.unnoticed_death:
            return web.Response(status=503)
        return web.Response(status=self.behaviour.health_status)

    async def load(self, _: web.Request) -> web.Response:
        return _json({"server_load": self._load if self.options.tracks_load else 0})

    async def show_metrics(self, _: web.Request) -> web.Response:
        self._set_gauges()
        text = self.metrics.render()
        return web.Response(body=text.encode(), headers={"Content-Type": "text/plain; version=1.0.0; charset=utf-8"})

    async def models(self, _: web.Request) -> web.Response:
        created, root, length = int(time.time()), self.options.model, self.options.max_model_len
        cards = [payloads.model_card(name, created, root, None, length) for name in self.options.served_names]
        parent = self.options.served_names[0]
        cards += [payloads.model_card(name, created, path, parent, None) for name, path in self.adapters.loaded.items()]
        return _json({"object": "list", "data": cards})

    async def tokenize(self, request: web.Request) -> web.Response:
        body = await _body(request)
        self._model_of(body)
        tokens = payloads.encode(_prompt_text(body) if "messages" in body else str(body.get("prompt", "")))
        length = self.options.max_model_len
        return _json({"count": len(tokens), "max_model_len": length, "tokens": tokens, "token_strs": None})

    async def detokenize(self, request: web.Request) -> web.Response:
        body = await _body(request)
        self._model_of(body)
        if not isinstance(body.get("tokens"), list):
            raise invalid("missing", "body.tokens", "Field required")
        return _json({"prompt": payloads.decode(body["tokens"])})

    # ------------------------------------------------------------------ adapters

    async def load_adapter(self, request: web.Request) -> web.Response:
        body = await _body(request)
        name, path = _field(body, "lora_name"), _field(body, "lora_path")
        await asyncio.sleep(self.behaviour.lora_load_seconds)
        self.adapters.load(name, path, in_place=bool(body.get("load_inplace")))
        return _text(f"Success: LoRA adapter '{name}' added successfully.")

    async def unload_adapter(self, request: web.Request) -> web.Response:
        name = _field(await _body(request), "lora_name")
        self.adapters.unload(name)
        return _text(f"Success: LoRA adapter '{name}' removed successfully.")

    # ------------------------------------------------------------------ sleep

    async def sleep(self, request: web.Request) -> web.Response:
        level, mode = request.query.get("level", "1"), request.query.get("mode", "abort")
        if level not in ("0", "1", "2"):
            raise invalid("less_than_equal", "query.level", "Input should be less than or equal to 2")
        await self._stop_work(mode)
        self._sleep_level, self._woken = int(level), set()
        self.metrics.observe("vllm:sleep_mode_operation_duration_seconds", 0.001, operation="sleep")
        self.metrics.set("vllm:sleep_mode_operations_in_flight", 0.0, operation="sleep")
        return _json({"status": "sleeping", "level": int(level)})

    async def wake_up(self, request: web.Request) -> web.Response:
        tags = request.query.getall("tags", [])
        self._woken |= set(tags) or {"weights", "kv_cache"}
        if self._sleep_level is not None and {"weights", "kv_cache"} <= self._woken:
            self._sleep_level = None
            self._go_on()
        self.metrics.observe("vllm:sleep_mode_operation_duration_seconds", 0.001, operation="wake")
        self.metrics.set("vllm:sleep_mode_operations_in_flight", 0.0, operation="wake")
        status = "awake" if self._sleep_level is None else "sleeping"
        return _json({"status": status, "tags": tags or None})

    async def is_sleeping(self, _: web.Request) -> web.Response:
        return _json({"is_sleeping": self._sleep_level is not None})

    async def pause(self, request: web.Request) -> web.Response:
        await self._stop_work(request.query.get("mode", "abort"))
        return _json({"status": "paused"})

    async def resume(self, _: web.Request) -> web.Response:
        if self._sleep_level is None:
            self._go_on()
        return _json({"status": "resumed"})

    async def is_paused(self, _: web.Request) -> web.Response:
        return _json({"is_paused": self.engine.is_paused})

    async def _stop_work(self, mode: str) -> None:
        if mode not in ("abort", "wait", "keep"):
            raise invalid("literal_error", "query.mode", "Input should be 'abort', 'wait' or 'keep'")
        if mode == "wait":
            await self._until(lambda: not self.engine.running)
        now = time.monotonic()
        if mode == "abort":
            for token in self.engine.abort_all(now):
                self._deliver(token)
        self.engine.pause(now)
        self._wake.set()

    def _go_on(self) -> None:
        self.engine.resume(time.monotonic())
        self._wake.set()

    # ------------------------------------------------------------------ completions

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        _require_messages(body)
        _refuse_empty(body)
        return await self._complete(request, body, [_prompt_text(body)], "chatcmpl", Completions())

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        prompt = body.get("prompt")
        if not prompt:
            raise bad_request(
                "Either prompt or prompt_embeds must be provided and non-empty. (parameter=prompt)", "prompt"
            )
        return await self._complete(request, body, _prompts(prompt), "cmpl", Completions())

    async def responses(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        _require(body, "input")
        self._model_of(body)
        if body.get("background"):
            raise ApiError(400, "invalid_request_error", payloads.NO_STORE, "background")
        if body.get("previous_response_id") is not None:
            raise _no_response(str(body["previous_response_id"]))
        return await self._complete(request, body, [_input_text(body)], "resp", Responses())

    async def response(self, request: web.Request) -> web.Response:
        raise _no_response(request.match_info["id"])

    async def messages(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        _require(body, "model")
        _require_messages(body)
        _require(body, "max_tokens")
        if isinstance(body["max_tokens"], int) and body["max_tokens"] < 1:
            raise invalid("value_error", "body.max_tokens", "Value error, max_tokens must be positive")
        _refuse_empty(body)
        return await self._complete(request, body, [_prompt_text(body)], "chatcmpl", Messages())

    async def count_tokens(self, request: web.Request) -> web.Response:
        body = await _body(request)
        _require(body, "model")
        _require_messages(body)
        self._model_of(body)
        count = len(payloads.encode(_prompt_text(body)))
        return _json({"input_tokens": count, "context_management": {"original_input_tokens": count}})

    async def invocations(self, request: web.Request) -> web.StreamResponse:
        body = await _body(request)
        return await (self.chat(request) if "messages" in body else self.completions(request))

    # ------------------------------------------------------------------ pooling

    async def embeddings(self, request: web.Request) -> web.Response:
        body = await _body(request)
        if "input" not in body and "messages" not in body:
            raise invalid("missing", "body.input", "Field required")
        model = self._model_of(body)
        given = body.get("input", [])
        texts = [_prompt_text(body)] if "messages" in body else _prompts(given) if given else []
        if not texts:
            raise ApiError(400, "BadRequestError", "You must pass at least one prompt")
        if body.get("dimensions") is not None:
            message = f"Model '{model}' does not support Matryoshka embeddings; dimensions must be unset"
            raise ApiError(400, "BadRequestError", message)
        tokens = await self._pool(texts)
        is_text = body.get("encoding_format") == "base64"
        return _json(embedding_answer(model, [embed(text) for text in texts], tokens, is_text=is_text))

    async def rerank(self, request: web.Request) -> web.Response:
        body = await _body(request)
        _require(body, "query")
        _require(body, "documents")
        model = self._model_of(body)
        documents = _texts(body["documents"])
        query = str(body["query"])
        tokens = await self._pool([query, *documents])
        return _json(rerank_answer(model, query, documents, tokens, top_n=int(body.get("top_n") or len(documents))))

    async def score(self, request: web.Request) -> web.Response:
        body = await _body(request)
        pairs = (("queries", "documents"), ("queries", "items"), ("data_1", "data_2"), ("text_1", "text_2"))
        keys = next((pair for pair in pairs if pair[0] in body and pair[1] in body), None)
        if keys is None:
            raise invalid("missing", "body.queries", "Field required")
        model = self._model_of(body)
        firsts, seconds = _texts(body[keys[0]]), _texts(body[keys[1]])
        if len(firsts) == 1:
            firsts = firsts * len(seconds)
        tokens = await self._pool([*firsts[:1], *seconds])
        return _json(score_answer(model, list(zip(firsts, seconds, strict=False)), tokens))

    async def _pool(self, texts: list[str]) -> int:
        """Take the time of a batch for these texts, and return how many tokens they are."""
        self._refuse_endless(max(map(len, texts)))
        lengths = [len(payloads.encode(text)) for text in texts]
        for length in lengths:
            self._refuse_long(length)
        self._refuse_if_told({})
        if self._is_full(len(texts)):
            self.metrics.add("vllm:admission_rejections_total", reason="max_num_queued_reqs")
            raise ApiError(503, "Service Unavailable", payloads.BUSY)
        arrivals: asyncio.Queue[tuple[int, Token | None]] = asyncio.Queue()
        name = secrets.token_hex(8)
        requests = [Request(f"embd-{name}-{index}", length, 1) for index, length in enumerate(lengths)]
        self._load += 1
        sequences = [self._submit(Sequence(index, each, arrivals)) for index, each in enumerate(requests)]
        try:
            for _ in sequences:
                _, token = await arrivals.get()
                if token is None:
                    raise EngineDeadError
        finally:
            self._leave(sequences, 1, 1)
        return sum(lengths)

    # ------------------------------------------------------------------ tokens

    async def _complete(
        self, http: web.Request, body: Json, prompts: list[str], kind: str, dialect: Dialect
    ) -> web.StreamResponse:
        model = self._model_of(body)
        self._refuse_endless(max(map(len, prompts)))
        lengths = [len(payloads.encode(prompt)) for prompt in prompts]
        limit, finish = self._token_limit(body, max(lengths), kind)
        count = _choices(body)
        if body.get("stream_options") and not body.get("stream"):
            message = "Stream options can only be defined when `stream=True`. (parameter=stream_options)"
            raise bad_request(message, "stream_options")
        self._refuse_if_told(body)
        if self.behaviour.garbage:
            _babble(http, b"\x00\x01 this is no HTTP\r\n\r\n")
        answer = Answer(
            id=f"{kind}-{secrets.token_hex(8)}",
            created=int(time.time()),
            model=model,
            is_chat=kind == "chatcmpl",
            prompt_tokens=sum(lengths),
            wants_logprobs=body.get("logprobs") not in (None, False),
            limit=limit,
        )
        adapter = model if model in self.adapters.loaded else None
        total = len(prompts) * count
        is_full = self._is_full(total)
        if is_full:
            self.metrics.add("vllm:admission_rejections_total", reason="max_num_queued_reqs")
            is_late = self.behaviour.late_rejection and isinstance(dialect, Completions)
            if not (is_late and body.get("stream")):
                raise ApiError(503, "Service Unavailable", payloads.BUSY)
        self._load += 1
        arrivals: asyncio.Queue[tuple[int, Token | None]] = asyncio.Queue()
        requests = [
            Request(f"{answer.id}-{index}", lengths[index // count], limit, finish, adapter) for index in range(total)
        ]
        sequences = [
            self._submit(Sequence(index, each, arrivals)) for index, each in enumerate(requests if not is_full else ())
        ]
        firsts = [payloads.following(prompt) for prompt in prompts]
        choices = [Choice(sequence.index, firsts[sequence.index // count]) for sequence in sequences]
        try:
            if body.get("stream"):
                return await self._stream(http, body, answer, sequences, choices, dialect)
            async for _ in self._tokens(http, body, sequences, choices):
                pass
            return _json(dialect.whole(answer, choices))
        finally:
            self._leave(sequences, total, limit)

    def _leave(self, sequences: list[Sequence], total: int, limit: int) -> None:
        self._load -= 1
        for sequence in sequences:
            self._settle(sequence, total, limit)
        self._wake.set()
        self._settled.set()

    async def _stream(
        self,
        http: web.Request,
        body: Json,
        answer: Answer,
        sequences: list[Sequence],
        choices: list[Choice],
        dialect: Dialect,
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        if self.options.echoes_request_id and "X-Request-Id" in http.headers:
            response.headers["X-Request-Id"] = http.headers["X-Request-Id"]
        options = body.get("stream_options") or {}
        at_end = bool(options.get("include_usage"))
        asked = UsageAsked(at_end=at_end, each=at_end and bool(options.get("continuous_usage_stats")))
        is_begun = False
        # vLLM sends the head before it schedules the request, so a queued stream looks open.
        await response.prepare(http)
        try:
            async for choice, text in self._tokens(http, body, sequences, choices):
                events = [] if is_begun else dialect.begin(answer)
                is_begun = True
                await _send(response, events + dialect.grow(answer, choice, text, asked=asked))
        except ApiError as error:
            last = dialect.fail(error)
            if last is None:
                assert http.transport is not None
                http.transport.abort()
                raise ConnectionResetError from error
        else:
            last = dialect.end(answer, choices, asked=asked)
        await _send(response, last)
        await response.write_eof()
        return response

    async def _tokens(
        self, http: web.Request, body: Json, sequences: list[Sequence], choices: list[Choice]
    ) -> AsyncIterator[tuple[Choice, str]]:
        """Yield each choice as it grows, with the text that is new."""
        if not sequences:
            raise ApiError(503, "Service Unavailable", payloads.BUSY)
        stops = _stops(body)
        unfinished = {sequence.index for sequence in sequences}
        while unfinished:
            index, token = await sequences[0].arrivals.get()
            if token is None:
                raise EngineDeadError
            if index not in unfinished:
                continue
            choice = choices[index]
            if token.is_empty:
                unfinished.discard(index)
                choice.finish = token.finish
                # A stream that had not begun ends without a word.
                if choice.tokens or not body.get("stream"):
                    yield choice, ""
                continue
            self._sabotage(http, choice.tokens)
            kept, choice.stop = _cut(choice.text, payloads.token_text(choice.first + choice.tokens), stops)
            choice.tokens += 1
            choice.text += kept
            choice.finish = Finish.STOP if choice.stop is not None else token.finish
            if choice.finish is not None:
                unfinished.discard(index)
                self.engine.finish(sequences[index].request.id, Finish(choice.finish), time.monotonic())
            yield choice, kept

    def _submit(self, sequence: Sequence) -> Sequence:
        self._sequences[sequence.request.id] = sequence
        sequence.timeline = self.engine.submit(sequence.request, time.monotonic())
        self._wake.set()
        return sequence

    def _settle(self, sequence: Sequence, n: int, limit: int) -> None:
        """Take a request out of the batch, if it is still there, and count it."""
        self._sequences.pop(sequence.request.id, None)
        self.engine.abort(sequence.request.id, time.monotonic())
        timeline = sequence.timeline
        if timeline is None:
            return
        count, observe = self.metrics.add, self.metrics.observe
        count("vllm:prompt_tokens_total", timeline.request.prompt_tokens)
        count("vllm:prompt_tokens_by_source_total", timeline.request.prompt_tokens, source="local_compute")
        count("vllm:prefix_cache_queries_total", timeline.request.prompt_tokens)
        self._count_generated(sequence, timeline)
        count("vllm:num_preemptions_total", timeline.preemptions)
        if timeline.scheduled is None or timeline.first is None or timeline.last is None:
            return
        observe("vllm:time_to_first_token_seconds", timeline.first - timeline.arrived)
        # vLLM does not count a request whose client left.
        if timeline.finished is None or timeline.finish is None:
            return
        count("vllm:request_success_total", finished_reason=str(timeline.finish))
        observe("vllm:e2e_request_latency_seconds", timeline.finished - timeline.arrived)
        observe("vllm:request_queue_time_seconds", timeline.scheduled - timeline.arrived)
        observe("vllm:request_prefill_time_seconds", timeline.first - timeline.scheduled)
        observe("vllm:request_decode_time_seconds", timeline.last - timeline.first)
        observe("vllm:request_inference_time_seconds", timeline.last - timeline.scheduled)
        observe("vllm:request_prompt_tokens", timeline.request.prompt_tokens)
        observe("vllm:request_prefill_kv_computed_tokens", timeline.request.prompt_tokens)
        observe("vllm:request_generation_tokens", timeline.generated)
        observe("vllm:request_max_num_generation_tokens", timeline.generated)
        observe("vllm:request_params_n", n)
        observe("vllm:request_params_max_tokens", limit)
        observe("vllm:request_num_preemptions", timeline.preemptions)
        if timeline.generated > 1:
            gap = (timeline.last - timeline.first) / (timeline.generated - 1)
            observe("vllm:request_time_per_output_token_seconds", gap)
            observe("vllm:inter_token_latency_seconds", gap)

    def _model_of(self, body: Json) -> str:
        name = body.get("model") or self.options.served_names[0]
        if name not in self.options.served_names and name not in self.adapters.loaded:
            aliases = ", ".join(self.options.served_names)
            message = f"The model `{name}` does not exist. Valid aliases: {aliases}."
            if self.options.is_pooling:
                raise ApiError(404, "NotFoundError", f"The model `{name}` does not exist.")
            raise ApiError(404, "NotFoundError", message, "model")
        return str(name)

    def _refuse_endless(self, characters: int) -> None:
        """Refuse what cannot fit before it is cut into tokens."""
        length = self.options.max_model_len
        most = length * _CHARACTERS_PER_TOKEN
        if characters > most:
            message = (
                f"This model's maximum context length is {length} tokens. However, your prompt contains {characters} "
                f"characters (more than {most} characters, which is the upper bound for {length} input tokens). Please "
                f"reduce the length of the input prompt. (parameter=input_text, value={characters})"
            )
            raise bad_request(message, "input_text")

    def _refuse_long(self, prompt: int) -> None:
        length = self.options.max_model_len
        if prompt > length:
            message = (
                f"This model's maximum context length is {length} tokens. However, your prompt contains at least "
                f"{prompt} input tokens, which exceeds this limit even without any output tokens. Please reduce the "
                f"length of the input prompt. (parameter=input_tokens, value={prompt})"
            )
            raise bad_request(message, "input_tokens")

    def _token_limit(self, body: Json, prompt: int, kind: str) -> tuple[int, Finish]:
        length = self.options.max_model_len
        self._refuse_long(prompt)
        given = body.get("max_completion_tokens") if kind == "chatcmpl" else None
        given = body.get("max_output_tokens" if kind == "resp" else "max_tokens") if given is None else given
        if given is None:
            return self.behaviour.default_tokens, Finish.LENGTH if kind == "cmpl" else Finish.STOP
        if not isinstance(given, int):
            raise invalid("int_parsing", "body.max_tokens", "Input should be a valid integer")
        if given < 1:
            raise bad_request(
                f"max_tokens must be at least 1, got {given}. (parameter=max_tokens, value={given})", "max_tokens"
            )
        if given > length and kind != "resp":
            message = (
                f"max_tokens={given} cannot be greater than max_model_len={length}. Please request fewer output "
                f"tokens. (parameter=max_tokens, value={given})"
            )
            raise bad_request(message, "max_tokens")
        return min(given, length - prompt) or 1, Finish.LENGTH

    def _refuse_if_told(self, body: Json) -> None:
        temperature = body.get("temperature")
        if isinstance(temperature, int | float) and temperature < 0:
            message = f"temperature must be non-negative, got {float(temperature)}."
            raise bad_request(f"{message} (parameter=temperature, value={float(temperature)})", "temperature")
        if self._lacks_member:
            self._begin_death()
        if self.died_at is not None or self._lacks_member:
            raise EngineDeadError
        if self.draining:
            raise ApiError(500, "InternalServerError", payloads.SHUTTING_DOWN)
        if self._failures < self.behaviour.fail_requests:
            self._failures += 1
            raise ApiError(self.behaviour.fail_status, "InternalServerError", "Internal server error")

    def _is_full(self, count: int) -> bool:
        bound = self.options.max_num_queued_reqs
        return bound is not None and len(self._sequences) + count > bound

    def _sabotage(self, http: web.Request, tokens: int) -> None:
        if tokens == self.behaviour.error_after_tokens:
            raise ApiError(500, "InternalServerError", "Internal server error")
        if tokens == self.behaviour.drop_after_tokens and http.transport is not None:
            http.transport.abort()
            raise ConnectionResetError
        if tokens == self.behaviour.torn_after_tokens:
            _babble(http, b"100\r\ndata: {")

    # ------------------------------------------------------------------ the simulator's own

    async def state(self, _: web.Request) -> web.Response:
        gauges = self.engine.gauges()
        return _json(
            {
                "behaviour": asdict(self.behaviour),
                "pid": os.getpid(),
                "draining": self.draining,
                "paused": self.engine.is_paused,
                "sleep_level": self._sleep_level,
                "dead": self.died_at is not None,
                "unfinished": self.engine.unfinished,
                "running": gauges.running,
                "waiting": gauges.waiting,
                "adapters": self.adapters.loaded,
            }
        )

    async def configure(self, request: web.Request) -> web.Response:
        """Change the behaviour; a field that is left out stays as it is."""
        changes = await _body(request)
        known: dict[str, Any] = {name: getattr(self.behaviour, name) for name in Behaviour.__dataclass_fields__}
        unknown = changes.keys() - known
        if unknown:
            raise bad_request(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(known)}")
        typed = {name: type(known[name])(value) for name, value in changes.items()}
        self.behaviour = replace(self.behaviour, **typed)
        self._failures = 0
        self.engine.speed = speed_of(self.behaviour, self.options.max_num_seqs)
        self._wake.set()
        return _json(asdict(self.behaviour))

    async def die(self, _: web.Request) -> web.Response:
        """Lose the engine core, as when a worker is killed; the process follows, with exit code 0."""
        self._begin_death()
        return _json({"dead": True})

    # ------------------------------------------------------------------ metrics

    def _count_generated(self, sequence: Sequence, timeline: Timeline) -> None:
        """Count what is written as it is written: vLLM does so with each step."""
        self.metrics.add("vllm:generation_tokens_total", timeline.generated - sequence.counted)
        sequence.counted = timeline.generated

    def _set_gauges(self) -> None:
        for sequence in self._sequences.values():
            if sequence.timeline is not None:
                self._count_generated(sequence, sequence.timeline)
        gauges = self.engine.gauges()
        show = self.metrics.set
        show("vllm:num_requests_running", gauges.running)
        show("vllm:num_requests_waiting", gauges.waiting)
        show("vllm:num_requests_waiting_by_reason", gauges.waiting, reason="capacity")
        show("vllm:kv_cache_usage_perc", gauges.kv_usage)
        show("vllm:engine_sleep_state", float(self._sleep_level is None), sleep_state="awake")
        for level, reason in enumerate(_REASONS, start=1):
            show("vllm:engine_sleep_state", float(self._sleep_level == level), sleep_state=reason)
        if self.options.enable_lora:
            # vLLM writes the time, and the names of the running adapters in both places.
            running = ",".join(gauges.running_adapters)
            labels = {"running_lora_adapters": running, "waiting_lora_adapters": running}
            show("vllm:lora_requests_info", time.time(), max_lora=str(self.options.max_loras), **labels)

    def _count_http(self, request: web.Request, response: web.StreamResponse, seconds: float) -> None:
        handler = getattr(request.match_info.route.resource, "canonical", "none")
        if handler in ("/metrics", "/health", "/load", "/ping", "/version") or handler.startswith("/sim/"):
            return
        count, observe = self.metrics.add, self.metrics.observe
        status = f"{response.status // 100}xx"
        count("http_requests_total", handler=handler, method=request.method, status=status)
        observe("http_request_size_bytes", request.content_length or 0, handler=handler)
        observe("http_response_size_bytes", response.content_length or 0, handler=handler)
        observe("http_request_duration_highr_seconds", seconds)
        observe("http_request_duration_seconds", seconds, handler=handler, method=request.method)


async def serve(options: Options) -> int:
    """Run until SIGTERM or the death of the engine core; nothing listens before the set-up time is over.

    Return the exit code, which is 0 after a death too, as vLLM's is.
    """
    server = Server(options, time.time())
    loop = asyncio.get_running_loop()
    terminated = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, terminated.set)
    loop.add_signal_handler(signal.SIGINT, terminated.set)
    async with AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        term = group.create_task(terminated.wait())
        stop = group.create_task(server.stopped.wait())
        driver = group.create_task(server.drive())
        with suppress(TimeoutError):
            async with asyncio.timeout(options.startup):
                await terminated.wait()
        server.eat()
        code = 0 if terminated.is_set() else _start_failure(options)
        if not terminated.is_set() and code == 0:
            whole = group.create_task(_enter_group(stack, server))
            await asyncio.wait({term, whole}, return_when=asyncio.FIRST_COMPLETED)
            if not whole.done():
                whole.cancel()
            elif not whole.result():
                code = 1
            elif options.place.headless:
                await terminated.wait()
            else:
                await _listen(server, {term, stop})
        for task in (term, stop, driver):
            task.cancel()
    return code


async def _enter_group(stack: AsyncExitStack, server: Server) -> bool:
    """Take the place in the group that the command line gives, if it gives one; tell whether the group came together."""
    place = server.options.place
    try:
        if place.headless:
            await stack.enter_async_context(joining(place))
        elif place.nodes > 1:
            await stack.enter_async_context(leading(place, server.lose_member))
    except OSError as error:
        _log.error("the group did not come together: %s", error)
        return False
    return True


async def _listen(server: Server, ends: set[asyncio.Task[Any]]) -> None:
    """Serve until one of these tasks ends; then as long as vLLM would."""
    options = server.options
    runner = web.AppRunner(server.app(), **_RUNNER)
    await runner.setup()
    site = web.TCPSite(runner, options.host, options.port)
    await site.start()
    _log.info("serving %s on port %d", options.served_names[0], options.port)
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    if not server.stopped.is_set():
        await server.drain()
    await site.stop()
    await server.wait_for_clients()
    await runner.cleanup()


def _start_failure(options: Options) -> int:
    """Return the exit code of a start that fails; 0 for one that does not."""
    if options.exit_after_startup is not None:
        _log.error("told to end with %d", options.exit_after_startup)
        return options.exit_after_startup
    missing = missing_model(options)
    if missing is not None:
        _log.error("%s", missing)
        return 1
    return 0


def _babble(http: web.Request, last: bytes) -> NoReturn:
    """Say what no client expects, and hang up."""
    if http.transport is not None:
        http.transport.write(last)
        http.transport.close()
    raise ConnectionResetError


def _constant(body: Json) -> _Handler:
    async def handler(_: web.Request) -> web.Response:
        return _json(body)

    return handler


async def _body(request: web.Request) -> Json:
    if request.content_type != "application/json":
        message = "1 validation error:\n  Unsupported Media Type: Only 'application/json' is allowed"
        raise ApiError(400, "Bad Request", message)
    try:
        body = json.loads(await request.read())
    except ValueError as error:
        at = error.pos if isinstance(error, json.JSONDecodeError) else 0
        raise invalid("json_invalid", f"body.{at}", "JSON decode error") from None
    if not isinstance(body, dict):
        raise invalid("model_attributes_type", "body", "Input should be a valid dictionary or object")
    return body


def _field(body: Json, name: str) -> str:
    _require(body, name)
    return str(body[name])


def _in_words_of(path: str, error: ApiError) -> Json:
    """Write an error as a path's clients read it; what FastAPI refuses has one shape for all."""
    kind = error.body["error"]["type"]
    if not path.startswith("/v1/messages") or kind == "Bad Request":
        return error.body
    return {"type": "error", "error": {"type": kind, "message": error.body["error"]["message"]}}


def _no_response(name: str) -> ApiError:
    return ApiError(404, "invalid_request_error", f"Response with id '{name}' not found.", "response_id")


def _require(body: Json, name: str) -> None:
    if name not in body:
        raise invalid("missing", f"body.{name}", "Field required")


def _require_messages(body: Json) -> None:
    _require(body, "messages")
    if not isinstance(body["messages"], list):
        raise invalid("list_type", "body.messages", "Input should be a valid list")


def _refuse_empty(body: Json) -> None:
    if not body["messages"]:
        raise bad_request("Cannot apply chat template to an empty conversation. Provide at least one message.", None)


def _input_text(body: Json) -> str:
    """Write the input of a response as a conversation; an item that is no message counts for nothing."""
    given = body["input"]
    items = [{"role": "user", "content": given}] if isinstance(given, str) else given
    return _prompt_text({"messages": items})


def _texts(given: Any) -> list[str]:
    return [str(each) for each in given] if isinstance(given, list) else [str(given)]


def _prompt_text(body: Json) -> str:
    """Write a conversation as a template would; a message's parts other than text count for nothing."""
    parts = []
    for message in body["messages"]:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            content = " ".join(str(part.get("text", "")) for part in content if isinstance(part, dict))
        role = message.get("role", "user") if isinstance(message, dict) else "user"
        parts.append(f"<{role}>{content or ''}")
    return "".join(parts) + ("" if body.get("continue_final_message") else "<assistant>")


def _prompts(prompt: str | list[Any]) -> list[str]:
    if isinstance(prompt, str):
        return [prompt]
    if all(isinstance(each, str) for each in prompt):
        return list(prompt)
    # Tokens: four letters of text stand for each, so that they count as many.
    batches = prompt if all(isinstance(each, list) for each in prompt) else [prompt]
    return ["....".join([""] * (len(batch) + 1)) for batch in batches]


def _choices(body: Json) -> int:
    n = body.get("n", 1)
    if not isinstance(n, int) or n < 1:
        raise bad_request(f"n must be at least 1, got {n}.")
    return min(n, _MAX_CHOICES)


def _stops(body: Json) -> list[str]:
    stop = body.get("stop") or []
    return [stop] if isinstance(stop, str) else [str(each) for each in stop]


def _cut(before: str, text: str, stops: list[str]) -> tuple[str, str | None]:
    """Cut new text where the first stop string begins; what was sent before stays sent."""
    whole = before + text
    found = [(whole.find(stop, max(0, len(before) - len(stop))), stop) for stop in stops if stop]
    hits = [(at, stop) for at, stop in found if at >= 0]
    if not hits:
        return text, None
    at, stop = min(hits)
    return whole[len(before) : max(at, len(before))], stop


def _json(body: Json, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """Answer with compact JSON, as vLLM's is."""
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()
    return web.Response(body=content, status=status, headers={**(headers or {}), "Content-Type": "application/json"})


def _text(text: str) -> web.Response:
    """Answer with text and, in the end, no content type, as vLLM's adapter endpoints do."""
    return web.Response(body=text.encode(), content_type=_NO_TYPE)


async def _drop_no_type(_: web.Request, response: web.StreamResponse) -> None:
    if response.content_type == _NO_TYPE:
        del response.headers["Content-Type"]


async def _send(response: web.StreamResponse, events: list[bytes]) -> None:
    for event in events:
        await response.write(event)
