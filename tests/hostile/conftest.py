"""The servers of `tests/e2e`, for whoever means them harm."""

from tests.e2e.conftest import exact, serve, server

__all__ = ["exact", "serve", "server"]
