"""Places for images in the text of a row: `<image>`, and what other programs write instead."""

from __future__ import annotations

import re

from rave_mlx.inputs.text_files import RowError

MARKER = "<image>"
_OTHERS = re.compile(
    r"<image[ _-]?\d+>|<\|image(_pad|_\d+)?\|>|<img>|<\|vision_(start|pad)\|>|\[IMG\]|<ImageHere>|<image_placeholder>"
    r"|<image_soft_token>|<start_of_image>|<IMG_CONTEXT>|<video>|<audio>"
)


def split_at_markers(text: str) -> list[str]:
    """The pieces of a text between its markers; a line break that only sets a marker apart goes with it."""
    return re.split(rf"\n?{MARKER}\n?", text)


def check_placeholders(text: str, where: str) -> None:
    """Refuse another program's place for an image, which would be read as text.

    Raises:
        RowError: naming it.
    """
    found = _OTHERS.search(text)
    if found is not None:
        raise RowError(f"{where}: {found[0]} looks like a place for an image; write {MARKER} instead")
