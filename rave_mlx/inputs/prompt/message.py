"""A conversation as people and the model wrote it: messages of text and images, and the roles of its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

from PIL import Image

from rave_mlx.inputs.images.preprocess import ImagePatches


class Role(IntEnum):
    """Who a token belongs to. TEMPLATE covers control tokens and the template's own words."""

    TEMPLATE = 0
    SYSTEM = 1
    USER = 2
    ASSISTANT = 3
    IMAGE = 4


@dataclass(frozen=True)
class TextPart:
    """Text of a message; `ids` when the model generated it (its exact tokens, without the stop token)."""

    text: str
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Original:
    """What an image was before it was cut into patches, for policies that take a closer look at parts of it.

    Attributes:
        picture: upright RGB, at the resolution it was given with; 4 bytes a pixel.
        image_tokens: the budget of visual tokens that its patches were made for; None for the default.
    """

    picture: Image.Image = field(repr=False)
    image_tokens: int | None = None


@dataclass(frozen=True)
class ImagePart:
    """An image of a message, already cut into patches; `original` where an attention policy wants it kept."""

    patches: ImagePatches
    original: Original | None = None


@dataclass(frozen=True)
class Message:
    """One turn.

    Attributes:
        role: who speaks: system, developer, user, assistant; tool where the chat template knows tools.
        parts: what is said and shown.
        plain: when the content was given as a string and not as parts: templates may tell them apart.
        calls: of tools, that an assistant made: {"name": ..., "arguments": {...}}.
        tools: that a conversation offers, in its first message: JSON Schemas of functions as OpenAI has them.
    """

    role: str
    parts: tuple[TextPart | ImagePart, ...]
    plain: bool = False
    calls: tuple[Mapping[str, Any], ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()


def latest_turn(messages: Sequence[Message]) -> list[Message]:
    """The latest images of a conversation and its last question as one message, and the answer where it has begun."""
    begun = [messages[-1]] if messages[-1].role == "assistant" else []
    if len(begun) == len(messages):
        return begun
    images = [[p for p in m.parts if isinstance(p, ImagePart)] for m in messages]
    latest = next((shown for shown in reversed(images) if shown), [])
    question = messages[-1 - len(begun)]
    parts: list[TextPart | ImagePart] = [*latest, *(p for p in question.parts if isinstance(p, TextPart))]
    return [Message(question.role, tuple(parts), question.plain and not latest), *begun]
