"""Rotary positions (RoFormer, arXiv 2104.09864) in the rotate-half layout: one-dimensional, multimodal
(Qwen2-VL, arXiv 2409.12191) and two-dimensional for image patches. Tables are float32; how fast the pairs turn is
decided in `rope_scaling`.

Tokens that follow one another at the same position on all axes, which written text does, need no table on a GPU:
`mx.fast.rope` takes one number for them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx import backend
from rave_mlx.backend.decode_ops import is_one_token, rotate
from rave_mlx.config import RopeConfig, TextConfig
from rave_mlx.models.rope_scaling import frequencies, rope_bucket


@dataclass(frozen=True)
class Consecutive:
    """Positions of text: tokens that follow one another, each at one position on all three axes.

    Attributes:
        first: position of the first token of each row (B,).
        count: tokens of a row.
    """

    first: tuple[int, ...]
    count: int

    def array(self) -> mx.array:
        """The same as positions (B, 3, count)."""
        rows = np.array(self.first, np.int32)[:, None] + np.arange(self.count, dtype=np.int32)
        return mx.array(np.broadcast_to(rows[:, None], (len(self.first), 3, self.count)))


def text_positions(positions: NDArray[np.int32]) -> Consecutive | None:
    """Positions (3, L) of one prompt's tokens as consecutive ones; None where they are not."""
    plain = positions[0, 0] + np.arange(positions.shape[1])
    return Consecutive((int(positions[0, 0]),), positions.shape[1]) if (positions == plain).all() else None


_BLOCK = 64
"""Positions for which a table is made at once on a CPU."""
Positions = mx.array | Consecutive
"""Positions of decoder tokens: temporal, vertical and horizontal (B, 3, L), or those of text."""


@dataclass(frozen=True)
class RotaryTable:
    """cos and sin of the angles, broadcastable to (B, H, L, r / 2) for the r <= d numbers of a head that are rotated.

    `neighbours`: pairs are (2 i, 2 i + 1) instead of (i, i + r / 2). `queries`: (B, 1, L, 1) factors of queries; None:
    none. `second`: cos and sin for the second numbers of the pairs, where they are others.
    """

    cos: mx.array
    sin: mx.array
    neighbours: bool = False
    queries: mx.array | None = None
    second: tuple[mx.array, mx.array] | None = None

    def astype(self, dtype: mx.Dtype) -> RotaryTable:
        """The table in the type of what it rotates, so that not every layer casts it."""
        return self if self.cos.dtype == dtype else self.map(lambda x: x.astype(dtype))

    def map(self, function: Callable[[mx.array], mx.array]) -> RotaryTable:
        """The table with another cos and sin."""
        second = None if self.second is None else (function(self.second[0]), function(self.second[1]))
        return replace(self, cos=function(self.cos), sin=function(self.sin), second=second)

    def at(self, index: int) -> RotaryTable:
        """The table of one of its tokens."""
        queries = None if self.queries is None else self.queries[:, :, index : index + 1]
        return replace(self.map(lambda x: x[:, :, index : index + 1]), queries=queries)

    def apply(self, x: mx.array) -> mx.array:
        """Rotate (B, H, L, d)."""
        width = 2 * self.cos.shape[-1]
        if width == x.shape[-1]:
            return self._turn(x)
        return mx.concatenate([self._turn(x[..., :width]), x[..., width:]], axis=-1)

    def _turn(self, x: mx.array) -> mx.array:
        """`apply` to numbers that are all rotated."""
        half = x.shape[-1] // 2
        first, second = (x[..., ::2], x[..., 1::2]) if self.neighbours else (x[..., :half], x[..., half:])
        if backend.current().kind != "cpu":
            cos, sin = (y.astype(x.dtype) for y in self._full_width)
            return _turned()(x, self._joined(second, first), cos, sin)
        cos, sin = self.cos.astype(x.dtype), self.sin.astype(x.dtype)
        other, sine = (cos, sin) if self.second is None else (y.astype(x.dtype) for y in self.second)
        return self._joined(first * cos - second * sin, second * other + first * sine)

    def _joined(self, first: mx.array, second: mx.array) -> mx.array:
        """The first and the second numbers of all pairs in their places."""
        if not self.neighbours:
            return mx.concatenate([first, second], axis=-1)
        return mx.stack([first, second], axis=-1).flatten(-2)

    def apply_both(self, q: mx.array, k: mx.array) -> tuple[mx.array, mx.array]:
        """Rotate queries (B, H, L, d) and keys (B, G, L, d)."""
        q = q if self.queries is None else q * self.queries.astype(q.dtype)
        if self.neighbours or not is_one_token(q) or 2 * self.cos.shape[-1] != q.shape[-1]:
            return self.apply(q), self.apply(k)
        rotated = rotate(mx.concatenate([q, k], axis=1), *self._full_width)
        return rotated[:, : q.shape[1]], rotated[:, q.shape[1] :]

    @cached_property
    def _full_width(self) -> tuple[mx.array, mx.array]:
        """What numbers, and these with those of each pair swapped, are multiplied by (B, 1, L, r)."""
        cos, sin = self.second or (self.cos, self.sin)
        return self._joined(self.cos, cos), self._joined(-self.sin, sin)


@dataclass(frozen=True)
class ConsecutiveRotation:
    """The rotation of `Consecutive` positions by `mx.fast.rope`, one operation an array on a GPU.

    Attributes:
        divisors: (r / 2,) positions a radian, for every pair.
        first: position of the first token; (B,) where rows differ.
        strength: factor of what is rotated.
        neighbours, queries: as of `RotaryTable`.
    """

    divisors: mx.array
    first: int | mx.array
    strength: float = 1.0
    neighbours: bool = False
    queries: mx.array | None = None

    def apply_both(self, q: mx.array, k: mx.array) -> tuple[mx.array, mx.array]:
        """Rotate queries (B, H, L, d) and keys (B, G, L, d)."""
        q = q if self.queries is None else q * self.queries.astype(q.dtype)
        return self.apply(q), self.apply(k)

    def apply(self, x: mx.array) -> mx.array:
        """Rotate (B, H, L, d)."""
        width, pairs = 2 * self.divisors.size, self.neighbours
        if self.strength != 1:
            stretched = x[..., :width] * self.strength
            x = stretched if width == x.shape[-1] else mx.concatenate([stretched, x[..., width:]], axis=-1)
        return mx.fast.rope(x, width, traditional=pairs, base=None, scale=1.0, offset=self.first, freqs=self.divisors)


Rotation = RotaryTable | ConsecutiveRotation


def text_rotation(
    config: RopeConfig, head_dim: int, positions: Positions, longest: int | None, dtype: mx.Dtype
) -> Rotation:
    """How a pass over decoder tokens rotates queries and keys.

    Args:
        config, head_dim, longest: as of `text_table`.
        positions: of the tokens.
        dtype: type of queries and keys.
    """
    if not isinstance(positions, Consecutive):
        return text_table(config, head_dim, positions, longest).astype(dtype)
    if backend.current().kind != "cpu":
        return consecutive_rotation(config, head_dim, positions, longest)
    if len(positions.first) > 1 or positions.count > 1:
        return text_table(config, head_dim, positions.array(), longest).astype(dtype)
    place = positions.first[0] % _BLOCK
    first, bucket = positions.first[0] - place, rope_bucket(config, longest or positions.first[0] + 1)
    return _block(config, head_dim, first, bucket, dtype).at(place)


def consecutive_rotation(
    config: RopeConfig, head_dim: int, positions: Consecutive, longest: int | None = None
) -> ConsecutiveRotation:
    """The rotation of text, whatever the backend; arguments as of `text_table`."""
    longest = max(positions.first) + positions.count if longest is None else longest
    bucket = rope_bucket(config, longest)
    one = len(set(positions.first)) == 1
    first = positions.first[0] if one else mx.array(positions.first, mx.int32)
    strength = frequencies(config, config.rotated(head_dim), bucket)[1]
    far = config.query_growth and max(positions.first) + positions.count > config.query_span
    queries = _query_factors(config, positions.array()) if far else None
    divisors = _divisors(config, head_dim, bucket)
    return ConsecutiveRotation(divisors, first, strength, config.pairs == "neighbours", queries)


@lru_cache(maxsize=16)
def _block(config: RopeConfig, head_dim: int, first: int, bucket: int, dtype: mx.Dtype) -> RotaryTable:
    """The table of `_BLOCK` positions: a dozen operations for the tokens that stand there, not for each."""
    table = _table(config, head_dim, Consecutive((first,), _BLOCK).array(), bucket).astype(dtype)
    mx.eval(table.cos, table.sin, [] if table.queries is None else table.queries, table.second or ())
    return table


@lru_cache(maxsize=64)
def _divisors(config: RopeConfig, head_dim: int, bucket: int) -> mx.array:
    turns = frequencies(config, config.rotated(head_dim), bucket)[0]
    return mx.array(np.divide(1, turns, out=np.full_like(turns, np.inf), where=turns > 0).astype(np.float32))


def text_table(config: RopeConfig, head_dim: int, positions: mx.array, longest: int | None = None) -> RotaryTable:
    """The rotary table of decoder tokens.

    Args:
        config: the settings. Without sections only the first of the three positions is used.
        head_dim: width of a head.
        positions: (B, 3, L): temporal, vertical and horizontal; (B, 4, L) with the axes of a page.
        longest: length in positions of the sequence that the tokens belong to, for scalings that follow it; None where
            these tokens end it, which is then read from the array (not traceable, and only done for such scalings).
    """
    if longest is None and config.scaling is not None and config.scaling.follows_length:
        longest = int(np.asarray(positions.max())) + 1
    return _table(config, head_dim, positions, rope_bucket(config, longest or 0))


def _table(config: RopeConfig, head_dim: int, positions: mx.array, bucket: int) -> RotaryTable:
    """`text_table` for lengths of one `rope_bucket`."""
    turns, strength = frequencies(config, config.rotated(head_dim), bucket)
    if config.sections is None:
        axes = positions[:, 0, :, None]
    elif config.axes == "page":
        # Text alone, whose axes are equal, may come with fewer of them.
        numbers = np.minimum(_page_axes(config.sections), positions.shape[1] - 1)
        axes, turns = positions.swapaxes(1, 2)[..., mx.array(numbers)], np.tile(turns, 2)
    else:
        axes = positions.swapaxes(1, 2)[..., mx.array(_axes(config.sections, config.interleaved))]
    angles = (axes.astype(mx.float32) * mx.array(turns, dtype=mx.float32))[:, None]
    cos, sin, second = mx.cos(angles), mx.sin(angles), None
    if config.axes == "page":
        half = cos.shape[-1] // 2
        second = cos[..., half:], sin[..., half:]
        cos, sin = cos[..., :half], sin[..., :half]
    table = RotaryTable(cos, sin, config.pairs == "neighbours", _query_factors(config, positions), second)
    return table if strength == 1 else table.map(lambda x: x * strength)


def _page_axes(sections: tuple[int, ...]) -> NDArray[np.int32]:
    """Which of the positions of a page each number of a head turns with: (place in the text, column, row, image)."""
    kinds = np.maximum(np.arange(len(sections), dtype=np.int32) - len(sections) + 4, 0)
    return np.repeat(kinds, 2 * np.array(sections))


def _query_factors(config: RopeConfig, positions: mx.array) -> mx.array | None:
    """What queries at positions (B, 3, L) are multiplied by (B, 1, L, 1); None: nothing."""
    if not config.query_growth:
        return None
    spans = mx.floor(positions[:, 0].astype(mx.float32) / config.query_span)
    return (1 + config.query_growth * mx.log(1 + spans))[:, None, :, None]


def sliding_table(text: TextConfig, positions: mx.array, longest: int | None = None) -> RotaryTable | None:
    """`text_table` for layers with a sliding window; None where they have no rotary positions of their own.

    Args:
        text: the decoder.
        positions, longest: as of `text_table`.
    """
    return text_table(*text.sliding_rotary, positions, longest) if text.rotates_windows else None


def _axes(sections: tuple[int, ...], interleaved: bool) -> NDArray[np.int32]:
    """Which of the three positions each frequency turns with (see RopeConfig)."""
    if not interleaved:
        return np.repeat(np.arange(len(sections), dtype=np.int32), sections)
    axes = np.zeros(sum(sections), np.int32)
    for axis in (1, 2):
        axes[axis : 3 * sections[axis] : 3] = axis
    return axes


def patch_table(theta: float, head_dim: int, rows: NDArray[np.int32], columns: NDArray[np.int32]) -> RotaryTable:
    """The rotary table of image patches: a quarter of the head turns with the row, a quarter with the column (twice).

    Args:
        theta: base of the frequencies.
        head_dim: width of a head, a multiple of 4.
        rows, columns: (patches,) where each stands in the image.
    """
    quarter = head_dim // 4
    frequencies = theta ** (-np.arange(quarter, dtype=np.float64) / quarter)
    angles = np.concatenate([rows[:, None] * frequencies, columns[:, None] * frequencies], axis=1)[None, None]
    return RotaryTable(mx.array(np.cos(angles).astype(np.float32)), mx.array(np.sin(angles).astype(np.float32)))


@cache
def _turned() -> Callable[..., mx.array]:
    """x * cos + swapped * sin as one operation of a GPU."""
    return mx.compile(lambda x, swapped, cos, sin: x * cos + swapped * sin, shapeless=True)
