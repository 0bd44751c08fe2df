"""The gateway of the unit tests, and engines and clients that keep to no rule."""

from tests.unit.gateway.conftest import running, world

__all__ = ["running", "world"]
