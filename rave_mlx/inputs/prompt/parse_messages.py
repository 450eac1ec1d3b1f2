"""Chat messages as people and programs write them, into `Message`: strict about shape, lenient about style."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rave_mlx.config import Images
from rave_mlx.errors import ImageError, PromptError
from rave_mlx.inputs.images.preprocess import ImageSource, RequestedSize, open_image, read_patches
from rave_mlx.inputs.images.sources import named, resolve_source
from rave_mlx.inputs.prompt.message import ImagePart, Message, Original, TextPart
from rave_mlx.inputs.prompt.parse_parts import name_source, parse_part

_EXAMPLE = '{"role": "user", "content": "..."}'

_HARMLESS = frozenset((
    *("id", "name", "type", "status", "object", "created", "created_at", "timestamp", "metadata", "annotations"),
    *("logprobs", "finish_reason", "model", "weight", "prefix", "partial"),
))  # fmt: skip
"""Keys of a message that say nothing about what the model reads. The last two mark an answer that has begun, as every
assistant's message at the end of a conversation is."""

_REMEDIES = {
    "tool_calls": "tool calls are not supported; tell the model in a message what the tool found",
    "function_call": "tool calls are not supported; tell the model in a message what the tool found",
    "images": 'put each image into the content, as {"type": "image", "image": ...}',
    "image": 'put the image into the content, as {"type": "image", "image": ...}',
    "videos": 'put some frames into the content, as {"type": "image", "image": ...}',
}


def read_messages(
    messages: Sequence[Mapping[str, Any]],
    config: Images | None,
    image_tokens: int | None = None,
    *,
    originals: bool = False,
) -> list[Message]:
    """Check chat messages and read their images.

    Args:
        messages: `{"role": ..., "content": text or parts}`; `parse_part` says which parts there are.
        config: how the model takes images; None for a model that reads text only.
        image_tokens: the largest number of visual tokens an image; None for the default.
        originals: whether the images are kept in full beside their patches, for policies that look closer.

    Raises:
        PromptError: for a malformed message, or an image where the model takes none.
        ImageError: for an image that cannot be read.
    """
    given: object = messages
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        raise PromptError(f"messages must be a list like [{_EXAMPLE}], found {type(given).__name__}")
    if not messages:
        raise PromptError("there are no messages; ask something")
    reader = _Reader(config, image_tokens, originals)
    return [reader.message(message, f"message {i + 1}") for i, message in enumerate(messages)]


@dataclass(frozen=True)
class _Reader:
    """How images are read; see `read_image`."""

    config: Images | None
    image_tokens: int | None
    original: bool

    def message(self, message: Any, where: str) -> Message:
        if not isinstance(message, Mapping):
            raise PromptError(f'{where}: expected an object with "role" and "content", found {type(message).__name__}')
        _check_keys(message, where)
        role, content = message["role"], message["content"]
        if not isinstance(role, str):
            raise PromptError(f'{where}: the role is {str(role)[:60]}; use "system", "user" or "assistant"')
        if isinstance(content, str):
            return Message(role, (TextPart(content),), plain=True)
        if isinstance(content, bytes | bytearray | memoryview) or not isinstance(content, Sequence):
            found = "nothing" if content is None else type(content).__name__
            raise PromptError(f"{where}: content must be text or a list of parts, found {found}")
        return Message(role, tuple(self.part(part, f"{where}, part {i + 1}") for i, part in enumerate(content)))

    def part(self, part: Any, where: str) -> TextPart | ImagePart:
        if isinstance(part, TextPart):
            return part
        parsed = parse_part(part, where)
        if isinstance(parsed, str):
            return TextPart(parsed)
        try:
            return read_image(
                parsed.source,
                self.config,
                page=parsed.page,
                image_tokens=self.image_tokens,
                original=self.original,
                requested=parsed.size,
            )
        except ImageError as error:
            raise name_source(error, parsed, where) from error


def _check_keys(message: Mapping[str, Any], where: str) -> None:
    """Refuse a message that lacks something, or says something that would not be read."""
    for key, value in message.items():
        # Empty values are those of programs that write every key; an image without pixels is not one of them.
        empty = value is None or value is False or (isinstance(value, str | list | tuple | dict) and not value)
        if key in ("role", "content") or key in _HARMLESS or empty:
            continue
        raise PromptError(f"{where}: {_REMEDIES.get(key, f'''{str(key)[:60]!r} is not known here; leave it out''')}")
    if "role" not in message or "content" not in message:
        missing = "role" if "role" not in message else "content"
        raise PromptError(f'{where}: expected an object with "role" and "content", "{missing}" is missing: {_EXAMPLE}')


def read_image(
    source: ImageSource,
    config: Images | None,
    *,
    page: int = 1,
    image_tokens: int | None = None,
    original: bool = False,
    requested: RequestedSize | None = None,
) -> ImagePart:
    """Read one image and cut it into the patches that the model takes.

    A page of a PDF has no pixels of its own: its original is drawn at 300 dpi (A4), or, for models of tiles, as large
    as for its patches.

    Args:
        source: as of `open_image`.
        config: how the model takes images; None for a model that reads text only.
        page: from 1; of a PDF or a TIFF with several pages.
        image_tokens: the largest number of visual tokens; None for the default.
        original: whether the image is kept in full beside its patches, for policies that look closer.
        requested: the size that a message asks for this image.

    Raises:
        PromptError: when the model reads text only.
        ImageError: when the image cannot be read.
    """
    if config is None:
        raise PromptError("this model reads text only; leave the images out or choose a vision-language model")
    if original:  # which is read twice, and an open file may give its bytes only once
        with named(source):
            source = resolve_source(source)
    patches = read_patches(source, config, page=page, image_tokens=image_tokens, requested=requested)
    if not original:
        return ImagePart(patches)
    # What looks closer keeps to the number of visual tokens that the image was asked to have.
    budget = image_tokens if requested is None else patches.tokens
    return ImagePart(patches, Original(patches.original or open_image(source, page), budget))
