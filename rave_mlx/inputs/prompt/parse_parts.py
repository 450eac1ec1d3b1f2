"""The parts of a message as programs for OpenAI, transformers, Qwen and others write them: text, and images to read.

A key that could change what the model sees and is not understood is refused by name; keys without a value are those of
a table in which every row has all columns, and mean nothing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rave_mlx.errors import ImageError, PromptError
from rave_mlx.inputs.images.decode import MAX_SOURCE_PIXELS
from rave_mlx.inputs.images.requested_size import RequestedSize
from rave_mlx.inputs.images.sources import ImageSource, decode_base64, split_page

_TEXT_TYPES = ("text", "input_text", "output_text")
_IMAGE_TYPES = ("image", "image_url", "input_image")
_SOURCES = ("image", "image_url", "url", "path", "data", "base64", "bytes", "source")
_SIZES = ("min_pixels", "max_pixels", "resized_height", "resized_width")

_HARMLESS = frozenset((
    *("id", "uuid", "index", "name", "filename", "file_name", "alt", "cache_control", "annotations", "logprobs"),
    *("mime_type", "mimeType", "media_type", "format", "_meta"),
))  # fmt: skip
"""Keys that say nothing about what is seen: the kind of a file is read from its bytes."""

_REMEDIES = {
    "video": 'pass some of its frames as {"type": "image", ...}',
    "file": 'pass it as {"type": "image", "image": file, "page": 1}',
    "audio": "leave it out",
}
_LIKE = {
    "video_url": "video",
    "input_video": "video",
    "input_audio": "audio",
    "audio_url": "audio",
    "input_file": "file",
    "document": "file",
    "pdf": "file",
}


@dataclass(frozen=True)
class ImageRequest:
    """An image that a message asks to be read.

    Attributes:
        source: where its pixels are.
        page: from 1; of a PDF or a TIFF with several pages.
        size: the size that the message asks for, if it does.
    """

    source: ImageSource
    page: int = 1
    size: RequestedSize | None = None


def parse_part(part: Any, where: str) -> str | ImageRequest:
    """The text of a part of a message, or the image that it names.

    Args:
        part: `{"type": "text", "text": ...}`; `{"type": "image", "image": source}`, or "url", "path", "data" or
            "base64" in place of "image"; `{"type": "image_url", "image_url": url or {"url": url}}`; `input_text` and
            `input_image` of OpenAI's Responses. An image may have a "page", a "detail", and Qwen's `min_pixels`,
            `max_pixels`, `resized_height` and `resized_width`.
        where: names the part in messages, as "message 1, part 2".

    Raises:
        PromptError: for a part of another kind, an unknown key, or a value that cannot be meant.
        ImageError: for an image source that cannot be one.
    """
    if not isinstance(part, Mapping):
        raise PromptError(f"{where}: {_EXPECTED}; got {_short(part)}")
    given = {str(key): value for key, value in part.items() if value is not None}
    kind = given.pop("type", None)
    if kind is None:  # Qwen's messages may leave the type out
        kind = "text" if "text" in given and not any(key in given for key in _SOURCES) else "image"
        if kind == "image" and not any(key in given for key in _SOURCES):
            raise PromptError(f"{where}: {_EXPECTED}; got {_short(part)}")
    if kind in _TEXT_TYPES:
        return _text(given, where, part)
    if kind in _IMAGE_TYPES:
        return _image(given, where)
    if isinstance(kind, str) and _LIKE.get(kind, kind) in _REMEDIES:
        raise PromptError(f"{where}: parts of type {kind!r} are not read; {_REMEDIES[_LIKE.get(kind, kind)]}")
    raise PromptError(f"{where}: unknown type {_short(kind)}; {_EXPECTED}")


_EXPECTED = 'expected {"type": "text", "text": ...} or {"type": "image", "image": ...}'


def _text(given: dict[str, Any], where: str, part: object) -> str:
    text = given.pop("text", None)
    if not isinstance(text, str):
        raise PromptError(f"{where}: {_EXPECTED}; got {_short(part)}")
    _refuse_unknown(given, where, "a part of text")
    return text


def _image(given: dict[str, Any], where: str) -> ImageRequest:
    source, key = _source(given, where)
    page, size = given.pop("page", None), _size(given, where)
    _refuse_unknown(given, where, "an image")
    if page is not None and (isinstance(page, bool) or not isinstance(page, int) or page < 1):
        raise PromptError(f'{where}: "page" is {_short(page)}; a page is a whole number, counted from 1')
    if isinstance(source, str):
        source, in_fragment = split_page(source)
        if page is not None and in_fragment not in (None, page):
            raise PromptError(f'{where}: "page" is {page}, and the address says page {in_fragment}; give one of them')
        page = page or in_fragment
    if key in ("data", "base64", "bytes"):
        source = _encoded(source, key, where)
    return ImageRequest(source, page or 1, size)


def _source(given: dict[str, Any], where: str) -> tuple[Any, str]:
    """The one source of an image and the key that it stood under; what a nested object says moves into `given`."""
    keys = [key for key in _SOURCES if key in given]
    if "bytes" in keys and "path" in keys:  # the datasets package keeps the name of an image beside its bytes
        keys.remove("path")
        del given["path"]
    if not keys:
        raise PromptError(f'{where}: an image without a source; write {{"type": "image", "image": path or pixels}}')
    if len(keys) > 1:
        raise PromptError(f'{where}: an image has one source, found "{keys[0]}" and "{keys[1]}"; leave one out')
    key = keys[0]
    source = given.pop(key)
    if not isinstance(source, Mapping):
        return source, key
    inner = {str(name): value for name, value in source.items() if value is not None and name != "type"}
    both = next((name for name in inner if name in given), None)
    if both is not None:
        raise PromptError(f'{where}: "{both}" is given twice; leave one out')
    given.update(inner)
    if not any(name in inner for name in _SOURCES):
        raise PromptError(f'{where}: "{key}" names no image; expected {{"url": ...}}, got {_short(source)}')
    return _source(given, where)


def _encoded(source: Any, key: str, where: str) -> Any:
    """The bytes of an encoded image: base64 under "base64" and "data", which may also be what "image" may be."""
    if not isinstance(source, str | bytes) or (key != "base64" and isinstance(source, bytes)):
        return source
    if isinstance(source, str) and (source[:5].lower() == "data:" or (key == "data" and os.path.lexists(source))):
        return source
    try:
        return decode_base64(source)
    except ImageError as error:
        raise ImageError(f'{where}: "{key}" is {error}') from error


def _size(given: dict[str, Any], where: str) -> RequestedSize | None:
    """What a part says about the size of its image; takes these keys out of `given`."""
    numbers = {key: given.pop(key) for key in _SIZES if key in given}
    detail = given.pop("detail", "auto")
    if detail not in ("auto", "low", "high", "original"):
        raise PromptError(f'{where}: "detail" is {_short(detail)}; use "auto", "low" or "high"')
    for key, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= MAX_SOURCE_PIXELS:
            raise PromptError(
                f'{where}: "{key}" is {_short(number)}; it is a number of pixels from 1 to {MAX_SOURCE_PIXELS}'
            )
    width, height = numbers.get("resized_width"), numbers.get("resized_height")
    if (width is None) != (height is None):
        raise PromptError(f'{where}: "resized_height" and "resized_width" go together; give both or none')
    least, most = numbers.get("min_pixels"), numbers.get("max_pixels")
    if least is not None and most is not None and least > most:
        raise PromptError(f'{where}: "min_pixels" {least} is more than "max_pixels" {most}; exchange them')
    if not numbers and detail != "low":
        return None
    return RequestedSize(least, most, width, height, low_detail=detail == "low")


def _refuse_unknown(given: Mapping[str, Any], where: str, what: str) -> None:
    unknown = next((key for key in given if key not in _HARMLESS), None)
    if unknown is not None:
        raise PromptError(f"{where}: {what} has no {_short(unknown)} here; leave it out")


def name_source(error: ImageError, request: ImageRequest, where: str) -> ImageError:
    """The error of an image, with the place of its part where the image itself has no name."""
    has_name = isinstance(request.source, str | os.PathLike) and len(os.fspath(request.source)) < 300
    return error if has_name else ImageError(f"{where}: {error}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
