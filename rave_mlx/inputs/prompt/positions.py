"""Rotary positions of a prompt's tokens, and what tokens of an image see beyond themselves."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rave_mlx.inputs.prompt.message import Role

Grid = tuple[int, int, int]
"""Frames, rows and columns of patches."""


def lookahead_spans(ids: NDArray[np.int32], image: NDArray[np.int32], answer: int | None) -> NDArray[np.int32]:
    """What the tokens of an image see beyond themselves under modality-mutual attention (arXiv 2503.02597).

    Every image sees the rest of its turn: the tokens from its end up to and including the next `answer` token.
    The paper and its code know one image and one turn; there this is their rule (the code opens the columns from the
    image's end up to and including the first `<|assistant|>`). Without an `answer` token after it, an image sees
    nothing more, as in their pre-training on captions. Answers stay closed, so that reading a conversation at once
    gives what reading and writing it token by token gave.

    Returns:
        (2, L) first and end of the tokens that are seen ahead, equal where there are none.
    """
    lookahead = np.zeros((2, len(ids)), np.int32)
    answers = np.flatnonzero(ids == answer)
    for index in range(image.max(initial=-1) + 1):
        tokens = np.flatnonzero(image == index)
        end = int(tokens[-1]) + 1
        following = answers[answers >= end]
        if following.size:
            lookahead[:, tokens] = [[end], [int(following[0]) + 1]]
    return lookahead


def image_spans(image: NDArray[np.int32], *, whole: bool = False) -> NDArray[np.int32]:
    """What the tokens of an image see beyond themselves where they see each other (Gemma 3): the rest of the image.

    As in transformers, images with nothing between their tokens are one.

    Args:
        image: (L,) index of the image a visual token belongs to, -1 for the others.
        whole: give the whole image instead of the rest of it, for windows that are shorter than it.

    Returns:
        (2, L) first and end of the tokens that are seen ahead, equal where there are none.
    """
    lookahead = np.zeros((2, len(image)), np.int32)
    visual = np.concatenate([[False], image >= 0, [False]])
    edges = np.flatnonzero(visual[1:] != visual[:-1])
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        first = np.full(stop - start, start) if whole else np.arange(start + 1, stop + 1)
        lookahead[:, start:stop] = [first, np.full(stop - start, stop)]
    return lookahead


def last_inputs(role: NDArray[np.int8], image: NDArray[np.int32]) -> NDArray[np.int32]:
    """For every visual token the last input token of its turn: the one before the answer, or the prompt's last one.

    What depends on it (sink gates, arXiv 2604.03316) is then the same whether a conversation is read at once or was
    read and written turn by turn: an image belongs to the question that it was shown with.

    Args:
        role: (L,) values of `Role`.
        image: (L,) index of the image a visual token belongs to, -1 for the others.

    Returns:
        (L,) indices; text tokens have their own.
    """
    own = np.arange(len(role), dtype=np.int32)
    answers = np.flatnonzero(role == Role.ASSISTANT)
    ends = np.append(answers, len(role)).astype(np.int32)[np.searchsorted(answers, own)] - 1
    return np.where(image >= 0, ends, own)


def rotary_positions(image: NDArray[np.int32], grids: Sequence[Grid], merge_size: int) -> NDArray[np.int32]:
    """Multimodal positions (3, L) for still images (Qwen2-VL, arXiv 2409.12191, section 2.1).

    A text token advances all three; the tokens of an image share the temporal position and take their row and
    column; the text after an image goes on from the largest position used.
    """
    positions = np.empty((3, len(image)), np.int32)
    starts = np.flatnonzero(np.diff(image, prepend=-2))
    following = 0
    for start, stop in zip(starts, [*starts[1:], len(image)], strict=True):
        if image[start] < 0:
            positions[:, start:stop] = following + np.arange(stop - start, dtype=np.int32)
            following += stop - start
            continue
        _, rows, columns = (1, *(side // merge_size for side in grids[image[start]][1:]))
        row, column = np.divmod(np.arange(stop - start, dtype=np.int32), columns)
        positions[:, start:stop] = following + np.stack([np.zeros_like(row), row, column])
        following += max(rows, columns)
    return positions


def page_positions(image: NDArray[np.int32], grids: Sequence[Grid], merge_size: int) -> NDArray[np.int32]:
    """Positions (4, L) with the axes of a page (HunyuanOCR): place in the text, column, row, number of the image.

    A text token has its place on all four, and so have the first and the last token of an image. The others are rows
    of visual tokens, each with one more at its end.
    """
    positions = np.tile(np.arange(len(image), dtype=np.int32), (4, 1))
    for index, grid in enumerate(grids):
        tokens = np.flatnonzero(image == index)[1:-1]
        row, column = np.divmod(np.arange(len(tokens), dtype=np.int32), grid[2] // merge_size + 1)
        positions[1:, tokens] = np.stack([column, row, np.full_like(row, index)])
    return positions


def plain_positions(length: int) -> NDArray[np.int32]:
    """Positions (3, L) of a model that knows one axis only."""
    return np.tile(np.arange(length, dtype=np.int32), (3, 1))
