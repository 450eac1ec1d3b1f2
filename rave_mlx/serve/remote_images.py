"""Fetching pictures from other servers, where that is allowed: never from this machine or its network.

The name is resolved once, every address of it has to be a public one, and the connection goes to that very address: a
name cannot mean another machine the second time. Redirects are not followed. Size, type and time are limited.
"""

from __future__ import annotations

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from urllib.parse import urlsplit

from rave_mlx.serve.errors import ApiError
from rave_mlx.serve.settings import Limits

_CHUNK = 1 << 16
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def fetch(url: str, limits: Limits) -> bytes:
    """The bytes of a picture (or PDF) at an address.

    Raises:
        ApiError: for an address that is not public, and whatever goes wrong with it (400).
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _error(url, "is no address") from None
    if not parts.hostname or parts.username is not None:
        raise _error(url, "is not taken: write https://host/path")
    secure = parts.scheme.lower() == "https"
    port = port or (443 if secure else 80)
    until = time.monotonic() + limits.download_seconds
    address = public_address(parts.hostname, port, url)
    connection = _Connection(parts.hostname, port, address, secure=secure, seconds=limits.download_seconds)
    # A limit for every part of the transfer is not one for the whole: a server could send a byte now and then.
    timer = threading.Timer(max(0.0, until - time.monotonic()), connection.break_off)
    timer.start()
    try:
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        connection.request("GET", path, headers={"Accept": "image/*, application/pdf", "User-Agent": "rave-mlx"})
        return _body(connection.getresponse(), url, limits, until)
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, TimeoutError) or time.monotonic() > until:
            raise _error(url, f"did not answer within {limits.download_seconds:g} s") from None
        raise _error(url, f"cannot be fetched ({type(error).__name__})") from None
    finally:
        timer.cancel()
        connection.close()


def public_address(host: str, port: int, url: str) -> str:
    """The address of a host, all of whose addresses are public.

    Args:
        host: its name, or an address in any notation that the system knows.
        port: that will be connected to.
        url: for messages.

    Raises:
        ApiError: for a host that does not exist, or is on this machine or its network.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        raise _error(url, "has a host that is not found") from None
    addresses = [str(each[4][0]) for each in found]
    if not addresses or not all(is_public(address) for address in addresses):
        raise _error(url, "is on this machine or its network; only public addresses are fetched")
    return addresses[0]


def is_public(address: str) -> bool:
    """Whether an address (as of getaddrinfo) is one of the open Internet."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        inner = parsed.ipv4_mapped or parsed.sixtofour or (parsed.teredo[1] if parsed.teredo else None)
        if parsed in _NAT64:
            inner = ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)
        if inner is not None:
            return inner.is_global and not inner.is_multicast
    return parsed.is_global and not parsed.is_multicast and not parsed.is_reserved


class _Connection(http.client.HTTPConnection):
    """A connection to one address under the name of its host."""

    def __init__(self, host: str, port: int, address: str, *, secure: bool, seconds: float):
        super().__init__(host, port, timeout=seconds)
        self._address, self._secure = address, secure

    def connect(self) -> None:
        """Connect to the address that was checked."""
        plain = socket.create_connection((self._address, self.port), self.timeout)
        self.sock = plain
        if self._secure:
            self.sock = ssl.create_default_context().wrap_socket(plain, server_hostname=self.host)

    def break_off(self) -> None:
        """End the transfer, from another thread."""
        if self.sock is not None:
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_RDWR)


def _body(response: http.client.HTTPResponse, url: str, limits: Limits, until: float) -> bytes:
    """The picture in a response."""
    if 300 <= response.status < 400:
        raise _error(url, "sends on to another address; give that one")
    if response.status != 200:
        raise _error(url, f"answers with status {response.status}")
    kind = response.headers.get_content_type()
    if not (kind.startswith("image/") or kind in ("application/pdf", "application/octet-stream")):
        raise _error(url, f"is {kind[:60]}, not an image")
    data = bytearray()
    while chunk := response.read1(_CHUNK):
        data += chunk
        if len(data) > limits.download_bytes:
            raise _error(url, f"is larger than {limits.download_bytes >> 20} MiB")
        if time.monotonic() > until:
            raise TimeoutError
    return bytes(data)


def _error(url: str, problem: str) -> ApiError:
    shown = url if len(url) <= 100 else url[:99] + "…"
    return ApiError(400, f"image {shown}: {problem}", param="messages", code="invalid_image")
