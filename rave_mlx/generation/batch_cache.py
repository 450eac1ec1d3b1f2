"""Keys and values of several answers side by side, for one pass of the decoder over all of them.

A row is one answer, a slot a place that has one key in every row. A slot that is not real for a row (a *hole*) is
padding there: rows are of different lengths, a guessed token was wrong, a row had fewer new tokens than another. Rotary
positions are given with the tokens and do not follow from slots, so a hole may stand anywhere; the mask leaves it out.
What is real is kept on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx.models.kv_cache import Cache, LayerCache, room_for
from rave_mlx.models.state_cache import StateCache

Marks = NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class CachedRow:
    """The tokens of one answer in a cache.

    Attributes:
        cache: one that has no policies' hooks.
        row: which of its rows.
        slots: (n,) slots of the tokens, ascending.
        visual: (n,) marks of the visual ones.
    """

    cache: Cache
    row: int
    slots: NDArray[np.int64]
    visual: Marks

    @classmethod
    def whole(cls, cache: Cache, visual: Marks) -> CachedRow:
        """All that a cache of one answer holds; visual (length,) marks its visual tokens."""
        return cls(cache, 0, np.arange(cache.length), visual)


class BatchCache(Cache):
    """Stands in for `Cache` in `Decoder.hidden`, which is to be told what is real (`announce`).

    Args:
        rows: what it holds; in each, tokens start at slot 0.

    Attributes:
        real: (B, slots) marks of the slots that hold a token of a row.
        visual: (B, slots) marks of those that hold a visual one.
    """

    def __init__(self, rows: Sequence[CachedRow]):
        first = rows[0].cache
        super().__init__(len(first.layers), gated=first.gated)
        length = max(len(row.slots) for row in rows)
        self.real = np.stack([np.arange(length) < len(row.slots) for row in rows])
        self.visual = np.stack([np.pad(row.visual, (0, length - len(row.visual))) for row in rows])
        columns = np.flatnonzero(self.visual.any(axis=0))
        self.visual_span = (int(columns[0]), int(columns[-1]) + 1) if columns.size else (0, 0)
        self.layers = layers_side_by_side(rows, length)
        if first.mirror is not None:
            held = [(row.cache.mirror, row.row, row.slots.tolist()) for row in rows]
            self.mirror = first.mirror.side_by_side(held, length)

    @property
    def num_rows(self) -> int:
        """B."""
        return len(self.real)

    @property
    def share_real(self) -> float:
        """Which share of the slots holds a token."""
        return float(self.real.mean())

    def row(self, index: int) -> CachedRow:
        """What is real of a row."""
        slots = np.flatnonzero(self.real[index])
        return CachedRow(self, index, slots, self.visual[index, slots])

    def announce(self, counts: Sequence[int]) -> mx.array | None:
        """Make room for a pass in which row i has `counts[i]` new tokens, the first of max(counts) new slots.

        Returns:
            `valid` for `Decoder.hidden`, (B, slots) with the new ones; None where everything is real.
        """
        new = np.arange(max(counts)) < np.array(counts)[:, None]
        self.real = np.concatenate([self.real, new], axis=1)
        self.visual = np.concatenate([self.visual, np.zeros_like(new)], axis=1)
        return None if self.real.all() else mx.array(self.real)

    def keep(self, counts: Sequence[int], width: int) -> None:
        """Of the `width` newest slots, keep the first `counts[i]` in row i; the others become holes.

        Slots at the end that are holes in all rows are given up.
        """
        self.real[:, -width:] &= np.arange(width) < np.array(counts)[:, None]
        length = self.length - width + max(counts)
        for state in self.states.values():
            state.keep_first(counts, length)
        if self.mirror is not None:
            self.mirror.keep_first(counts, length)
        self.trim(length)

    def trim(self, length: int) -> None:
        """Give up every slot from `length` on."""
        super().trim(length)
        self.real, self.visual = self.real[:, :length], self.visual[:, :length]


def layers_side_by_side(rows: Sequence[CachedRow], length: int) -> list[LayerCache | StateCache]:
    """The layers' caches of several answers as one's, computed.

    Args:
        rows: what they hold; in each, tokens start at slot 0.
        length: slots that there are to be.
    """
    layers: list[LayerCache | StateCache] = []
    for index, layer in enumerate(rows[0].cache.layers):
        if isinstance(layer, StateCache):
            layers.append(StateCache.side_by_side([(row.cache.states[index], row.row) for row in rows], length))
            mx.eval(layers[-1].arrays)
            continue
        arrays = _side_by_side([(row.cache.layers[index].arrays, row) for row in rows], length)
        # Layer by layer, so that what is left behind can be freed meanwhile.
        mx.eval(arrays)
        layers.append(LayerCache.holding(arrays, length, layer.bits))
    return layers


def _side_by_side(rows: Sequence[tuple[Sequence[mx.array], CachedRow]], length: int) -> list[mx.array]:
    """One layer's arrays (B, G, room, d) of several rows, zero where a row has no token.

    Args:
        rows: the arrays that hold a row, of the same kinds for all rows, and where it is in them.
        length: slots that there are to be; there will be room for some more.
    """
    kinds = zip(*(arrays for arrays, _ in rows), strict=True)
    where, slots = [row for _, row in rows], room_for(length)
    return [mx.concatenate([_gathered(x, row, slots) for x, row in zip(same, where, strict=True)]) for same in kinds]


def _gathered(x: mx.array, row: CachedRow, length: int) -> mx.array:
    """A row's tokens of x (B, G, L, d) at the first of `length` slots, (1, G, length, d)."""
    slots, one = row.slots, x[row.row : row.row + 1]
    if len(slots) and int(slots[-1]) - int(slots[0]) + 1 == len(slots):
        one = one[:, :, int(slots[0]) : int(slots[-1]) + 1]
    else:
        one = mx.take(one, mx.array(slots.astype(np.int32)), axis=2)
    return mx.pad(one, [(0, 0), (0, 0), (0, length - len(slots)), (0, 0)])
