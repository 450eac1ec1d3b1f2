"""The byte-level vocabulary of the built-in reader: Qwen's control tokens, two roles, 256 bytes."""

from __future__ import annotations

CONTROL = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
END_OF_TEXT, TURN_START, TURN_END, VISION_START, VISION_END, _, IMAGE, VIDEO = range(8)
ASSISTANT, USER, FIRST_BYTE = 8, 9, 10
VOCABULARY = 272
"""Rows of the embedding; the last six belong to no token."""
NEWLINE = FIRST_BYTE + ord("\n")
IMAGE_PREFIX = (TURN_START, USER, NEWLINE, VISION_START)
"""What stands before the visual tokens; VISION_END stands behind them."""


def encode(text: str) -> list[int]:
    """Bytes of the text as token ids."""
    return [FIRST_BYTE + byte for byte in text.encode()]


def decode(ids: list[int]) -> str:
    """Text of the byte tokens among `ids`; control tokens are left out, broken UTF-8 becomes U+FFFD."""
    return bytes(i - FIRST_BYTE for i in ids if FIRST_BYTE <= i < FIRST_BYTE + 256).decode(errors="replace")


def question_ids(question: str) -> list[int]:
    """A question as it follows the image, up to the start of the answer (the chat template's text)."""
    return [*encode(question), TURN_END, NEWLINE, TURN_START, ASSISTANT, NEWLINE]
