"""Artifacts and images in an OCI registry."""

from __future__ import annotations

import hashlib
import json
import platform
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

import httpx

from lull.fetcher import distribution, download
from lull.fetcher.failures import Failed, Forbidden, NotFound
from lull.fetcher.options import DOCKER_CONFIG
from lull.fetcher.remote import ask, connect_http, content_of, read
from lull.fetcher.snapshot import MAX_FILES, Snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from lull.fetcher.distribution import Challenge, Json, Login
    from lull.fetcher.options import Options
    from lull.fetcher.remote import Content
    from lull.fetcher.snapshot import RemoteFile
    from lull.fetcher.sources import RegistrySource

MAX_MANIFEST: Final = 4 << 20
MAX_TOKEN: Final = 1 << 20
_MACHINES: Final = {"x86_64": "amd64", "aarch64": "arm64"}


@asynccontextmanager
async def connect_registry(source: RegistrySource, options: Options) -> AsyncIterator[Registry]:
    async with connect_http(options) as client:
        yield Registry(source, options, client)


class Registry:
    """One repository of a registry."""

    def __init__(self, source: RegistrySource, options: Options, client: httpx.AsyncClient) -> None:
        self._source = source
        self._client = client
        self._plain_http = options.endpoints.plain_http
        hosts = (source.host, source.api_host, *(("index.docker.io",) if source.host != source.api_host else ()))
        config = options.credentials.get(DOCKER_CONFIG)
        self._login = distribution.find_login(config, hosts) if config is not None else None
        self._authorization: str | None = None
        scheme = "http" if source.host in self._plain_http else "https"
        self._base = f"{scheme}://{source.api_host}/v2/{source.api_repository}"
        self.name = source.host

    async def list(self) -> Snapshot:
        digest, manifest = await self._manifest(self._source.reference)
        if distribution.is_index(manifest):
            machine = platform.machine()
            _, manifest = await self._manifest(distribution.pick_manifest(manifest, _MACHINES.get(machine, machine)))
        layers = distribution.parse_layers(manifest)
        if len(layers) > MAX_FILES:
            raise Failed(f"{self._source} has {len(layers)} layers, more than {MAX_FILES}.")
        return Snapshot(
            digest,
            tuple(layer.file for layer in layers if layer.path is not None),
            tuple(layer.file for layer in layers if layer.path is None),
        )

    async def describe(self, file: RemoteFile, version: str) -> RemoteFile:  # noqa: ARG002  manifests say it all
        return file

    @asynccontextmanager
    async def open(self, file: RemoteFile, version: str, offset: int) -> AsyncIterator[Content]:  # noqa: ARG002
        url = f"{self._base}/blobs/{file.address}"
        async with self._answer(url, download.range_header(offset), what=file.path) as answer:
            yield content_of(answer, offset)

    async def _manifest(self, reference: str) -> tuple[str, Json]:
        url = f"{self._base}/manifests/{reference}"
        async with self._answer(url, {"Accept": ", ".join(distribution.MANIFESTS)}) as answer:
            content = await read(answer, MAX_MANIFEST, "The registry's manifest")
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        if reference.startswith("sha256:") and digest != reference:
            raise Failed(f"{self.name} gives another manifest than {self._source} names: its digest is {digest}.")
        try:
            manifest = json.loads(content)
        except ValueError as error:
            raise Failed(f"The manifest of {self._source} is not JSON: {error}.") from error
        if not isinstance(manifest, dict):
            raise Failed(f"The manifest of {self._source} is not a JSON object.")
        return digest, manifest

    @asynccontextmanager
    async def _answer(
        self, url: str, headers: dict[str, str], what: str | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Yield an answer that brings content, with a new token where the registry asks for one."""
        for is_last in (False, True):
            authorization = {"Authorization": self._authorization} if self._authorization is not None else {}
            async with ask(self._client, url, headers=headers | authorization) as answer:
                challenge = distribution.parse_challenge(answer.headers.get("www-authenticate", ""))
                if answer.status_code != 401 or challenge is None or is_last:
                    if answer.status_code >= 400 and answer.status_code != 416:
                        raise self._refusal(answer.status_code, what)
                    yield answer
                    return
            await self._authorize(challenge)

    async def _authorize(self, challenge: Challenge) -> None:
        if challenge.scheme == "basic":
            if self._login is None:
                raise self._refusal(401)
            self._authorization = self._login.basic
            return
        realm = httpx.URL(challenge.realm)
        if realm.scheme != "https" and realm.netloc.decode() not in self._plain_http:
            raise Failed(f"{self.name} sends to {challenge.realm} for a token, which is not https.")
        parameters = {"service": challenge.service, "scope": f"repository:{self._source.api_repository}:pull"}
        self._authorization = "Bearer " + await self._token(realm, parameters, self._login)

    async def _token(self, realm: httpx.URL, parameters: dict[str, str], login: Login | None) -> str:
        if login is not None and login.identity_token:
            form = parameters | {
                "grant_type": "refresh_token",
                "refresh_token": login.identity_token,
                "client_id": "lull",
            }
            asked = ask(self._client, str(realm), method="POST", form=form)
        else:
            headers = {"Authorization": login.basic} if login is not None and login.password else {}
            asked = ask(self._client, str(realm.copy_merge_params(parameters)), headers=headers)
        async with asked as answer:
            status, content = answer.status_code, await read(answer, MAX_TOKEN, "The registry's token")
        if status >= 400:
            raise self._refusal(status)
        try:
            answered = json.loads(content)
            return str(answered.get("token") or answered["access_token"])
        except (ValueError, KeyError, AttributeError) as error:
            raise Failed(f"{realm.host} gives no token for {self.name}.") from error

    def _refusal(self, status: int, path: str | None = None) -> Failed:
        what = str(self._source) if path is None else f"{path} of {self._source}"
        if status == 404:
            return NotFound(f"{what} was not found on {self.name}: look at the repository and the tag.")
        if status in {401, 403} and self._login is not None:
            return Forbidden(f"{self.name} refuses {what} to {self._login.username or 'this login'} ({status}).")
        if status in {401, 403}:
            return Forbidden(
                f"{self.name} asks for a login for {what} ({status}): put a {DOCKER_CONFIG} with one for "
                f"{self.name} into the Secret that spec.model.secretName names, or correct the repository's name."
            )
        return Failed(f"{self.name} answers {what} with status {status}.")
