"""A stretch of a rendered conversation, and whose it is."""

from __future__ import annotations

from dataclasses import dataclass

from rave_mlx.inputs.prompt.message import Role


@dataclass(frozen=True)
class Piece:
    """A stretch of the rendered conversation.

    Attributes:
        text: its characters.
        role: whose they are.
        message: index of the message they belong to; -1 for the template's own text.
        ids: the tokens that the model wrote it with, where it did.
        edited: whether the template made it of what the message says, so that control tokens in it are the template's.
    """

    text: str
    role: Role
    message: int = -1
    ids: tuple[int, ...] | None = None
    edited: bool = False
