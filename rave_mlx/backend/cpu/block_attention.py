"""Attention of many queries as one operation of MLX, computed by the kernels: scores never leave a core's cache.

Arrays are handed to the compiled library as Python objects, as in `layer_steps`.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import mlx.core as mx

_POINTER = ctypes.c_void_p


@dataclass(frozen=True)
class Bias:
    """A bias on scores: bound * tanh(x / bound), or x, for products x of features of queries and keys.

    Attributes:
        queries: features (B, heads of queries with a bias, Lq, R), float32.
        keys: features (B, heads of keys with a bias, Lk, R), float32.
        first, last: keys that have a bias, [first, last).
        bound: of the tanh; None for x itself.
        places: for each head of keys its place in `keys`, or -1 where it has no bias.
    """

    queries: mx.array
    keys: mx.array
    first: int
    last: int
    bound: float | None
    places: tuple[int, ...]


@dataclass(frozen=True)
class BlockAttention:
    """The library's attention."""

    _library: ctypes.PyDLL = field(repr=False)

    def __call__(
        self, q: mx.array, k: mx.array, v: mx.array, scale: float, causal: bool, bias: Bias | None = None
    ) -> tuple[mx.array, mx.array]:
        """softmax(scale * q k^T + bias) v, lazy, on the stream that is the default one.

        Args:
            q: queries (B, H, Lq, d), float32, as all arrays.
            k: keys (B, G, Lk, d), H a multiple of G.
            v: values (B, G, Lk, dv).
            scale: factor of the dot products.
            causal: whether a query, the last of which stands at the last key, sees no keys after its own.
            bias: on the scores.

        Returns:
            (B, H, Lq, dv), and the natural logarithm of the softmax' sums (B, H, Lq).
        """
        objects = [id(q), id(k), id(v), *([None, None] if bias is None else [id(bias.queries), id(bias.keys)])]
        first, last, places = (0, 0, (-1,) * k.shape[1]) if bias is None else (bias.first, bias.last, bias.places)
        bound = 0.0 if bias is None or bias.bound is None else bias.bound
        numbers = [int(causal), first, last, *places]
        out, lse = mx.array(0.0), mx.array(0.0)
        self._library.rave_attend(
            (_POINTER * 5)(*objects),
            (ctypes.c_int * len(numbers))(*numbers),
            (ctypes.c_float * 2)(scale, bound),
            id(out),
            id(lse),
        )
        return out.swapaxes(1, 2), lse


def find(file: str, sgemm: int | None) -> BlockAttention | None:
    """The attention of a compiled library; None where it finds no arrays in this MLX's objects, or gives wrong sums.

    Args:
        file: of the library.
        sgemm: address of a CBLAS function; None: there is none.
    """
    if sgemm is None:
        return None
    # Keeps Python's lock: the functions read and write Python's objects.
    library = ctypes.PyDLL(file)
    library.rave_attention_set_up.argtypes = [_POINTER, ctypes.c_int, _POINTER, ctypes.c_int, _POINTER]
    library.rave_attend.argtypes = [_POINTER] * 5
    library.rave_attend.restype = None
    header = object.__basicsize__
    if mx.array.__basicsize__ < header + 8 + ctypes.sizeof(_POINTER):
        return None
    for shape in ((3,), (2, 5, 7)):
        x = mx.zeros(shape)
        sizes = (ctypes.c_int * len(shape))(*shape)
        if not library.rave_attention_set_up(_POINTER(sgemm), header, _POINTER(id(x)), len(shape), sizes):
            return None
    attention = BlockAttention(library)
    return attention if _is_right(attention) else None


def _is_right(attention: BlockAttention) -> bool:
    """Whether a causal call with a bias, of blocks that are not full, agrees with MLX's own operations."""
    with mx.stream(mx.cpu):
        q, k = mx.sin(mx.arange(4 * 150 * 16.0)).reshape(1, 4, 150, 16), mx.cos(mx.arange(2 * 300 * 16.0))
        k = k.reshape(1, 2, 300, 16)
        bias = Bias(q[:, :2], k[:, 1:], 20, 280, 2.0, (-1, 0))
        found, _ = attention(q, k, k, 0.3, True, bias)
        scores = 0.3 * q.reshape(1, 2, 2, 150, 16) @ k[:, :, None].swapaxes(-1, -2)
        extra = 2 * mx.tanh(bias.queries @ k[:, 1:, 20:280].swapaxes(-1, -2) / 2)
        scores[:, 1:, :, :, 20:280] = scores[:, 1:, :, :, 20:280] + extra[:, None]
        seen = mx.arange(150, 300)[:, None] >= mx.arange(300)
        right = (mx.softmax(mx.where(seen, scores, -mx.inf), axis=-1) @ k[:, :, None]).reshape(q.shape)
        return bool((mx.abs(found - right).max() < 1e-4).item())
