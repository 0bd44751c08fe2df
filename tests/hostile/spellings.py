"""Ways to ask an engine for what no client may ask it for: paths, targets, hosts, headers, and requests in requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

ADMIN_PATHS: Final = (
    *("/sleep", "/wake_up", "/is_sleeping", "/pause", "/resume", "/is_paused", "/abort_requests", "/shutdown"),
    *("/reset_prefix_cache", "/reset_mm_cache", "/reset_encoder_cache", "/collective_rpc", "/server_info"),
    *("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/adapters", "/metrics", "/load", "/version", "/health"),
    *("/ping", "/invocations", "/inference/v1/generate", "/update_weights", "/init_weight_transfer_engine"),
    *("/scale_elastic_ep", "/is_scaling_elastic_ep", "/start_profile", "/stop_profile", "/docs", "/openapi.json"),
    *("/detokenize", "/tokenizer_info", "/kv_event_sources", "/sim/config"),
)
"""What vLLM answers at, in development mode too, and none of which the gateway passes on."""

_GOOD: Final = b"/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Attempt:
    """Bytes that a client sends; `enters` where an allowed request is among them, which may be answered with 200."""

    name: str
    request: bytes
    enters: bool = False


def attempts(model: str) -> list[Attempt]:
    """Every one of them, each name once."""
    found = [*_paths(), *_targets(), *_methods(), *_hosts(model), *_overrides(model), *_versions(), *_smuggling(model)]
    found += [*_injections(model)]
    assert len({attempt.name for attempt in found}) == len(found)
    return found


def post(body: bytes, *fields: bytes, target: bytes = _GOOD, host: bytes = b"gateway") -> bytes:
    """An allowed request, with more header fields and another target where they are given."""
    lines = (b"POST " + target + b" HTTP/1.1", b"Host: " + host, b"Content-Type: application/json")
    return b"\r\n".join((*lines, b"Content-Length: %d" % len(body), *fields, b"", body))


def chat(model: str) -> bytes:
    return b'{"model":"%s","messages":[{"role":"user","content":"hi"}],"max_tokens":1}' % model.encode()


def _request(method: bytes, target: bytes, version: bytes = b"HTTP/1.1") -> bytes:
    length = b"" if method in {b"GET", b"HEAD"} else b"Content-Length: 2\r\n"
    length += b"Connection: close\r\n"
    body = b"{}" if b"Content" in length else b""
    return method + b" " + target + b" " + version + b"\r\nHost: gateway\r\n" + length + b"\r\n" + body


def _encode(path: bytes) -> bytes:
    return b"".join(b"%%%02x" % byte for byte in path)


def _spell(path: bytes) -> Iterator[tuple[str, bytes]]:
    name = path[1:]
    yield "plain", path
    yield "slash doubled", b"/" + path
    yield "slash tripled", b"//" + path
    yield "slash behind", path + b"/"
    yield "dot segment", b"/." + path
    yield "up from v1", b"/v1/.." + path
    yield "up from an allowed path", _GOOD + b"/../../.." + path
    yield "up, encoded", _GOOD + b"%2f..%2f..%2f.." + path
    yield "up, encoded dots", _GOOD + b"/%2e%2e/%2e%2e/%2e%2e" + path
    yield "up by backslashes", _GOOD + b"\\..\\..\\.." + path.replace(b"/", b"\\")
    yield "up behind a parameter", _GOOD + b";/../../.." + path
    yield "up with an encoded slash", b"/v1/..%2f" + name
    yield "backslash", b"\\" + name
    yield "slash and backslash", b"/\\" + name
    yield "slash encoded", b"%2f" + name
    yield "slash encoded behind a slash", b"/%2f" + name
    yield "first letter encoded", b"/" + _encode(name[:1]) + name[1:]
    yield "all encoded", b"/" + _encode(name)
    yield "all encoded twice", b"/" + _encode(name).replace(b"%", b"%25")
    yield "upper case", path.upper()
    yield "upper case at the start", b"/" + name[:1].upper() + name[1:]
    yield "dot behind", path + b"."
    yield "semicolon behind", path + b";"
    yield "parameter behind", path + b";a=b"
    yield "query behind", path + b"?" + _GOOD
    yield "empty query", path + b"?"
    yield "fragment", path + b"#" + _GOOD
    yield "allowed, then a fragment", _GOOD + b"#" + path
    yield "allowed, then the path", _GOOD + path
    yield "zero byte encoded", path + b"%00"
    yield "line end encoded", path + b"%0d%0a"
    yield "space encoded", path + b"%20"
    yield "tab encoded", b"/%09" + name
    yield "overlong slash", b"/%c0%af" + name
    yield "overlong dots", b"/v1/%c0%ae%c0%ae" + path
    yield "wide slash", b"/%ef%bc%8f" + name
    yield "absolute", b"http://gateway" + path
    yield "absolute, engine's address", b"http://127.0.0.1:8000" + path
    yield "absolute, user", b"http://gateway@127.0.0.1" + path
    yield "absolute, https", b"https://gateway" + path
    yield "absolute, empty host", b"http://" + path
    yield "scheme-relative", b"//gateway" + path
    yield "no slash", name
    yield "star before", b"*" + path


def _paths() -> Iterator[Attempt]:
    for path in ADMIN_PATHS:
        for spelling, target in _spell(path.encode()):
            for method in (b"GET", b"POST"):
                yield Attempt(f"{method.decode()} {path}: {spelling}", _request(method, target))


def _targets() -> Iterator[Attempt]:
    """Targets with bytes that no target may have, and those that are no path."""
    raw: dict[str, bytes] = {
        "zero byte": b"/sleep\x00" + _GOOD,
        "zero byte behind an allowed path": _GOOD + b"\x00/../../../sleep",
        "tab": b"/sleep\t" + _GOOD,
        "tab before": b"\t/sleep",
        "vertical tab": b"/\x0bsleep",
        "form feed": b"/\x0csleep",
        "delete": b"/\x7fsleep",
        "overlong, raw": b"/\xc0\xafsleep",
        "not UTF-8": b"/sleep\xff",
        "no-break space": b"/sleep\xc2\xa0" + _GOOD,
        "carriage return": b"/sleep\r" + _GOOD,
        "line feed": _GOOD + b"\n/sleep",
        "two targets": _GOOD + b" /sleep",
        "two targets, turned": b"/sleep " + _GOOD,
        "version in the target": b"/sleep HTTP/1.1\r\nHost: gateway\r\nX: " + _GOOD,
        "authority": b"127.0.0.1:8000",
        "asterisk": b"*",
        "empty": b"",
        "question mark": b"?/sleep",
        "hash": b"#/sleep",
        "quotes": b'"/sleep"',
        "brackets": b"/[sleep]",
        "dots": b"/..",
        "percent alone": b"/%sleep",
        "percent cut": b"/slee%7",
        "unicode escape": b"/%u0073leep",
    }
    for name, target in raw.items():
        for method in (b"GET", b"POST", b"OPTIONS"):
            yield Attempt(f"{method.decode()} target: {name}", _request(method, target))


def _methods() -> Iterator[Attempt]:
    methods = (
        *(b"HEAD", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"CONNECT", b"PROPFIND", b"PURGE", b"QUERY"),
        *(b"get", b"post", b"Post", b"FOO", b"P\x00ST", b"PO ST", b"POST\t", b"\x00POST", b"M-SEARCH", b"PRI"),
        *(b"DESCRIBE", b"SOURCE", b"GET,POST", b"", b"A" * 300),
    )
    for method in methods:
        for target in (b"/sleep", b"/collective_rpc", b"/v1/load_lora_adapter"):
            yield Attempt(f"method {method[:12]!r} {target.decode()}", _request(method, target))
    for target in (b"127.0.0.1:8000", b"gateway:80", b"/sleep"):
        tunnel = b"CONNECT " + target + b" HTTP/1.1\r\nHost: gateway\r\n\r\n" + _request(b"POST", b"/sleep")
        yield Attempt(f"tunnel to {target.decode()}", tunnel)


def _hosts(model: str) -> Iterator[Attempt]:
    """Hosts that make a framework see another path than was sent (CVE-2026-48710 and its kin)."""
    hosts: dict[str, bytes] = {
        "path": b"gateway/sleep",
        "path and query": b"gateway/sleep?x=",
        "path and fragment": b"gateway/sleep#",
        "query": b"gateway?x=/sleep",
        "fragment": b"gateway#/sleep",
        "backslash": b"gateway\\sleep",
        "user": b"user@gateway",
        "user and password": b"a:b@gateway/sleep?",
        "port": b"gateway:8000",
        "port and path": b"gateway:80/sleep",
        "port no number": b"gateway:sleep",
        "port too large": b"gateway:99999999",
        "port empty": b"gateway:",
        "two ports": b"gateway:80:80",
        "bracket open": b"[::1",
        "bracket closed": b"::1]",
        "address": b"[::1]:8000",
        "percent": b"%2fsleep",
        "scheme": b"http://gateway/sleep",
        "space": b"gateway /sleep",
        "comma": b"gateway, /sleep",
        "tab": b"gateway\t/sleep",
        "empty": b"",
        "slash": b"/",
        "dot": b".",
        "not ASCII": b"gatew\xc3\xa4y",
        "engine": b"127.0.0.1:8000",
        "metadata": b"169.254.169.254",
        "long": b"a" * 4000,
        "angle": b"<gateway>",
    }
    body = chat(model)
    for name, host in hosts.items():
        yield Attempt(f"host {name}, admin", _request(b"POST", b"/sleep").replace(b"gateway", host))
        yield Attempt(f"host {name}", post(body, host=host), enters=True)
    yield Attempt("host twice", post(body, b"Host: gateway/sleep?"), enters=True)
    yield Attempt("host twice, equal", post(body, b"Host: gateway"), enters=True)
    yield Attempt("host missing", post(body).replace(b"Host: gateway\r\n", b""), enters=True)
    yield Attempt("host missing, admin", b"GET /sleep HTTP/1.1\r\n\r\n")


def _overrides(model: str) -> Iterator[Attempt]:
    """Header fields by which some servers take another path or method than the request line's."""
    names = (
        *(b"X-Original-URL", b"X-Rewrite-URL", b"X-Original-URI", b"X-Forwarded-Path", b"X-Forwarded-Prefix"),
        *(b"X-Forwarded-Uri", b"X-Script-Name", b"X-Override-URL", b"X-Envoy-Original-Path", b"X-Accel-Redirect"),
        *(b"X-Request-Uri", b"Request-Uri", b"Destination", b"Location", b"Content-Location", b":path"),
    )
    body = chat(model)
    for name in names:
        for path in (b"/sleep", b"/v1/unload_lora_adapter"):
            field = name + b": " + path
            yield Attempt(f"field {field.decode()}", post(body, field), enters=True)
            yield Attempt(
                f"field {field.decode()} on an unknown path",
                _request(b"POST", b"/").replace(b"Host", field + b"\r\nHost"),
            )
    for name in (b"X-HTTP-Method-Override", b"X-HTTP-Method", b"X-Method-Override", b"_method"):
        for method in (b"GET", b"DELETE", b"TRACE", b"CONNECT"):
            yield Attempt(f"{name.decode()} {method.decode()}", post(body, name + b": " + method), enters=True)
    for name in (b"X-Forwarded-Host", b"X-Forwarded-For", b"Forwarded", b"X-Real-IP", b"X-Host", b"Via"):
        yield Attempt(f"{name.decode()}", post(body, name + b": 127.0.0.1/sleep?"), enters=True)
    for query in (b"?_method=GET&path=/sleep", b"?/../../sleep", b"?x=%0d%0a", b"??", b"?", b"?a=1;b=/sleep"):
        yield Attempt(f"query {query.decode()}", post(body, target=_GOOD + query), enters=True)


def _versions() -> Iterator[Attempt]:
    versions = (b"HTTP/0.9", b"HTTP/1.2", b"HTTP/2.0", b"HTTP/2", b"HTTP/3.0", b"HTTP/1.10", b"HTTP/01.1", b"http/1.1")
    for version in (
        *versions,
        b"HTTP/1.1 ",
        b"HTTP/1,1",
        b"HTTP",
        b"ICE/1.0",
        b"RTSP/1.0",
        b"HTTP/1.1\x00",
        b"HTTP/-1",
    ):
        for method in (b"GET", b"POST"):
            yield Attempt(f"{method.decode()} version {version!r}", _request(method, b"/sleep", version))
    yield Attempt("HTTP/1.0", b"POST /sleep HTTP/1.0\r\nContent-Length: 0\r\n\r\n")
    yield Attempt("HTTP/0.9 without a version", b"GET /sleep\r\nHost: gateway\r\n\r\n")
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    yield Attempt("HTTP/2 preface", preface + _request(b"POST", b"/sleep"))
    yield Attempt("TLS hello", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\x00" * 512)
    upgrade = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n"
    h2c = b"GET /sleep HTTP/1.1\r\nHost: gateway\r\n" + upgrade + b"\r\n"
    yield Attempt("h2c", h2c + preface)
    socket = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    websocket = b"GET /v1/realtime HTTP/1.1\r\nHost: gateway\r\n" + socket + b"Sec-WebSocket-Version: 13\r\n\r\n"
    yield Attempt("websocket", websocket + _request(b"POST", b"/sleep"))


def _smuggling(model: str) -> Iterator[Attempt]:
    """A request inside another one, which only a wrong reading of the length sets free."""
    inner = b"POST /sleep HTTP/1.1\r\nHost: gateway\r\nContent-Length: 0\r\n\r\n"
    body = chat(model)
    ended = b"0\r\n\r\n" + inner
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    codings = {
        "chunked": b"Transfer-Encoding: chunked",
        "space before": b"Transfer-Encoding:  chunked",
        "tab before": b"Transfer-Encoding:\tchunked",
        "vertical tab": b"Transfer-Encoding:\x0bchunked",
        "space in the name": b"Transfer-Encoding : chunked",
        "tab in the name": b"Transfer-Encoding\t: chunked",
        "underscore": b"Transfer_Encoding: chunked",
        "space before the name": b" Transfer-Encoding: chunked",
        "folded": b"Transfer-Encoding:\r\n chunked",
        "folded by a tab": b"X: y\r\n\tTransfer-Encoding: chunked",
        "bare line feed": b"X: y\nTransfer-Encoding: chunked",
        "bare carriage return": b"X: y\rTransfer-Encoding: chunked",
        "upper case": b"TRANSFER-ENCODING: CHUNKED",
        "x behind": b"Transfer-Encoding: chunkedx",
        "x before": b"Transfer-Encoding: xchunked",
        "quoted": b'Transfer-Encoding: "chunked"',
        "parameter": b"Transfer-Encoding: chunked;q=1",
        "identity": b"Transfer-Encoding: identity",
        "identity, chunked": b"Transfer-Encoding: identity, chunked",
        "chunked, identity": b"Transfer-Encoding: chunked, identity",
        "gzip, chunked": b"Transfer-Encoding: gzip, chunked",
        "chunked, chunked": b"Transfer-Encoding: chunked, chunked",
        "comma": b"Transfer-Encoding: ,chunked",
        "empty": b"Transfer-Encoding: ",
        "zero byte": b"Transfer-Encoding: chunked\x00",
        "twice": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
        "twice, one odd": b"Transfer-Encoding: chunked\r\nTransfer-Encoding: cow",
        "twice, odd first": b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
        "not ASCII": b"Transfer-Encoding: \xc2\xa0chunked",
    }
    for name, coding in codings.items():
        both = post(ended, coding)
        yield Attempt(f"both lengths, {name}", both, enters=True)
        length, _, _ = both.partition(b"\r\n\r\n")
        turned = length.replace(b"Content-Length: %d\r\n" % len(ended), b"") + b"\r\nContent-Length: %d" % len(ended)
        yield Attempt(f"both lengths, {name}, turned", turned + b"\r\n\r\n" + ended, enters=True)
        alone = length.replace(b"Content-Length: %d\r\n" % len(ended), b"")
        yield Attempt(f"coding, {name}", alone + b"\r\n\r\n" + chunked, enters=True)
        old = alone.replace(b"HTTP/1.1", b"HTTP/1.0", 1)
        yield Attempt(f"coding in HTTP/1.0, {name}", old + b"\r\n\r\n" + ended, enters=True)
    lengths = {
        "two that differ": b"Content-Length: 0\r\nContent-Length: %d",
        "two that differ, turned": b"Content-Length: %d\r\nContent-Length: 0",
        "list": b"Content-Length: 0, %d",
        "plus": b"Content-Length: +%d",
        "minus": b"Content-Length: -%d",
        "hexadecimal": b"Content-Length: 0x%d",
        "underscore": b"Content-Length: %d_0",
        "two numbers": b"Content-Length: 0 %d",
        "fraction": b"Content-Length: %d.0",
        "exponent": b"Content-Length: %de0",
        "space in the name": b"Content-Length : %d",
        "folded": b"Content-Length:\r\n %d",
        "empty": b"Content-Length:\r\nX-Content-Length: %d",
        "overflow": b"Content-Length: 1844674407370955161%d",
        "not ASCII digits": "Content-Length: \u0661%d".encode(),
        "vertical tab": b"Content-Length: \x0b%d",
        "zero byte": b"Content-Length: 0\x00%d",
        "quoted": b'Content-Length: "%d"',
        "none": b"X: %d",
    }
    bare = b"POST " + _GOOD + b" HTTP/1.1\r\nHost: gateway\r\n"
    for name, length in lengths.items():
        yield Attempt(f"length, {name}", bare + length % len(inner) + b"\r\n\r\n" + inner, enters=True)
    head = bare + b"Transfer-Encoding: chunked\r\n\r\n"
    chunks = {
        "size with 0x": b"0x0\r\n\r\n",
        "size with plus": b"+0\r\n\r\n",
        "size with minus": b"-1\r\n\r\n",
        "size with space": b"0 \r\n\r\n",
        "space before the size": b" 0\r\n\r\n",
        "underscore in the size": b"0_0\r\n\r\n",
        "no size": b"\r\n\r\n",
        "size no number": b"z\r\n\r\n",
        "size overflows": b"10000000000000000\r\n\r\n",
        "size is negative as 32 bits": b"ffffffff\r\n\r\n",
        "extension": b"0;a=b\r\n\r\n",
        "extension with a line feed": b"0;a\nb\r\n\r\n",
        "extension with quoted line end": b'0;a="\r\n\r\n"\r\n\r\n',
        "extension ends by a line feed": b"2;\n{}\r\n0\r\n\r\n",
        "size ends by a line feed": b"2\n{}\r\n0\r\n\r\n",
        "size ends by a carriage return": b"2\r{}\r\n0\r\n\r\n",
        "data ends by a line feed": b"2\r\n{}\n0\r\n\r\n",
        "data without an end": b"2\r\n{}0\r\n\r\n",
        "data longer than the size": b"1\r\n{}\r\n0\r\n\r\n",
        "trailer": b"0\r\nX: y\r\n\r\n",
        "trailer of a length": b"0\r\nContent-Length: 60\r\n\r\n",
        "trailer of a coding": b"0\r\nTransfer-Encoding: chunked\r\n\r\n",
        "trailer of a host": b"0\r\nHost: gateway/sleep?\r\n\r\n",
        "trailers end by a line feed": b"0\r\n\n",
        "end without an end": b"0\r\n",
    }
    for name, chunk in chunks.items():
        yield Attempt(f"chunks, {name}", head + chunk + inner, enters=True)
    yield Attempt("behind an allowed request", post(body) + inner, enters=True)
    yield Attempt("behind one that closes", post(body, b"Connection: close") + inner, enters=True)
    yield Attempt("in a body", post(inner), enters=True)
    yield Attempt(
        "in a body of JSON", post(body[:-1] + b',"x":"' + inner.replace(b"\r\n", b"\\r\\n") + b'"}'), enters=True
    )
    listing = b"GET /v1/models HTTP/1.1\r\nHost: gateway\r\nContent-Length: %d\r\n\r\n" % len(inner)
    yield Attempt("in the body of a GET", listing + inner, enters=True)
    yield Attempt("after an expectation", post(inner, b"Expect: 100-continue"), enters=True)
    yield Attempt("after an upgrade", post(inner, b"Connection: Upgrade", b"Upgrade: h2c"), enters=True)
    named = post(body, b"Connection: content-length, host, content-type, x-request-id")
    yield Attempt("connection names the length", named, enters=True)


def _injections(model: str) -> Iterator[Attempt]:
    """Line ends in what the gateway itself writes into a head or an answer."""
    body = chat(model)
    values = {
        "line end": b"a\r\nX-Evil: 1",
        "bare line feed": b"a\nPOST /sleep HTTP/1.1",
        "bare carriage return": b"a\rPOST /sleep HTTP/1.1",
        "folded": b"a\r\n POST /sleep HTTP/1.1",
        "encoded": b"a%0d%0aX-Evil: 1",
        "line separator": "a\u2028\u0085".encode(),
        "latin-1 line": b"a\x85\x8d\x8a",
        "wide line end": "a\u560d\u560a".encode(),
        "zero byte": b"a\x00",
        "long": b"a" * 5000,
    }
    for field in (b"x-request-id", b"traceparent", b"authorization", b"x-lull-cache", b"content-type", b"accept"):
        for name, value in values.items():
            yield Attempt(f"{field.decode()}: {name}", post(body, field + b": " + value), enters=True)
    names = {
        "line end": "\\r\\nX-Evil: 1",
        "request": "\\r\\n\\r\\nPOST /sleep HTTP/1.1\\r\\n\\r\\n",
        "path": "../../sleep",
        "address": "http://127.0.0.1/sleep",
        "zero byte": "\\u0000",
        "line separator": "\\u2028",
        "lone surrogate": "\\ud800",
        "terminal": "\\u001b[2J",
        "template": "{{7*7}}${7*7}%s%n",
        "long": "a" * 100_000,
    }
    for name, text in names.items():
        yield Attempt(f"model named {name}", post(chat(text)), enters=True)
