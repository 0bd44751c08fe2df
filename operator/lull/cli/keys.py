"""`lull keys create|list|revoke`: the keys of clients, in the Secret that the gateways watch."""

from __future__ import annotations

import base64
import json
import re
import secrets
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from lull.api import names
from lull.api.keys import KeyEntry
from lull.api.llmdeployment import render_validation_error
from lull.api.quantities import parse_duration
from lull.cli.cluster import Unreachable, ask, complain
from lull.cli.yamls import render_yaml
from lull.core.keys import InvalidKey, digest_of, is_key_id, make_token, parse_entry, render_entry
from lull.doors import clock
from lull.doors.kube import SECRETS, Conflict
from lull.gateway.keystore import decode

if TYPE_CHECKING:
    from collections.abc import Callable

    from lull.api.llmdeployment import Manifest
    from lull.doors.kube import Kube

_TRIES: Final = 10
"""Writes by others that one change gives way to."""
_DAYS: Final = re.compile(r"([0-9]{1,5})d")
_DAY: Final = 86_400.0
_LATE: Final = datetime.max.replace(tzinfo=UTC)

Data = dict[str, str]


@dataclass(frozen=True, slots=True)
class Place:
    """Which Secret, and where."""

    namespace: str
    secret: str
    context: str | None

    def __str__(self) -> str:
        return f"Secret {self.namespace}/{self.secret}"


def create(place: Place, id_: str, fields: dict[str, Any], *, expires: str | None, only_print: bool) -> int:
    """Make a key, store what is needed to know it again, and print it this once."""
    token = make_token(id_, secrets.choice)
    try:
        if not is_key_id(id_):
            raise InvalidKey(f"{id_!r} is no id: lower-case letters, digits, hyphens and dots, at most 63")
        now = datetime.fromtimestamp(clock.wall(), UTC).replace(microsecond=0)
        entry = _build(token, fields, created=now, expires=_parse_expiry(expires, now))
    except ValueError as error:
        return complain("keys create", error)
    if only_print:
        print(render_yaml([{id_: json.loads(render_entry(entry))}]), end="")
        print(f"The key, which is shown this once: {token}", file=sys.stderr)
        return 0

    def add(data: Data) -> None:
        if id_ in data:
            raise InvalidKey(f"there is a key {id_} already: revoke it first, or take another id")
        data[id_] = base64.b64encode(render_entry(entry).encode()).decode()

    try:
        _change(place, add)
    except (Unreachable, InvalidKey) as error:
        return complain("keys create", error)
    print(f"Stored as {id_} in {place}. The key is shown this once:", file=sys.stderr)
    print(token)
    return 0


def list_all(place: Place, *, output: str) -> int:
    """Print what each key may do; the keys themselves are nowhere."""

    async def look(kube: Kube) -> Manifest | None:
        return await kube.get(SECRETS, place.namespace, place.secret)

    try:
        secret = ask(look, context=place.context)
    except Unreachable as error:
        return complain("keys list", error)
    entries: dict[str, KeyEntry] = {}
    wrong: dict[str, str] = {}
    for id_, content in sorted(decode((secret or {}).get("data") or {}).items()):
        try:
            entries[id_] = parse_entry(id_, content)
        except InvalidKey as error:
            wrong[id_] = str(error)
    if output == "json":
        print(json.dumps([_to_json(id_, entry) for id_, entry in entries.items()], indent=2))
    elif not entries:
        print(f"There is no key in {place}.")
    else:
        Console(soft_wrap=True, highlight=False).print(_render(entries, datetime.fromtimestamp(clock.wall(), UTC)))
    for why in wrong.values():
        print(f"lull keys list: not readable: {why}", file=sys.stderr)
    return 1 if wrong else 0


def revoke(place: Place, ids: list[str]) -> int:
    """Remove keys; gateways that reach the API server no longer know them a moment later."""

    def remove(data: Data) -> None:
        if missing := [id_ for id_ in ids if id_ not in data]:
            raise InvalidKey(f"there is no key {', '.join(missing)} in {place}")
        for id_ in ids:
            del data[id_]

    try:
        _change(place, remove)
    except (Unreachable, InvalidKey) as error:
        return complain("keys revoke", error)
    print(f"Revoked {', '.join(ids)}.")
    return 0


def _build(token: str, fields: dict[str, Any], **times: datetime | None) -> KeyEntry:
    try:
        return KeyEntry.model_validate({"sha256": digest_of(token), **fields, **times})
    except ValidationError as error:
        raise InvalidKey(render_validation_error(error, root="key")) from None


def _parse_expiry(text: str | None, now: datetime) -> datetime | None:
    if text is None:
        return None
    try:
        if (days := _DAYS.fullmatch(text)) is not None:
            return datetime.fromtimestamp(now.timestamp() + int(days[1]) * _DAY, UTC)
        at = datetime.fromisoformat(text) if "-" in text else None
        if at is None:
            return datetime.fromtimestamp(now.timestamp() + parse_duration(text), UTC)
    except (ValueError, OverflowError):
        raise InvalidKey(f"--expires {text}: write for example 90d, 12h, 2027-01-31 or 2027-01-31T12:00:00Z") from None
    at = at if at.tzinfo is not None else at.replace(tzinfo=UTC)
    if at <= now:
        raise InvalidKey(f"--expires {text} is in the past")
    return at


def _change(place: Place, edit: Callable[[Data], None]) -> None:
    """Change the Secret as it is at that moment: where somebody else wrote in between, once more from what they wrote."""

    async def work(kube: Kube) -> None:
        for attempt in range(1, _TRIES + 1):
            secret = await kube.get(SECRETS, place.namespace, place.secret)
            data = dict((secret or {}).get("data") or {})
            edit(data)
            try:
                if secret is None:
                    await kube.create(_build_secret(place, data))
                else:
                    await kube.replace({**secret, "data": data})
            except Conflict:
                if attempt == _TRIES:
                    raise
            else:
                return

    ask(work, context=place.context)


def _build_secret(place: Place, data: Data) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {
            "namespace": place.namespace,
            "name": place.secret,
            "labels": {names.LABEL_APP: names.APP_LULL, names.LABEL_COMPONENT: "gateway"},
        },
        "type": "Opaque",
        "data": data,
    }


def _to_json(id_: str, entry: KeyEntry) -> dict[str, Any]:
    shown: dict[str, Any] = {"id": id_, **entry.model_dump(mode="json", by_alias=True, exclude={"sha256"})}
    return shown


def _render(entries: dict[str, KeyEntry], now: datetime) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in ("ID", "MODELS", "REQUESTS/MIN", "TOKENS/MIN", "TOKENS/DAY", "PRIORITY", "CREATED", "EXPIRES", "NOTE"):
        table.add_column(name)
    for id_, entry in entries.items():
        is_over = (entry.expires or _LATE) <= now
        table.add_row(
            id_,
            ", ".join(entry.models) or "all",
            *(_number(one) for one in (entry.requests_per_minute, entry.tokens_per_minute, entry.tokens_per_day)),
            str(entry.priority),
            _date(entry.created),
            f"{_date(entry.expires)}{' (over)' if is_over else ''}",
            entry.note,
            style="dim" if is_over else "",
        )
    return table


def _number(limit: int | None) -> str:
    return "-" if limit is None else f"{limit}"


def _date(at: datetime | None) -> str:
    return "-" if at is None else at.astimezone(UTC).strftime("%Y-%m-%d %H:%M")
