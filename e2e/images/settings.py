"""What this machine needs to reach its package index, as two files that a build mounts as secrets and never keeps."""

import configparser
import os
import shlex
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PROXIES = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
_PIP = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_TRUSTED_HOST", "PIP_DEFAULT_TIMEOUT", "PIP_RETRIES")
_UV = (
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_INSECURE_HOST",
    "UV_HTTP_TIMEOUT",
    "UV_HTTP_RETRIES",
)
_BUNDLE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "PIP_CERT", "CURL_CA_BUNDLE")
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
_MOUNTED_BUNDLE = "/run/secrets/ca-bundle"


def write_secrets(folder: Path, environ: Mapping[str, str] = os.environ) -> dict[str, Path]:
    """Write the secrets that this machine needs; none on a machine with nothing of its own."""
    secrets: dict[str, Path] = {}
    bundle = find_bundle(environ)
    if bundle is not None:
        secrets["ca-bundle"] = folder / "ca-bundle"
        secrets["ca-bundle"].write_bytes(bundle.read_bytes())
    lines = render_environment(index_settings(environ, _pip_files(environ), _uv_files(environ)), bundle is not None)
    if lines:
        secrets["environment"] = folder / "environment"
        secrets["environment"].write_text(lines)
    return secrets


def find_bundle(environ: Mapping[str, str]) -> Path | None:
    """Find the certificates that this machine trusts: what the environment names, else the system's file."""
    named = [environ[name] for name in _BUNDLE_VARIABLES if environ.get(name)]
    return next((path for path in map(Path, (*named, *_BUNDLES)) if path.is_file()), None)


def index_settings(environ: Mapping[str, str], pip_files: list[Path], uv_files: list[Path]) -> dict[str, str]:
    """Gather settings of pip, uv and proxies as variables; the environment wins over files, and uv follows pip's index."""
    found = {
        **_from_pip_files(pip_files),
        **_from_uv_files(uv_files),
        **{name: environ[name] for name in (*_PROXIES, *_PIP, *_UV) if environ.get(name)},
        **{
            name: value
            for name, value in environ.items()
            if name.startswith("UV_INDEX_") and name.endswith(("_USERNAME", "_PASSWORD"))
        },
    }
    if "PIP_INDEX_URL" in found and not {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & found.keys():
        found["UV_DEFAULT_INDEX"] = found["PIP_INDEX_URL"]
    return found


def render_environment(found: Mapping[str, str], has_bundle: bool) -> str:
    """Write the variables as a file for `.` in a shell."""
    bundle = dict.fromkeys(("SSL_CERT_FILE", "PIP_CERT", "REQUESTS_CA_BUNDLE"), _MOUNTED_BUNDLE) if has_bundle else {}
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in {**found, **bundle}.items())


def _from_pip_files(paths: list[Path]) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in paths:
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(path)
        if parser.has_section("global"):
            given = {f"PIP_{key.replace('-', '_').upper()}": value for key, value in parser.items("global")}
            found.update({name: " ".join(given[name].split()) for name in _PIP if name in given})
    return found


def _from_uv_files(paths: list[Path]) -> dict[str, str]:
    found: dict[str, str] = {}
    for path in paths:
        settings: dict[str, Any] = tomllib.loads(path.read_text())
        settings = settings.get("tool", {}).get("uv", settings)
        indexes: list[dict[str, Any]] = settings.get("index", [])
        default = next((index["url"] for index in indexes if index.get("default")), settings.get("index-url"))
        others = [index["url"] for index in indexes if not index.get("default")] + settings.get("extra-index-url", [])
        if default:
            found["UV_DEFAULT_INDEX"] = default
        if others:
            found["UV_INDEX"] = " ".join(others)
    return found


def _pip_files(environ: Mapping[str, str]) -> list[Path]:
    home = Path(environ.get("HOME", "/root"))
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    candidates = [Path("/etc/pip.conf"), home / ".pip/pip.conf", config / "pip/pip.conf"]
    if environ.get("PIP_CONFIG_FILE"):
        candidates.append(Path(environ["PIP_CONFIG_FILE"]))
    return [path for path in candidates if path.is_file()]


def _uv_files(environ: Mapping[str, str]) -> list[Path]:
    home = Path(environ.get("HOME", "/root"))
    config = Path(environ.get("XDG_CONFIG_HOME") or home / ".config")
    candidates = [Path("/etc/uv/uv.toml"), config / "uv/uv.toml"]
    if environ.get("UV_CONFIG_FILE"):
        candidates = [Path(environ["UV_CONFIG_FILE"])]
    return [path for path in candidates if path.is_file()]
