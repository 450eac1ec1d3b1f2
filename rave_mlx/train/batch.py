"""Several examples in one rectangle, padded on the right.

Padding comes after everything and the mask is causal, so no token of a row can see it; what it computes is never read.
Rows may hold any number of images of any size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rave_mlx.inputs.images.preprocess import ImagePatches
from rave_mlx.inputs.prompt.positions import last_inputs
from rave_mlx.train.example import Example


@dataclass(frozen=True, eq=False)
class Batch:
    """What one forward pass reads. All arrays are NumPy's, so that any thread may make them.

    Attributes:
        ids: (B, L) token ids, 0 for padding.
        positions: (B, 3, L) rotary positions, 0 for padding; (B, 4, L) with the axes of a page.
        visual: (B, L) marks of visual tokens.
        loss_mask: (B, L) marks of the tokens that are targets.
        feature: (B, L) for visual tokens their row in the features of `images`, one after the other; else 0.
        lookahead: (B, 2, L) first and end of later tokens that a token also sees; None for a causal model.
        reader: (B, L) as of `TokenMap.reader`, 0 for padding.
        image: (B, L) index among the row's images of the one that a visual token belongs to, -1 for the others.
        images: the images of all rows; one that several rows show is there once.
        lengths: (B,) tokens of each row.
        where: the rows' names.
    """

    ids: NDArray[np.int32]
    positions: NDArray[np.int32]
    visual: NDArray[np.bool_]
    loss_mask: NDArray[np.bool_]
    feature: NDArray[np.int32]
    lookahead: NDArray[np.int32] | None
    reader: NDArray[np.int32]
    image: NDArray[np.int32]
    images: tuple[ImagePatches, ...]
    lengths: NDArray[np.int32]
    where: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.where)

    @property
    def count(self) -> int:
        """Trained tokens: what a sum of losses is divided by."""
        return int(self.loss_mask.sum())

    @property
    def tokens(self) -> int:
        """Tokens without padding."""
        return int(self.lengths.sum())

    @property
    def span(self) -> tuple[int, int]:
        """[first, last + 1) columns with visual tokens, (0, 0) without one."""
        columns = np.flatnonzero(self.visual.any(axis=0))
        return (int(columns[0]), int(columns[-1]) + 1) if columns.size else (0, 0)


def collate(examples: Sequence[Example]) -> Batch:
    """One batch; of no example at all, one without rows."""
    length = max((len(e) for e in examples), default=0)
    images: dict[str, ImagePatches] = {}
    for example in examples:
        images.update((image.digest, image) for image in example.prompt.images if image.digest not in images)
    starts = dict(zip(images, np.cumsum([0, *(image.tokens for image in images.values())]).tolist(), strict=False))
    maps = [e.prompt.token_map for e in examples]
    lookahead = [_padded(m.lookahead, length) for m in maps if m.lookahead is not None]
    return Batch(
        ids=_stack([e.prompt.ids[0] for e in examples], length, np.int32),
        positions=_stack([m.positions for m in maps], length, np.int32, len(maps[0].positions) if maps else 3),
        visual=_stack([m.visual for m in maps], length, np.bool_),
        loss_mask=_stack([e.loss_mask for e in examples], length, np.bool_),
        feature=_stack([_rows(e, starts) for e in examples], length, np.int32),
        lookahead=np.stack(lookahead) if lookahead and any((o[1] > o[0]).any() for o in lookahead) else None,
        reader=_stack([last_inputs(m.role, m.image) for m in maps], length, np.int32),
        image=_stack([m.image + 1 for m in maps], length, np.int32) - 1,
        images=tuple(images.values()),
        lengths=np.array([len(e) for e in examples], np.int32),
        where=tuple(e.where for e in examples),
    )


def _rows(example: Example, starts: dict[str, int]) -> NDArray[np.int32]:
    """(L,) for each visual token its row in the features of all images."""
    image = example.prompt.token_map.image
    rows = np.zeros(len(image), np.int32)
    for index, patches in enumerate(example.prompt.images):
        own = image == index
        rows[own] = starts[patches.digest] + np.arange(int(own.sum()), dtype=np.int32)
    return rows


def _padded(x: NDArray[np.int32], length: int) -> NDArray[np.int32]:
    return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, length - x.shape[-1])])


def _stack(rows: Sequence[NDArray[Any]], length: int, dtype: type[np.generic], *inner: int) -> NDArray[Any]:
    """(B, *inner, length), zeros behind every row."""
    out = np.zeros((len(rows), *inner, length), dtype)
    for target, row in zip(out, rows, strict=True):
        target[..., : row.shape[-1]] = row
    return out
