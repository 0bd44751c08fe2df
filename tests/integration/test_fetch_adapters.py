"""`lull fetch-adapters` as a process: told over HTTP, fetching from a hub, and told to end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx

from tests.fakes.hub import Hub, serve
from tests.fakes.ports import free_port
from tests.unit.fetcher.test_adapters import A, B, weights

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

SOURCE = "hf://acme/tiny"
CONFIG = {"peft_type": "LORA", "r": 8, "target_modules": ["q_proj"], "base_model_name_or_path": "acme/other"}


def adapter(rank: int = 8, **hub: Any) -> Hub:
    content = {
        "adapter_config.json": json.dumps({**CONFIG, "r": rank}).encode(),
        "adapter_model.safetensors": weights({A: [rank, 4], B: [4, rank]}),
        "README.md": b"read me",
    }
    return Hub(files=content, large=frozenset({"adapter_model.safetensors"}), **hub)


@asynccontextmanager
async def sidecar(hub: Hub, root: Path, *options: str) -> AsyncIterator[httpx.AsyncClient]:
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", "from lull.cli import main; main()"),
        *("fetch-adapters", "--root", str(root), "--port", str(port)),
        *("--max-rank", "16", "--model", "hf://acme/base", *options),
        env={**os.environ, "HF_ENDPOINT": hub.endpoint},
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
            await _until_up(client)
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        assert await process.wait() == 0


async def settled(client: httpx.AsyncClient, identity: str) -> dict[str, Any]:
    async with asyncio.timeout(30):
        while True:
            listed = {one["id"]: one for one in (await client.get("/adapters")).json()["adapters"]}
            if listed[identity]["state"] != "Fetching":
                found: dict[str, Any] = listed[identity]
                return found
            await asyncio.sleep(0.02)


async def test_fetches_checks_keeps_and_forgets(tmp_path: Path) -> None:
    async with serve(adapter()) as hub:
        async with sidecar(hub, tmp_path) as client:
            await client.put("/adapters/fr-1", json={"name": "fr", "source": SOURCE})
            found = await settled(client, "fr-1")

        assert found["state"] == "Ready"
        assert found["message"] == "It says that it was trained for acme/other, and the model is acme/base."
        names = {path.name for path in (tmp_path / "fr-1").iterdir()}
        assert names == {".lull", "adapter_config.json", "adapter_model.safetensors"}
        asked = len(hub.requests)

        async with sidecar(hub, tmp_path) as client:
            assert await settled(client, "fr-1") == found
            assert len(hub.requests) == asked
            await client.delete("/adapters/fr-1")

    assert list(tmp_path.iterdir()) == []


async def test_says_what_is_wrong_with_one(tmp_path: Path) -> None:
    async with serve(adapter(rank=64)) as hub, sidecar(hub, tmp_path) as client:
        await client.put("/adapters/big-1", json={"name": "big", "source": SOURCE})
        await client.put("/adapters/none-1", json={"name": "none", "source": "hf://acme/none"})

        big, none = await settled(client, "big-1"), await settled(client, "none-1")

    assert (big["state"], none["state"]) == ("Failed", "Failed")
    assert "rank 64 is over spec.adapters.maxRank, 16" in big["message"]
    assert "was not found" in none["message"]


async def test_credentials_are_read_when_they_are_needed(tmp_path: Path) -> None:
    secret, root = tmp_path / "secret", tmp_path / "adapters"
    secret.mkdir()
    async with serve(adapter(token="good")) as hub, sidecar(hub, root, "--credentials", str(secret)) as client:
        await client.put("/adapters/fr-1", json={"name": "fr", "source": SOURCE})
        assert (await settled(client, "fr-1"))["state"] == "Failed"

        # As the kubelet does when the Secret changes; taken out and put back, the adapter is tried again.
        (secret / "token").write_text("good\n")
        await client.delete("/adapters/fr-1")
        await client.put("/adapters/fr-1", json={"name": "fr", "source": SOURCE})

        assert (await settled(client, "fr-1"))["state"] == "Ready"


async def _until_up(client: httpx.AsyncClient) -> None:
    async with asyncio.timeout(30):
        while True:
            try:
                await client.get("/healthz")
            except httpx.TransportError:
                await asyncio.sleep(0.05)
            else:
                return
