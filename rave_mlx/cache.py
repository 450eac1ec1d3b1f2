"""Keys, values and gate features of one conversation, for every decoder layer.

A gate's key features cannot be recomputed from cached keys (those are rotated), so they are kept beside them and
grow, shrink and die with them. Arrays grow in steps, so that a decode step writes one row instead of copying all.
"""

from __future__ import annotations

import mlx.core as mx

from rave_mlx.attention.policies.run import Run

_STEP = 256


class LayerCache:
    """One layer's keys (B, G, L, d), values (B, G, L, d) and, if gated, gate features (B, G_s, L, R)."""

    def __init__(self) -> None:
        self._arrays: list[mx.array] = []
        self.length = 0

    def append(self, *new: mx.array) -> list[mx.array]:
        """Add rows along axis 2 to every array and return the arrays with all rows so far."""
        start, stop = self.length, self.length + new[0].shape[2]
        if not self._arrays or stop > self._arrays[0].shape[2]:
            room = -(-stop // _STEP) * _STEP
            self._arrays = [self._grown(i, x, room) for i, x in enumerate(new)]
        for i, x in enumerate(new):
            self._arrays[i][:, :, start:stop] = x
        self.length = stop
        return [x[:, :, :stop] for x in self._arrays]

    def _grown(self, index: int, like: mx.array, room: int) -> mx.array:
        batch, heads, _, width = like.shape
        if not self._arrays:
            return mx.zeros((batch, heads, room, width), like.dtype)
        old = self._arrays[index][:, :, : self.length]
        return mx.concatenate([old, mx.zeros((batch, heads, room - self.length, width), like.dtype)], axis=2)

    def trim(self, length: int) -> None:
        """Forget every row from `length` on."""
        self.length = min(self.length, length)

    @property
    def arrays(self) -> list[mx.array]:
        """The stored arrays, for evaluation and for counting bytes."""
        return self._arrays


class Cache:
    """The layers' caches and what is known about the tokens in them.

    Attributes:
        gated: whether gate features are computed and kept.
        visual_span: [first, last + 1) positions that hold every visual token, (0, 0) without one.
        run: the attention policies that keys and values were made under, and what they know; None without any.
    """

    def __init__(self, num_layers: int, *, gated: bool, run: Run | None = None):
        self.layers = [LayerCache() for _ in range(num_layers)]
        self.gated = gated
        self.visual_span = (0, 0)
        self.run = run

    @property
    def length(self) -> int:
        """Tokens read so far."""
        return self.layers[0].length

    @property
    def nbytes(self) -> int:
        """Bytes held, with the room kept for growth."""
        return sum(x.nbytes for layer in self.layers for x in layer.arrays)

    def see(self, first: int, last: int) -> None:
        """Note visual tokens in positions [first, last)."""
        low, high = self.visual_span
        self.visual_span = (min(low, first), max(high, last)) if low < high else (first, last)

    def trim(self, length: int) -> None:
        """Forget every token from position `length` on.

        Layers after a pruning policy hold fewer tokens; `run` knows how many of theirs those are.
        """
        if self.run is not None:
            self.run.trim(length)
        for index, layer in enumerate(self.layers):
            layer.trim(length if self.run is None else len(self.run.tokens_of(index)))
        low, high = self.visual_span
        self.visual_span = (low, min(high, length)) if low < length else (0, 0)

    def evaluate(self) -> None:
        """Compute everything stored, so that no graph of earlier steps is kept alive."""
        states = [] if self.run is None else self.run.arrays
        mx.eval([x for layer in self.layers for x in layer.arrays] + states)
