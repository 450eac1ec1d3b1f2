"""Chat messages as people and programs write them, into `prompt.Message`: strict about shape, lenient about style."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

from rave_mlx.config import Images
from rave_mlx.errors import ImageError, PromptError
from rave_mlx.images import ImageSource, read_patches
from rave_mlx.prompt import ImagePart, Message, TextPart


def read_messages(
    messages: Sequence[Mapping[str, Any]], config: Images | None, image_tokens: int | None = None
) -> list[Message]:
    """Check the messages and read their images.

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
    return [_read(message, f"message {i + 1}", config, image_tokens) for i, message in enumerate(messages)]


def _read(message: Any, where: str, config: Images | None, image_tokens: int | None) -> Message:
    if not isinstance(message, Mapping) or "role" not in message or "content" not in message:
        raise PromptError(f'{where}: expected an object with "role" and "content"')
    content = message["content"]
    if isinstance(content, str):
        return Message(message["role"], (TextPart(content),), plain=True)
    if not isinstance(content, Sequence):
        raise PromptError(f"{where}: content must be text or a list of parts, found {type(content).__name__}")
    parts = [_read_part(part, f"{where}, part {i + 1}", config, image_tokens) for i, part in enumerate(content)]
    return Message(message["role"], tuple(parts))


def _read_part(part: Any, where: str, config: Images | None, image_tokens: int | None) -> TextPart | ImagePart:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return TextPart(part["text"])
    if kind == "image" and "image" in part:
        return ImagePart(read_image(part["image"], config, page=part.get("page", 1), image_tokens=image_tokens))
    if kind == "image_url" and isinstance(part.get("image_url"), Mapping):
        return ImagePart(
            read_image(_from_url(str(part["image_url"].get("url")), where), config, image_tokens=image_tokens)
        )
    raise PromptError(
        f'{where}: expected {{"type": "text", "text": ...}} or {{"type": "image", "image": ...}}; got {str(part)[:60]}'
    )


def read_image(source: ImageSource, config: Images | None, *, page: int = 1, image_tokens: int | None = None) -> Any:
    """Patches of one image, refused for a text-only model."""
    if config is None:
        raise PromptError("this model reads text only; leave the images out or choose a vision-language model")
    return read_patches(source, config, page=page, image_tokens=image_tokens)


def _from_url(url: str, where: str) -> bytes | str:
    if url.startswith("file://"):
        return url.removeprefix("file://")
    if not url.startswith("data:"):
        raise ImageError(f"{where}: only data: and file: image URLs are read; download the image first")
    try:
        return base64.b64decode(url.partition(",")[2], validate=True)
    except binascii.Error:
        raise ImageError(f"{where}: the data: URL is not valid base64") from None
