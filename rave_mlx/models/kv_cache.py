"""Keys, values and gate features of one conversation, for every decoder layer.

A gate's key features cannot be recomputed from cached keys (those are rotated), so they are kept beside them and
grow, shrink and die with them. Arrays grow in steps, so that a decode step writes one row instead of copying all; the
features of text are zero, as fresh rows are, and are not written at all.

Keys and values may be kept in 8 or 4 bits (`LMM.kv_bits`). Each row is packed by itself, once, when it is added, and
all queries, those of its own pass included, see the packed row: what is read does not depend on how it was divided into
passes, batches and conversations (up to rounding, by which a number between two codes may take the other one). Gate
features are kept whole.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Protocol

import mlx.core as mx

from rave_mlx.attention import Packed, group_size, pack
from rave_mlx.attention.gate import PairGate, QueryMap
from rave_mlx.models.hooks import PassHooks
from rave_mlx.models.state_cache import StateCache

Rows = mx.array | Packed
"""Keys or values of all tokens so far."""
_STEP = 128
"""Rows by which arrays grow."""


class LayerCache:
    """One layer's keys (B, G, L, d), values (B, G, L, d) and, once there are any, gate features (B, G_s, L, R).

    Attributes:
        bits: of a number of keys and values; None: they are kept whole.
        length: tokens kept.
        query_map: the map of the layer's gate, which is the same for every token; None until it is needed.
    """

    def __init__(self, bits: int | None = None) -> None:
        # Keys, values (of packed ones codes, scales and biases), features, which are zero from `length` on.
        self._arrays: list[mx.array] = []
        self.bits = bits
        self._features = 2 if bits is None else 6
        self.length = 0
        self._room = 0
        self.query_map: QueryMap | None = None
        self._columns: tuple[tuple[int, int], mx.array] | None = None

    @classmethod
    def holding(cls, arrays: Sequence[mx.array], length: int, bits: int | None = None) -> LayerCache:
        """A cache of rows that are there already, in new array objects: what holds them now keeps what it has.

        Args:
            arrays: keys and values and, where there are any, features; with room for at least `length` rows. Features
                are zero from `length` on.
            length: rows that count.
            bits: of the cache that they are from.
        """
        cache = cls(bits)
        cache._arrays, cache.length = [mx.array(x) for x in arrays], length
        cache._room = cache._arrays[0].shape[2] if cache._arrays else 0
        return cache

    def map_of(self, gate: PairGate) -> QueryMap:
        """The query map of the layer's gate, computed once."""
        if self.query_map is None:
            self.query_map = gate.query_map()
        return self.query_map

    def append(
        self, keys: mx.array, values: mx.array, features: mx.array | None = None
    ) -> tuple[Rows, Rows, mx.array | None]:
        """Add new rows along axis 2, and return all rows so far.

        Args:
            keys: rotated keys (B, G, n, d).
            values: (B, G, n, d).
            features: of the gate (B, G_s, n, R); None: those of text, which are zero.

        Returns:
            Keys and values, packed ones where `bits` says so, and features, None where there are none.
        """
        if features is not None:
            self._columns = None
        new = [*self._stored(keys), *self._stored(values), *([] if features is None else [features])]
        start, stop = self.length, self.length + keys.shape[2]
        self.reserve(keys.shape[2])
        for like in new[len(self._arrays) :]:
            room = self._arrays[0].shape[2] if self._arrays else self._room
            self._arrays.append(mx.zeros((*like.shape[:2], room, like.shape[3]), like.dtype))
        for i, x in enumerate(new):
            self._arrays[i][:, :, start:stop] = x
        self.length = stop
        rows = [x[:, :, :stop] for x in self._arrays]
        kept = rows[self._features] if len(rows) > self._features else None
        if self.bits is None:
            return rows[0], rows[1], kept
        size = group_size(keys.shape[3], self.bits)
        packed = [Packed(rows[i], rows[i + 1], rows[i + 2], size, self.bits) for i in (0, 3)]
        return packed[0], packed[1], kept

    def reserve(self, rows: int) -> list[mx.array]:
        """The stored arrays, with room for more rows along axis 2: who writes those counts them in `length`."""
        if self.length + rows > self._room:
            self._room = room_for(self.length + rows)
            self._arrays = [_padded(x[:, :, : self.length], self._room) for x in self._arrays]
        return self._arrays

    def _stored(self, x: mx.array) -> list[mx.array]:
        """The arrays that rows (B, G, n, d) of keys or values are kept in."""
        if self.bits is None:
            return [x]
        packed = pack(x, group_size(x.shape[3], self.bits), self.bits)
        return [packed.codes, packed.scales, packed.biases]

    def feature_columns(self, span: tuple[int, int]) -> mx.array:
        """The gate features of keys [first, last), transposed (B, G_s, R, n) and contiguous.

        Those of a page stay the same for all of its answer: each written token is multiplied with them.
        """
        if self._columns is None or self._columns[0] != span:
            self._columns = span, mx.contiguous(self._arrays[self._features][:, :, span[0] : span[1]].swapaxes(-1, -2))
        return self._columns[1]

    def trim(self, length: int) -> None:
        """Forget every row from `length` on."""
        self._columns = None if length < self.length else self._columns
        if length < self.length and len(self._arrays) > self._features:
            # `append` leaves the rows of text as they are, which has to mean zero.
            self._arrays[self._features][:, :, length : self.length] = 0.0
        self.length = min(self.length, length)

    def fork(self, length: int) -> LayerCache:
        """A cache of the first tokens; this one stays as it is."""
        return LayerCache.holding(self.first(length), length, self.bits) if length else LayerCache(self.bits)

    def first(self, length: int) -> list[mx.array]:
        """What is stored of the first tokens, for `holding`."""
        return [x[:, :, :length] for x in self._arrays]

    @property
    def arrays(self) -> list[mx.array]:
        """The stored arrays, for evaluation and for counting bytes."""
        return self._arrays


def room_for(rows: int) -> int:
    """Rows to make room for, so that this many fit."""
    return -(-rows // _STEP) * _STEP


def _padded(x: mx.array, rows: int) -> mx.array:
    fresh = mx.zeros((*x.shape[:2], rows - x.shape[2], x.shape[3]), x.dtype)
    return mx.concatenate([x, fresh], axis=2)


class Mirror(Protocol):
    """Told of all that happens to a cache besides passes: other processes hold further heads of the same tokens."""

    def trim(self, length: int) -> None:
        """As of `Cache.trim`."""

    def keep_states(self) -> None:
        """As of `Cache.keep_states`."""

    def keep_first(self, counts: Sequence[int], length: int) -> None:
        """As of `StateCache.keep_first`, of every state."""

    def fork(self, length: int) -> Mirror:
        """That of a cache of the first tokens."""

    def side_by_side(self, rows: Sequence[tuple[Mirror | None, int, Sequence[int]]], length: int) -> Mirror:
        """That of rows of several caches as one: each of a cache, its row there, and the slots of its tokens.

        Args:
            rows: this mirror's cache is among them.
            length: slots that there are to be.
        """


class Cache:
    """The layers' caches and what is known about the tokens in them.

    Attributes:
        layers: keys and values, or in layers with linear attention a state.
        gated: whether gate features are computed and kept.
        visual_span: [first, last + 1) positions that hold every visual token, (0, 0) without one.
        hooks: what keys and values were made under (attention policies and what they know); None without any.
        mirror: of a model that is split over processes; else None.
    """

    def __init__(
        self,
        num_layers: int,
        *,
        gated: bool,
        hooks: PassHooks | None = None,
        linear: Collection[int] = (),
        kv_bits: int | None = None,
    ):
        """An empty cache.

        Args:
            num_layers: of the decoder.
            gated, hooks: see above.
            linear: layers with linear attention.
            kv_bits: of a number of keys and values; None keeps them whole.
        """
        self.layers: list[LayerCache | StateCache] = [
            StateCache() if i in linear else LayerCache(kv_bits) for i in range(num_layers)
        ]
        self.gated = gated
        self.visual_span = (0, 0)
        self.hooks = hooks
        self.mirror: Mirror | None = None

    @property
    def length(self) -> int:
        """Tokens read so far."""
        return self.layers[0].length

    @property
    def nbytes(self) -> int:
        """Bytes held, with the room kept for growth."""
        return sum(x.nbytes for layer in self.layers for x in layer.arrays)

    @property
    def states(self) -> dict[int, StateCache]:
        """The states of linear attention by layer; empty without them."""
        return {index: layer for index, layer in enumerate(self.layers) if isinstance(layer, StateCache)}

    def extend_visual_span(self, first: int, last: int) -> None:
        """Note that there are visual tokens in positions [first, last)."""
        low, high = self.visual_span
        self.visual_span = (min(low, first), max(high, last)) if low < high else (first, last)

    def reserve(self, tokens: int) -> None:
        """Make room for more tokens at once, which grown arrays would be copied for several times."""
        for layer in self.layers:
            if isinstance(layer, LayerCache):
                layer.reserve(tokens)

    def keep_states(self) -> None:
        """Make it possible to go back to the present length, which keys and values always allow and states do not."""
        for state in self.states.values():
            state.keep()
        if self.mirror is not None:
            self.mirror.keep_states()

    def reach(self, length: int) -> int:
        """The largest length up to `length` that `trim` can go back to; without states that is `length`."""
        length, before = min(length, self.length), -1
        while length != before:
            before = length
            for index, state in self.states.items():
                own = self._own(index, length)
                length = max(0, length - own + state.reach(own))
        return length

    def trim(self, length: int) -> None:
        """Forget every token from position `length` on, which is one that `reach` gives.

        Layers after a pruning policy hold fewer tokens; `hooks` knows how many of theirs those are.

        Raises:
            ValueError: for a length that states cannot go back to.
        """
        own = [self._own(index, length) for index in range(len(self.layers))]
        for layer, kept in zip(self.layers, own, strict=True):
            layer.trim(kept)
        if self.mirror is not None:
            self.mirror.trim(length)
        if self.hooks is not None:
            self.hooks.trim(length)
        low, high = self.visual_span
        self.visual_span = (low, min(high, length)) if low < length else (0, 0)

    def _own(self, index: int, length: int) -> int:
        """How many tokens a layer holds of the first `length`."""
        if self.hooks is None or length <= 0:
            return length
        return len(self.hooks.tokens_of(index)) - max(0, len(self.hooks.tokens) - length)

    def evaluate(self) -> None:
        """Compute everything stored, so that no graph of earlier steps is kept alive."""
        states = [] if self.hooks is None else self.hooks.arrays
        mx.eval([x for layer in self.layers for x in layer.arrays] + states)
