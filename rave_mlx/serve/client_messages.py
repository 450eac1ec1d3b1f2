"""Messages of clients: pictures come with the request or from other servers, never from this machine's files."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from rave_mlx.errors import ImageError
from rave_mlx.inputs.images.header import header_size
from rave_mlx.inputs.images.open_document import OpenDocument
from rave_mlx.inputs.images.sources import resolve_source
from rave_mlx.serve.errors import ApiError
from rave_mlx.serve.remote_images import fetch
from rave_mlx.serve.settings import Limits

_TEXT_TYPES = ("text", "input_text", "output_text")
_SOURCES = ("image_url", "image", "url", "data", "base64", "bytes", "path", "source", "file_id")
_MOST_SCALED = 16_384 * 28 * 28
"""Pixels that a message may ask an image to be scaled to: the most that Qwen's own tools do."""
_FILE_TYPES = ("file", "input_file")
_DOWNLOADS = ThreadPoolExecutor(8, thread_name_prefix="download")
_READERS = ThreadPoolExecutor(2, thread_name_prefix="messages")


@dataclass(frozen=True)
class _Remote:
    """A picture on another server, and its place in messages."""

    url: str
    where: str


async def read_client_messages(
    messages: Sequence[Mapping[str, Any]], limits: Limits, *, remote_images: bool
) -> list[dict[str, Any]]:
    """Messages as `read_messages` takes them, in which every image is bytes.

    Args:
        messages: of the request.
        limits: how much it may hold.
        remote_images: whether images are fetched from other servers.

    Raises:
        ApiError: for a path or another source that is not taken; for too many or too large images.
    """
    loop = asyncio.get_running_loop()
    # In a thread: the base64 text of a large scan takes a while, and files are opened to count their pages.
    taken = await loop.run_in_executor(_READERS, _taken, messages, limits)
    parts = [part for message in taken if isinstance(message.get("content"), list) for part in message["content"]]
    images = [part for part in parts if isinstance(part, dict) and part.get("type") == "image" and "image" in part]
    if len(images) > limits.images:
        raise ApiError(
            400, f"the request has {len(images)} images, at most {limits.images} are taken; send fewer",
            param="messages", code="too_many_images",
        )  # fmt: skip
    remote = [part for part in images if isinstance(part["image"], _Remote)]
    if remote and not remote_images:
        raise ApiError(
            400, f"{remote[0]['image'].where}: images are not fetched from other servers here; send them as data: "
            "URLs, or start the server with --allow-remote-images", param=remote[0]["image"].where,
        )  # fmt: skip
    await _download(remote, limits)
    await loop.run_in_executor(_READERS, _check_all, images, limits)
    return taken


def check_pixels(data: bytes, limits: Limits, name: str = "the image") -> None:
    """Refuse a picture whose header says that it is too large, before anything of it is decoded.

    Raises:
        ApiError: naming both sizes (400).
    """
    size = header_size(io.BytesIO(data))
    if size is not None and size[0] * size[1] > limits.pixels:
        raise ApiError(
            400, f"{name} has {size[0]} x {size[1]} pixels, at most {limits.pixels / 1e6:g} megapixels are read; "
            "scale it down", code="image_too_large",
        )  # fmt: skip


async def _download(parts: Sequence[dict[str, Any]], limits: Limits) -> None:
    """Put the bytes of remote images in their places."""
    loop = asyncio.get_running_loop()
    asked = [loop.run_in_executor(_DOWNLOADS, fetch, part["image"].url, limits) for part in parts]
    for part, data in zip(parts, await asyncio.gather(*asked), strict=True):
        part["image"] = data


def _taken(messages: Sequence[Mapping[str, Any]], limits: Limits) -> list[dict[str, Any]]:
    """Messages with their images in one form."""
    return [_message(message, f"messages.{i}", limits) for i, message in enumerate(messages)]


def _check_all(images: Sequence[Mapping[str, Any]], limits: Limits) -> None:
    for part in images:
        check_pixels(part["image"], limits)


def _message(message: Mapping[str, Any], where: str, limits: Limits) -> dict[str, Any]:
    content = message.get("content")
    if not isinstance(content, list):
        return dict(message)
    parts: list[Any] = []
    for index, part in enumerate(content):
        place = f"{where}.content.{index}"
        if isinstance(part, dict) and part.get("type") in _FILE_TYPES:
            parts += _file_pages(part, place, limits)
        else:
            parts.append(_part(part, place))
    return {**message, "content": parts}


def _file_pages(part: Mapping[str, Any], where: str, limits: Limits) -> list[dict[str, Any]]:
    """Every page of a file as an image: a PDF, TIFF or picture as OpenAI's clients send it."""
    file = part.get("file", part)
    data = file.get("file_data") if isinstance(file, dict) else None
    if not isinstance(data, str) or data[:5].lower() != "data:":
        raise ApiError(
            400, f'{where}: a file comes as {{"file_data": "data:application/pdf;base64,..."}}; there are no uploads',
            param=where,
        )  # fmt: skip
    content = _source(data, where)
    assert isinstance(content, bytes)
    try:
        with OpenDocument(content) as opened:
            count = len(opened)
    except ImageError as error:
        raise ApiError(400, f"{where}: {error}", param=where, code="invalid_image") from None
    if count > limits.images:
        raise ApiError(
            400, f"{where}: the file has {count} pages, at most {limits.images} images are taken; send some of "
            "its pages", param=where, code="too_many_images",
        )  # fmt: skip
    return [{"type": "image", "image": content, "page": page} for page in range(1, count + 1)]


def _part(part: Any, where: str) -> Any:
    """A part of a message; what is no image is left to `parse_part`."""
    if not isinstance(part, dict) or part.get("type") in _TEXT_TYPES:
        return part
    named = [key for key in _SOURCES if part.get(key) is not None]
    if not named:
        return part
    if len(named) > 1:
        raise ApiError(400, f"{where}: an image has one source, found {' and '.join(named)}", param=where)
    key = named[0]
    rest = {name: value for name, value in part.items() if name not in (key, "type") and value is not None}
    source = part[key]
    if isinstance(source, dict):
        rest |= {name: value for name, value in source.items() if name != "url" and value is not None}
        source = source.get("url")
    for name in ("min_pixels", "max_pixels", "resized_width", "resized_height"):
        if isinstance(rest.get(name), int) and rest[name] > _MOST_SCALED:
            raise ApiError(400, f"{where}: {name} is {rest[name]}, at most {_MOST_SCALED} are taken", param=where)
    return {"type": "image", "image": _source(source, where), **rest}


def _source(source: Any, where: str) -> bytes | _Remote:
    """The bytes of a data: URL, or an address to be fetched."""
    start = source[:8].lower() if isinstance(source, str) else ""
    if start.startswith("data:"):
        try:
            data = resolve_source(source)
        except ImageError as error:
            raise ApiError(400, f"{where}: {error}", param=where, code="invalid_image") from None
        assert isinstance(data, bytes)
        return data
    if start.startswith(("http://", "https:/")):
        return _Remote(source, where)
    raise ApiError(
        400, f"{where}: an image comes as a data: URL (data:image/png;base64,...); files of the server are not read",
        param=where, code="invalid_image",
    )  # fmt: skip
