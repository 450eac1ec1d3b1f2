"""A decoder layer's step over one written token as one operation of MLX, computed by the kernels.

Its arrays are handed to the compiled library as Python objects, in which it finds MLX's own: what MLX is bound with
(nanobind) keeps them at a place that is looked up, and tried when the library is opened.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

_POINTER = ctypes.c_void_p


@dataclass(frozen=True)
class Matrix:
    """A packed matrix: what `mx.quantize` makes of it, a bias or None, and the packing."""

    codes: mx.array
    scales: mx.array
    biases: mx.array
    bias: mx.array | None
    bits: int
    group_size: int


@dataclass(frozen=True)
class Form:
    """Sizes of a layer.

    Attributes:
        heads, kv_heads, width: heads of queries and of keys, and numbers of a head (a multiple of 16, up to 256).
        eps, head_eps: added to mean squares by the layer's norms, and by those of queries and keys.
        scale: factor of the dot products.
    """

    heads: int
    kv_heads: int
    width: int
    eps: float
    head_eps: float
    scale: float


class LayerStep:
    """One layer: RMS norm, attention with rotated queries and keys, RMS norm, SwiGLU."""

    def __init__(
        self, library: ctypes.PyDLL, form: Form, norms: Sequence[mx.array | None], matrices: Sequence[Matrix]
    ) -> None:
        """The arrays are kept, not copied.

        Args:
            library: as of `find`.
            form: sizes.
            norms: weights (float32) of the norms before attention and before the MLP, and of queries and keys or None.
            matrices: of queries, keys, values, output, gate, up and down; a bias is float32.
        """
        objects = [None if x is None else id(x) for x in norms]
        for m in matrices:
            objects += [id(m.codes), id(m.scales), id(m.biases), None if m.bias is None else id(m.bias)]
        packing = [n for m in matrices for n in (m.bits, m.group_size)]
        self._library, self._width, self._kv_heads = library, form.width, form.kv_heads
        self._layer = library.rave_layer(
            (_POINTER * len(objects))(*objects),
            (ctypes.c_int * len(packing))(*packing),
            (ctypes.c_int * 3)(form.heads, form.kv_heads, form.width),
            (ctypes.c_float * 3)(form.eps, form.head_eps, form.scale),
        )

    def __call__(
        self, x: mx.array, keys: mx.array, values: mx.array, count: int, cos: mx.array, sin: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        """What the layer makes of a token, its key and its value, in float32 and lazy.

        Args:
            x: (1, 1, hidden).
            keys, values: of the tokens before (1, G, room, d), float32.
            count: how many of those there are, of `room`.
            cos, sin: of the token's rotary angles, d / 2 numbers, float32.
        """
        y, key, value = mx.array(0.0), mx.array(0.0), mx.array(0.0)
        self._library.rave_layer_step(
            self._layer, count, id(x), id(keys), id(values), id(cos), id(sin), id(y), id(key), id(value)
        )
        return y, key, value

    def __del__(self) -> None:
        self._library.rave_forget_layer(self._layer)


def find(library: ctypes.CDLL) -> ctypes.PyDLL | None:
    """The library's functions for steps; None where it does not find arrays in this MLX's Python objects."""
    # Keeps Python's lock: the functions read and write Python's objects.
    steps = ctypes.PyDLL(library._name, handle=library._handle)
    steps.rave_layer.restype = _POINTER
    steps.rave_layer.argtypes = [_POINTER] * 4
    steps.rave_forget_layer.argtypes = [_POINTER]
    steps.rave_layer_step.argtypes = [_POINTER, ctypes.c_int64, *[_POINTER] * 8]
    steps.rave_layer_step.restype = None
    header, size = object.__basicsize__, mx.array.__basicsize__
    if size < header + 8 + ctypes.sizeof(_POINTER):
        return None
    for shape in ((3,), (2, 5, 7)):
        x = mx.zeros(shape)
        found = steps.rave_finds_array(header, _POINTER(id(x)), len(shape), (ctypes.c_int * len(shape))(*shape))
        if not found:
            return None
    return steps
