"""The state of linear attention in one conversation, for one decoder layer.

Keys and values of any beginning of a conversation lie in the cache of keys and values; a state is that of all tokens
so far, and none that were read can be taken out. So a cache can go back to some lengths only (`reach`): into its newest
pass, whose tokens are kept and read again from the state before it, and to the lengths at which the state was kept.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from rave_mlx.models.delta_rule import Updates, empty_state, run

_UNDONE = 64
"""Tokens of a pass up to which it can be gone back into."""
_KEPT = 4
"""States that are kept besides the newest one."""


@dataclass(frozen=True, eq=False)
class _Pass:
    """The newest pass of n tokens.

    Attributes:
        inputs: of the convolution, what it still saw of earlier tokens first, (B, kernel - 1 + n, channels).
        updates: of the n tokens.
        state: before them.
    """

    inputs: mx.array
    updates: Updates
    state: mx.array

    def after(self, count: int) -> list[mx.array]:
        """What a cache holds after the first tokens of the pass: the convolution's tail, and the state."""
        tail = self.inputs[:, count : self.inputs.shape[1] - self.updates.length + count]
        first = self.updates.map(lambda x: x[:, :count])
        return [tail, run(first, self.state)[1] if count else self.state]

    def after_each(self, counts: Sequence[int]) -> list[mx.array]:
        """The same, where every row has another count."""
        marks = np.arange(self.updates.length) < np.array(counts)[:, None]
        state = run(self.updates.only(mx.array(marks)), self.state)[1]
        return [_tails(self.inputs, mx.array(list(counts)), self.inputs.shape[1] - self.updates.length), state]


class StateCache:
    """One layer's state (B, Hv, Dv, Dk), float32, and the tokens (B, kernel - 1, channels) its convolution still sees.

    Attributes:
        length: tokens read; of rows side by side, slots (`generation.batch_cache`).
    """

    def __init__(self) -> None:
        # The tail of the convolution's inputs, and the state.
        self._now: list[mx.array] = []
        self.length = 0
        self._last: _Pass | None = None
        self._undone = _UNDONE
        self._kept: dict[int, list[mx.array]] = {}

    @classmethod
    def side_by_side(cls, rows: Sequence[tuple[StateCache, int]], length: int) -> StateCache:
        """The states of several answers as rows of one.

        Args:
            rows: the cache that holds each, and its row there.
            length: as of the attribute.
        """
        cache, held = cls(), [[x[row : row + 1] for x in other._now] for other, row in rows]
        cache._now = [mx.concatenate(list(same)) for same in zip(*held, strict=True)]
        cache.length = length
        # Every pass of a batch may be followed by `keep_first`.
        cache._undone = sys.maxsize
        return cache

    @classmethod
    def holding(cls, arrays: Sequence[mx.array], length: int) -> StateCache:
        """A cache after `length` tokens, from what `first` gave."""
        cache = cls()
        cache._now, cache.length = list(arrays), length
        cache.keep()
        return cache

    def first(self, length: int) -> list[mx.array]:
        """What is stored after the first tokens, to a length as of `reach`."""
        return self.fork(length)._now

    def tail(self, like: mx.array, reach: int) -> mx.array:
        """The `reach` inputs before the next token (B, reach, channels), zero before the first; `like` is of that."""
        return self._now[0] if self._now else mx.zeros((like.shape[0], reach, like.shape[2]), like.dtype)

    def state(self, updates: Updates) -> mx.array:
        """The state before the tokens of `updates`."""
        return self._now[1] if self._now else empty_state(updates)

    @property
    def arrays(self) -> list[mx.array]:
        """The stored arrays, for evaluation and for counting bytes."""
        last = self._last
        undone = [] if last is None else [last.inputs, last.state, *last.updates.arrays]
        found = [*self._now, *undone, *(x for kept in self._kept.values() for x in kept)]
        # What is kept may be the newest state, too.
        return list({id(x): x for x in found}.values())

    def extend(self, inputs: mx.array, updates: Updates, state: mx.array, real: mx.array | None) -> None:
        """Note a pass.

        Args:
            inputs: of the convolution, as of `_Pass`.
            updates: of its tokens.
            state: after them.
            real: (B, n) marks of tokens that are no padding, which come first in their rows; None where all are real.
        """
        count, before = updates.length, self.state(updates)
        reach = inputs.shape[1] - count
        tail = inputs[:, count:] if real is None else _tails(inputs, real.astype(mx.int32).sum(axis=1), reach)
        self._now = [mx.contiguous(tail), state]
        self._last = _Pass(inputs, updates, before) if count <= self._undone else None
        self.length += count

    def keep(self) -> None:
        """Keep the state as it is now, to go back to it; the oldest of too many is given up."""
        if self.length:
            self._kept[self.length] = self._now
        while len(self._kept) > _KEPT:
            del self._kept[min(self._kept)]

    def reach(self, length: int) -> int:
        """The largest length up to `length` that the cache can go back to."""
        if length >= self.length:
            return self.length
        if self._last is not None and length >= self.length - self._last.updates.length:
            return length
        return max((kept for kept in self._kept if kept <= length), default=0)

    def trim(self, length: int) -> None:
        """Forget every token from `length` on.

        Raises:
            ValueError: for a length that cannot be gone back to.
        """
        if length >= self.length:
            return
        if self.reach(length) != length:
            raise ValueError(f"a state of {self.length} tokens cannot go back to {length}; ask `reach` first")
        last, start = self._last, self.length - (0 if self._last is None else self._last.updates.length)
        if length in self._kept:
            self._now = self._kept[length]
        elif last is not None and length >= start:
            self._now = last.after(length - start)
        else:
            self._now = []
        self.length, self._last = length, None
        self._kept = {kept: arrays for kept, arrays in self._kept.items() if kept <= length}

    def keep_first(self, counts: Sequence[int], length: int) -> None:
        """Of the newest pass, keep the first `counts[i]` tokens in row i.

        Args:
            counts: of each row.
            length: slots that there are from now on.
        """
        assert self._last is not None
        if any(count < self._last.updates.length for count in counts):
            self._now = self._last.after_each(counts)
        self.length, self._last = length, None

    def fork(self, length: int) -> StateCache:
        """A cache of the first tokens, to a length as of `reach`; this one stays as it is."""
        copy = StateCache()
        copy._now, copy.length, copy._last, copy._kept = self._now, self.length, self._last, dict(self._kept)
        copy.trim(length)
        return copy


def _tails(inputs: mx.array, counts: mx.array, reach: int) -> mx.array:
    """The `reach` inputs before the end of each row's real tokens; counts (B,) of the new ones, `reach` come before."""
    places = counts.astype(mx.int32)[:, None] + mx.arange(reach)
    return mx.take_along_axis(inputs, places[..., None], axis=1)
