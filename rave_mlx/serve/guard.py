"""What every request passes: is it meant for this server, may it ask, and headers that keep browsers from mistakes.

A page of another site must not use a server on this machine. It cannot read answers (there are no CORS headers), but it
could ask; so a request that names another origin is refused, and so is one under a name that is not this machine's: a
site may let its own name point here (DNS rebinding).
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rave_mlx.serve.errors import ApiError
from rave_mlx.serve.json_text import error_response
from rave_mlx.serve.settings import ServeSettings, is_loopback

_OPEN = frozenset({"/", "/health", "/v1/settings"})
"""Paths that need no key, beside the page's files."""
_PAGE = "/page/"
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'; object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """ASGI middleware in front of everything.

    Args:
        app: what is guarded.
        settings: of the server.
    """

    def __init__(self, app: ASGIApp, settings: ServeSettings):
        self._app, self._settings = app, settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass, or answer it with an error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
                if not scope["path"].startswith(_PAGE):
                    headers.setdefault("Cache-Control", "no-store")
            await send(message)

        try:
            self._check(Headers(scope=scope), scope["path"], asks=scope["method"] not in ("GET", "HEAD"))
        except ApiError as error:
            await error_response(error)(scope, receive, with_headers)
            return
        await self._app(scope, receive, with_headers)

    def _check(self, headers: Headers, path: str, *, asks: bool) -> None:
        """Refuse what is not meant for this server, or may not ask."""
        host = headers.get("host", "")
        if self._settings.is_local and not is_loopback(_name(host)):
            raise ApiError(
                403, f"this server answers to 127.0.0.1 and localhost, not to {host[:100]!r}", code="wrong_host"
            )
        origin, site = headers.get("origin"), headers.get("sec-fetch-site", "none")
        # A link of another site to the page is no harm.
        foreign = asks and site not in ("none", "same-origin")
        if foreign or (origin is not None and _netloc(origin) != host.lower()):
            raise ApiError(403, "pages of other sites may not use this server", code="cross_origin")
        if self._settings.api_key is None or path in _OPEN or path.startswith(_PAGE):
            return
        if not _matches(headers.getlist("authorization"), self._settings.api_key):
            raise ApiError(
                401, "the API key is missing or wrong; send it as Authorization: Bearer KEY", code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )  # fmt: skip


def _matches(given: Iterable[str], key: str) -> bool:
    """Whether the key stands in the headers; takes the same time whatever stands there."""
    found = False
    for value in given:
        kind, _, token = value.partition(" ")
        found |= kind.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), key.encode())
    return found


def _netloc(origin: str) -> str:
    """Host and port of an origin; nothing where it is none."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name(host: str) -> str:
    """The name in a Host header, without the port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].lower()
