"""Steps of decoder layers over one written token as one operation of MLX, computed by the kernels.

The arrays are handed to the compiled library as Python objects, in which it finds MLX's own: what MLX is bound with
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


@dataclass(frozen=True)
class Parts:
    """A layer: RMS norm, attention with rotated queries and keys, RMS norm, SwiGLU.

    Attributes:
        form: its sizes.
        norms: weights (float32) of the norms before attention and before the MLP, and of queries and keys or None.
        matrices: of queries, keys, values, output, gate, up and down; a bias is float32.
    """

    form: Form
    norms: tuple[mx.array | None, ...]
    matrices: tuple[Matrix, ...]

    @property
    def arrays(self) -> list[mx.array | None]:
        """The norms, then codes, scales, biases and bias of every matrix."""
        return [*self.norms, *(x for m in self.matrices for x in (m.codes, m.scales, m.biases, m.bias))]


class LayerSteps:
    """Layers that follow one another, as one operation."""

    def __init__(self, library: ctypes.PyDLL, layers: Sequence[Parts]) -> None:
        """The arrays are computed and kept, not copied.

        Args:
            library: as of `find`.
            layers: with heads of one width.
        """
        self._library, self._layers = library, library.rave_layers()
        mx.eval([x for layer in layers for x in layer.arrays if x is not None])
        for layer in layers:
            objects = [None if x is None else id(x) for x in layer.arrays]
            packing = [n for m in layer.matrices for n in (m.bits, m.group_size)]
            form = layer.form
            library.rave_add_layer(
                self._layers,
                (_POINTER * len(objects))(*objects),
                (ctypes.c_int * len(packing))(*packing),
                (ctypes.c_int * 3)(form.heads, form.kv_heads, form.width),
                (ctypes.c_float * 3)(form.eps, form.head_eps, form.scale),
            )
        self._stores = _POINTER * (2 * len(layers))

    def __call__(self, x: mx.array, stores: Sequence[mx.array], count: int, cos: mx.array, sin: mx.array) -> mx.array:
        """What the layers make of a token, in float32 and lazy.

        Args:
            x: (1, 1, hidden).
            stores: keys and values of every layer (1, G, room, d), float32. The array objects become those with the
                token's row after the first `count`, as with an assignment to that row.
            count: tokens before, less than `room`.
            cos, sin: of the token's rotary angles, d / 2 numbers, float32.
        """
        y = mx.array(0.0)
        self._library.rave_layers_step(
            self._layers, count, id(x), id(cos), id(sin), self._stores(*map(id, stores)), id(y)
        )
        return y

    def __del__(self) -> None:
        self._library.rave_forget_layers(self._layers)


def product(library: ctypes.PyDLL, x: mx.array, matrix: Matrix) -> mx.array:
    """x (..., width) times the transpose of a packed matrix, in float32 and lazy; its bias is not added.

    Args:
        library: as of `find`.
        x: float32.
        matrix: scales and biases of any floating type, which are read as they are.
    """
    y = mx.array(0.0)
    codes, scales, biases = id(matrix.codes), id(matrix.scales), id(matrix.biases)
    library.rave_product(id(x), codes, scales, biases, matrix.bits, matrix.group_size, id(y))
    return y


def embed(library: ctypes.PyDLL, table: Matrix, ids: mx.array) -> mx.array:
    """Rows of a packed matrix (rows, width) as numbers (1, 1, width), in float32 and lazy.

    Args:
        library: as of `find`.
        table: the matrix.
        ids: (1, 1) which row, int32 or uint32.
    """
    y = mx.array(0.0)
    codes, scales, biases = id(table.codes), id(table.scales), id(table.biases)
    library.rave_embed(codes, scales, biases, table.bits, table.group_size, id(ids), id(y))
    return y


def find(library: ctypes.CDLL) -> ctypes.PyDLL | None:
    """The library's functions for steps; None where it does not find arrays in this MLX's Python objects."""
    # Keeps Python's lock: the functions read and write Python's objects.
    steps = ctypes.PyDLL(library._name, handle=library._handle)
    steps.rave_layers.restype = _POINTER
    steps.rave_add_layer.argtypes = [_POINTER] * 5
    steps.rave_forget_layers.argtypes = [_POINTER]
    steps.rave_layers_step.argtypes = [_POINTER, ctypes.c_int64, *[_POINTER] * 5]
    steps.rave_embed.argtypes = [*[_POINTER] * 3, ctypes.c_int, ctypes.c_int, *[_POINTER] * 2]
    steps.rave_product.argtypes = [*[_POINTER] * 4, ctypes.c_int, ctypes.c_int, _POINTER]
    steps.rave_embed.restype = steps.rave_product.restype = None
    steps.rave_add_layer.restype = steps.rave_forget_layers.restype = steps.rave_layers_step.restype = None
    header, size = object.__basicsize__, mx.array.__basicsize__
    if size < header + 8 + ctypes.sizeof(_POINTER):
        return None
    for shape in ((3,), (2, 5, 7)):
        x = mx.zeros(shape)
        found = steps.rave_finds_array(header, _POINTER(id(x)), len(shape), (ctypes.c_int * len(shape))(*shape))
        if not found:
            return None
    return steps
