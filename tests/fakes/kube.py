"""An API server in memory, over real HTTP: list and watch of what the gateway reads, as far as readers use them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final, Self

from aiohttp import web

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

Manifest = dict[str, Any]

_KINDS: Final = {
    "nodes": ("v1", "Node"),
    "pods": ("v1", "Pod"),
    "secrets": ("v1", "Secret"),
    "llmdeployments": ("lull.dev/v1alpha1", "LLMDeployment"),
}


class FakeKube:
    """Objects, their history, and everybody who watches."""

    def __init__(self) -> None:
        self.is_away = False
        """Every request gets 503, and open watches are cut."""
        self._forbidden: set[str] = set()
        self._objects: dict[tuple[str, str, str], Manifest] = {}
        self._history: list[tuple[int, str, str, Manifest]] = []
        self._oldest = 0
        self._version = 100
        self._changed = asyncio.Event()
        self._runner = web.AppRunner(self._app(), access_log=None, shutdown_timeout=0.01)
        self._port = 0

    async def __aenter__(self) -> Self:
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_away()
        await self._runner.cleanup()

    def write_kubeconfig(self, path: Path) -> str:
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "fake",
            "clusters": [{"name": "fake", "cluster": {"server": f"http://127.0.0.1:{self._port}"}}],
            "users": [{"name": "fake", "user": {}}],
            "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "fake"}}],
        }
        path.write_text(json.dumps(config))
        return str(path)

    def put(self, plural: str, manifest: Manifest) -> None:
        """Create or replace."""
        api_version, kind = _KINDS[plural]
        metadata = manifest["metadata"]
        identity = (plural, metadata.get("namespace", ""), metadata["name"])
        event = "MODIFIED" if identity in self._objects else "ADDED"
        self._version += 1
        stored = {
            "apiVersion": api_version,
            "kind": kind,
            **manifest,
            "metadata": {**metadata, "resourceVersion": str(self._version)},
        }
        self._objects[identity] = stored
        self._record(plural, event, stored)

    def remove(self, plural: str, namespace: str, name: str) -> None:
        gone = self._objects.pop((plural, namespace, name))
        self._version += 1
        self._record(
            plural, "DELETED", {**gone, "metadata": {**gone["metadata"], "resourceVersion": str(self._version)}}
        )

    def forget_history(self) -> None:
        """Whoever resumes a watch from before now gets 410 and has to list again."""
        self._oldest = self._version + 1

    def go_away(self) -> None:
        self.is_away = True
        self._wake()

    def come_back(self) -> None:
        self.is_away = False

    def forbid(self, plural: str) -> None:
        """Every request for this kind gets 403, as while an API server starts; open watches of it are cut."""
        self._forbidden.add(plural)
        self._wake()

    def permit(self, plural: str) -> None:
        self._forbidden.discard(plural)

    def _record(self, plural: str, event: str, manifest: Manifest) -> None:
        self._history.append((self._version, plural, event, manifest))
        self._wake()

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    def _app(self) -> web.Application:
        app = web.Application()
        for plural, (api_version, _) in _KINDS.items():
            root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
            for path in (f"{root}/{plural}", root + "/namespaces/{namespace}/" + plural):
                app.router.add_get(path, self._handler(plural))
        return app

    def _handler(self, plural: str) -> Any:
        async def answer(request: web.Request) -> web.StreamResponse:
            if self.is_away:
                return web.json_response({"message": "away"}, status=503)
            if plural in self._forbidden:
                return web.json_response({"message": "forbidden"}, status=403)
            if "watch" in request.query:
                return await self._watch(plural, request)
            items = [
                manifest
                for (kind, _, _), manifest in self._objects.items()
                if kind == plural and _is_selected(manifest, request)
            ]
            return web.json_response({"metadata": {"resourceVersion": str(self._version)}, "items": items})

        return answer

    async def _watch(self, plural: str, request: web.Request) -> web.StreamResponse:
        seen = int(request.query["resourceVersion"])
        if seen < self._oldest:
            return web.json_response({"message": "too old"}, status=410)
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        while not self.is_away and plural not in self._forbidden:
            changed = self._changed
            for version, kind, event, manifest in tuple(self._history):
                if version > seen and kind == plural and _is_selected(manifest, request):
                    await response.write(json.dumps({"type": event, "object": manifest}).encode() + b"\n")
            seen = self._version
            await changed.wait()
        return response


def _is_selected(manifest: Manifest, request: web.Request) -> bool:
    metadata = manifest["metadata"]
    namespace = request.match_info.get("namespace")
    wanted = [pair.partition("=") for pair in request.query.get("labelSelector", "").split(",") if pair]
    name = request.query.get("fieldSelector", "").removeprefix("metadata.name=")
    return (
        namespace in {None, metadata.get("namespace")}
        and name in {"", metadata["name"]}
        and all(metadata.get("labels", {}).get(label) == value for label, _, value in wanted)
    )
