"""Who asks, what they may use, and how much of it: the steps that deal with keys."""

from __future__ import annotations

from math import ceil
from typing import TYPE_CHECKING, Final

from lull.core.keys import PREFIX, Keyring
from lull.core.limits import Grant, Shortage, Unit
from lull.doors import clock
from lull.doors.valkey import Taken, Unavailable
from lull.gateway.exchange import Defer
from lull.wire.openai import Refusal, unavailable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lull.core.keys import ApiKey
    from lull.doors.valkey import Tally
    from lull.gateway.exchange import Exchange, Gateway

RETRY_AFTER_UNREAD: Final = 1.0

_KEY_HEADERS: Final = (b"authorization", b"x-api-key")
_PREFIX: Final = PREFIX.encode()


def authenticate(gateway: Gateway, exchange: Exchange) -> None:
    """Find the key of a request, and refuse those that need one and have none."""
    exchange.key = identify(gateway, exchange)


def identify(gateway: Gateway, exchange: Exchange) -> ApiKey | None:
    """The key, or None for anybody else, where those are let in."""
    keyring = gateway.keyring
    given = []
    for name, value in exchange.headers:
        if name in _KEY_HEADERS:
            if (key := keyring.find(value, now=clock.wall())) is not None:
                return key
            given.append(value)
    if not keyring.is_read and (gateway.settings.keys_required or any(_PREFIX in value for value in given)):
        raise unavailable(
            503, "The gateway has not read its keys yet.", code="not_ready", retry_after=RETRY_AFTER_UNREAD
        )
    if gateway.settings.keys_required:
        raise unauthorized()
    return None


def check_model(exchange: Exchange) -> None:
    """Refuse a model that the key may not use, whether or not there is one of that name."""
    key = exchange.key
    if key is not None and not key.allows(exchange.call.model):
        raise Refusal(
            403,
            f"This API key may not use the model `{exchange.call.model[:128]}`.",
            param="model",
            code="model_not_allowed",
        )


def list_names(key: ApiKey | None, names: Iterable[str]) -> Iterable[str]:
    """Models that whoever asks may know of."""
    return names if key is None else key.filter(names)


def charge(gateway: Gateway, exchange: Exchange) -> None:
    """Set aside what the request is expected to use of its key's limits, or say when there will be enough."""
    key = exchange.key
    if key is None or not key.is_limited:
        return
    tokens = estimate_tokens(exchange)
    tally = gateway.tally
    if tally is not None and tally.is_available:
        raise Defer(_charge_shared(gateway, exchange, key, tally, tokens=tokens))
    _charge_alone(gateway, exchange, key, tokens=tokens)


def settle(gateway: Gateway, exchange: Exchange) -> None:
    """Charge what the request used instead of what was set aside."""
    grant = exchange.grant
    if grant is not None:
        exchange.grant = None
        _settle(gateway, grant, tokens=count_tokens(exchange, grant))


def replace_keys(gateway: Gateway, keyring: Keyring) -> None:
    """Other keys count from here on."""
    gateway.keyring = keyring
    gateway.ledger.keep(keyring.ids)
    gateway.counts.keep_keys(keyring.ids)


def estimate_tokens(exchange: Exchange) -> int:
    """What a request will use: its prompt, and as much as it allows the answer to be."""
    work, most = exchange.work, exchange.call.max_tokens
    return work.prompt_tokens + (work.output_tokens if most is None or not work.output_tokens else most)


def count_tokens(exchange: Exchange, grant: Grant) -> int:
    """What a request has used.

    The engine's own count, where it came. A request that no engine had costs none, and so does one that came back
    with an error. A stream that broke off or was left costs its prompt and a token for each event. What remains is
    charged as estimated, as nobody can say how far it came: leaving early is no way around a limit.
    """
    if not exchange.tries:
        return 0
    if exchange.usage is not None:
        return exchange.usage.prompt_tokens + exchange.usage.completion_tokens
    if exchange.events:
        return exchange.work.prompt_tokens + exchange.events
    is_cut_short = exchange.client_left and exchange.begun_at is None
    if is_cut_short and exchange.call.stream:
        return exchange.work.prompt_tokens
    is_generated = exchange.reply.status == 200 and exchange.work.output_tokens > 0
    return grant.tokens_charged if is_cut_short or is_generated else 0


def unauthorized() -> Refusal:
    """The same for no key, an unknown one, one that was revoked and one that has expired."""
    return Refusal(
        401,
        "Incorrect API key provided. Send a valid key as `Authorization: Bearer KEY`.",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def too_much(key: ApiKey, shortage: Shortage) -> Refusal:
    """429, as OpenAI's clients understand it."""
    per = "24 hours" if shortage.unit is Unit.TOKENS_A_DAY else "minute"
    unit = "requests" if shortage.unit is Unit.REQUESTS else "tokens"
    wait = max(1, ceil(shortage.wait_seconds))
    headers = dict(shortage.headers)
    used = f"limit {shortage.limit} per {per}, used {shortage.used}, asked for {shortage.asked}"
    if shortage.is_hopeless:
        # No time-out helps, so no client is told one.
        return Refusal(
            429,
            f"Request too large for key `{key.id}` on {unit}: {used}. Send a shorter prompt, or a lower max_tokens.",
            kind=unit,
            code="rate_limit_exceeded",
            headers={**headers, "x-should-retry": "false"},
        )
    is_quota = shortage.unit is Unit.TOKENS_A_DAY
    return Refusal(
        429,
        f"{'Quota used up' if is_quota else 'Rate limit reached'} for key `{key.id}` on {unit}: {used}. "
        f"Try again in {wait} s.",
        kind="insufficient_quota" if is_quota else unit,
        code="insufficient_quota" if is_quota else "rate_limit_exceeded",
        headers={
            **headers,
            "Retry-After": str(wait),
            "retry-after-ms": str(ceil(shortage.wait_seconds * 1000)),
            # Else its client would try again at once, several times, for what may take hours.
            **({"x-should-retry": "false"} if is_quota else {}),
        },
    )


def _charge_alone(gateway: Gateway, exchange: Exchange, key: ApiKey, *, tokens: int) -> None:
    now = clock.monotonic()
    granted = gateway.ledger.charge(key, tokens=tokens, now=now)
    if isinstance(granted, Shortage):
        gateway.counts.count_limited(key.id, granted.unit.value)
        raise too_much(key, granted)
    exchange.grant = granted
    exchange.answer_headers += gateway.ledger.headers(key, now=now)


async def _charge_shared(gateway: Gateway, exchange: Exchange, key: ApiKey, tally: Tally, *, tokens: int) -> None:
    try:
        answer = await tally.charge(key, tokens=tokens)
    except Unavailable:
        if not exchange.is_over:
            _charge_alone(gateway, exchange, key, tokens=tokens)
        return
    if isinstance(answer, Shortage):
        gateway.counts.count_limited(key.id, answer.unit.value)
        raise too_much(key, answer)
    # Counted here as well: alone, this gateway goes on from what it let go itself.
    grant = gateway.ledger.record(key, tokens=tokens, now=clock.monotonic())
    grant.shared = answer
    if exchange.is_over:
        _settle(gateway, grant, tokens=0)
        return
    exchange.grant = grant
    exchange.answer_headers += answer.headers


def _settle(gateway: Gateway, grant: Grant, *, tokens: int) -> None:
    change = gateway.ledger.settle(grant, tokens=tokens, now=clock.monotonic())
    if gateway.tally is not None and isinstance(grant.shared, Taken):
        gateway.tally.settle(grant.account.key, grant.shared, change=change)
