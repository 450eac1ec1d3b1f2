"""Chat messages as people and programs write them, into `prompt.Message`: strict about shape, lenient about style."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rave_mlx.config import Images
from rave_mlx.errors import ImageError, PromptError
from rave_mlx.inputs.images.preprocess import ImageSource, open_image, read_patches
from rave_mlx.inputs.prompt.message import ImagePart, Message, Original, TextPart


def read_messages(
    messages: Sequence[Mapping[str, Any]],
    config: Images | None,
    image_tokens: int | None = None,
    *,
    originals: bool = False,
) -> list[Message]:
    """Check the messages and read their images, with `originals` if these are to be kept.

    Image parts: `{"type": "image", "image": source}` with an optional `"page"`, or the OpenAI form
    `{"type": "image_url", "image_url": {"url": "data:image/png;base64,..."}}`.

    Raises:
        PromptError: for a malformed message; ImageError: for an unreadable image.
    """
    given: object = messages
    if isinstance(given, (str, bytes)) or not isinstance(given, Sequence):
        raise PromptError('messages must be a list like [{"role": "user", "content": "..."}]')
    if not messages:
        raise PromptError("there are no messages; ask something")
    reader = _Reader(config, image_tokens, originals)
    return [_read(message, f"message {i + 1}", reader) for i, message in enumerate(messages)]


@dataclass(frozen=True)
class _Reader:
    """How images are read; see `read_image`."""

    config: Images | None
    image_tokens: int | None
    original: bool

    def part(self, source: ImageSource, page: int = 1) -> ImagePart:
        return read_image(source, self.config, page=page, image_tokens=self.image_tokens, original=self.original)


def _read(message: Any, where: str, reader: _Reader) -> Message:
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise PromptError(f'{where}: expected an object with "role" and "content"')
    content = message["content"]
    if isinstance(content, str):
        return Message(message["role"], (TextPart(content),), plain=True)
    if not isinstance(content, Sequence):
        raise PromptError(f"{where}: content must be text or a list of parts, found {type(content).__name__}")
    parts = [_read_part(part, f"{where}, part {i + 1}", reader) for i, part in enumerate(content)]
    return Message(message["role"], tuple(parts))


def _read_part(part: Any, where: str, reader: _Reader) -> TextPart | ImagePart:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return TextPart(part["text"])
    if kind == "image" and "image" in part:
        return reader.part(part["image"], part.get("page", 1))
    if kind == "image_url" and isinstance(part.get("image_url"), Mapping):
        return reader.part(_from_url(str(part["image_url"].get("url")), where))
    raise PromptError(
        f'{where}: expected {{"type": "text", "text": ...}} or {{"type": "image", "image": ...}}; got {str(part)[:60]}'
    )


def read_image(
    source: ImageSource,
    config: Images | None,
    *,
    page: int = 1,
    image_tokens: int | None = None,
    original: bool = False,
) -> ImagePart:
    """One image as patches, refused for a text-only model; with `original`, its pixels are kept beside them.

    A page of a PDF has no pixels of its own: its original is drawn at 300 dpi (A4), or, for models of tiles, as large
    as for its patches.
    """
    if config is None:
        raise PromptError("this model reads text only; leave the images out or choose a vision-language model")
    patches = read_patches(source, config, page=page, image_tokens=image_tokens)
    if not original:
        return ImagePart(patches)
    return ImagePart(patches, Original(patches.original or open_image(source, page), image_tokens))


def _from_url(url: str, where: str) -> bytes | str:
    if url.startswith("file://"):
        return url.removeprefix("file://")
    if not url.startswith("data:"):
        raise ImageError(f"{where}: only data: and file: image URLs are read; download the image first")
    try:
        return base64.b64decode(url.partition(",")[2], validate=True)
    except binascii.Error:
        raise ImageError(f"{where}: the data: URL is not valid base64") from None
