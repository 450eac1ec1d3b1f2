"""Chat templates that look into what messages say: which characters of the rendered text are then whose.

Most templates only place what people and the model wrote, so that stand-ins tell exactly whose every character is
(`render`). Some read it: Qwen3's leaves the thoughts out of earlier answers, others look for "/no_think" in the system
message. Such a conversation is rendered with its own words, and what was found with the stand-ins is matched to that.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace

from rave_mlx.errors import PromptError
from rave_mlx.inputs.prompt.message import Role
from rave_mlx.inputs.prompt.piece import Piece


def follow_edits(pieces: Sequence[Piece], text: str, control: Collection[str]) -> list[Piece]:
    """The pieces of what a template writes when it sees the messages themselves.

    Args:
        pieces: what it writes around stand-ins.
        text: what it writes around the messages' own words.
        control: the texts of control tokens. Where the template changes what is said, it is no longer certain whether
            such a text is the template's or somebody's.

    Returns:
        `pieces` themselves where both are the same text. Else pieces that spell `text`; what stands in the place of a
        message that was changed is marked as `edited`.

    Raises:
        PromptError: when a message of an edited conversation holds the text of a control token.
    """
    if "".join(map(_said, pieces)) == text:
        return list(pieces)
    for piece in pieces:
        found = next((token for token in control if piece.message >= 0 and token in piece.text), None)
        if found is not None:
            raise PromptError(
                f"message {piece.message + 1}: holds the control token {found!r}, and the model's chat template makes "
                "its text depend on what messages say; leave it out"
            )
    return _matched(pieces, text)


def _matched(pieces: Sequence[Piece], text: str) -> list[Piece]:
    """Find what every message says, in order, each behind the template's text that stands before it."""
    found: list[Piece] = []
    position, before = 0, ""
    for index, piece in enumerate(pieces):
        if piece.message < 0:
            before += piece.text
            continue
        said = _said(piece)
        start = text.find(before + said, position)
        if start >= 0:
            start += len(before)
            found += [Piece(text[position:start], Role.TEMPLATE), piece]
            position = start + len(said)
        elif text.startswith(before, position):
            start = position + len(before)
            end = _end(pieces[index + 1 :], text, start)
            edited = replace(piece, text=text[start:end], ids=None, edited=True)
            found += [Piece(before, Role.TEMPLATE), edited]
            position = end
        before = ""
    found.append(Piece(text[position:], Role.TEMPLATE))
    return [piece for piece in found if piece.text or piece.ids]


def _end(following: Sequence[Piece], text: str, start: int) -> int:
    """Where a message that was changed ends: at the template's text that stands behind it."""
    behind = ""
    for piece in following:
        if piece.message >= 0:
            break
        behind += piece.text
    if not behind:
        return start if following else len(text)
    end = text.find(behind, start)
    return start if end < 0 else end


def _said(piece: Piece) -> str:
    """The text of a piece as templates see it: without the white space around an answer's own tokens."""
    return piece.text if piece.ids is None else piece.text.strip()
