"""One API key as it is stored: in the gateways' Secret, or in the configuration of a gateway without Kubernetes.

The key itself is nowhere: only its SHA-256 is.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import AwareDatetime, ConfigDict, Field

from lull.api.base import ApiModel, ServedName

KEY_ID_PATTERN: Final = r"^[a-z0-9]([-a-z0-9.]{0,61}[a-z0-9])?$"
DIGEST_PATTERN: Final = r"^[0-9a-f]{64}$"
PRIORITY_AT_MOST: Final = 100
MOST_MODELS: Final = 1000

_Limit = Annotated[int, Field(ge=1, le=1_000_000_000_000)]


class KeyEntry(ApiModel):
    """A field that is misspelt is refused: ignored, it would be a limit that is not kept."""

    model_config = ConfigDict(extra="forbid", strict=True)

    sha256: Annotated[str, Field(pattern=DIGEST_PATTERN, description="SHA-256 of the whole key, in hexadecimal.")]
    models: Annotated[
        list[ServedName],
        Field(max_length=MOST_MODELS, description="Served names and adapters that it may use; empty means all."),
    ] = []
    requests_per_minute: Annotated[_Limit | None, Field(description="Requests in any minute.")] = None
    tokens_per_minute: Annotated[_Limit | None, Field(description="Tokens, in and out, in any minute.")] = None
    tokens_per_day: Annotated[_Limit | None, Field(description="Tokens, in and out, in any 24 hours.")] = None
    priority: Annotated[
        int,
        Field(
            ge=-PRIORITY_AT_MOST,
            le=PRIORITY_AT_MOST,
            description="Requests that are held go in the order of their keys' priority, higher first.",
        ),
    ] = 0
    expires: Annotated[
        AwareDatetime | None, Field(strict=False, description="From then on it is unknown, as RFC 3339.")
    ] = None
    created: Annotated[AwareDatetime | None, Field(strict=False, description="When it was made, as RFC 3339.")] = None
    note: Annotated[str, Field(max_length=512, description="Whose it is, or what it is for.")] = ""
