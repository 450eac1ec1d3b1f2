"""Linear layers that read the same input, computed as one: queries with keys and values, both halves of a SwiGLU.

A GPU that writes a token is bound by the number of products, not by their size. The weights of the layers are laid one
after the other in memory, and each layer's own arrays become views of that: names, files, adapters and training see
what they saw before, and no memory is added. Whoever replaces an array or a layer (LoRA, fusing, an optimizer) makes
the joined form useless, which is noticed before it is used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.models.packed_linear import LINEAR, packed_matmul

FEW_TOKENS = 8
"""Tokens up to which one product is used: of many, the parts would be strided views, which later operations copy."""
_ARRAYS = ("weight", "scales", "biases", "bias")


@dataclass(frozen=True)
class Joined:
    """Several linear layers over one input.

    Attributes:
        arrays: their weights and what belongs to them, by name, one layer after the other along the first axis.
        views: the arrays of each layer, by name.
        cuts: where the outputs of the layers after the first begin.
        packing: group size, bits and mode of quantized layers; None for plain ones.
    """

    arrays: dict[str, mx.array]
    views: tuple[dict[str, mx.array], ...]
    cuts: tuple[int, ...]
    packing: tuple[int, int, str] | None

    def serves(self, layers: Sequence[nn.Module]) -> bool:
        """Whether the layers are still those that were joined."""
        pairs = zip(layers, self.views, strict=True)
        return all(type(layer) in LINEAR and _holds(layer, view) for layer, view in pairs)

    def __call__(self, x: mx.array) -> list[mx.array]:
        """The output of each layer (B, L, n) for x (B, L, width)."""
        return list(mx.split(self.product(x), list(self.cuts), axis=-1))

    def product(self, x: mx.array) -> mx.array:
        """The outputs side by side."""
        arrays = self.arrays
        if self.packing is None:
            return x @ arrays["weight"].T if "bias" not in arrays else mx.addmm(arrays["bias"], x, arrays["weight"].T)
        size, bits, mode = self.packing
        weight, scales, biases = arrays["weight"], arrays["scales"], arrays.get("biases")
        y = packed_matmul(x, weight, scales, biases, size, bits, mode)
        return y + arrays["bias"] if "bias" in arrays else y


def join(layers: Sequence[nn.Module]) -> Joined | None:
    """Lay the weights of linear layers one after the other; None for layers that differ in kind, type or packing."""
    kinds = {_kind(layer) for layer in layers}
    if len(kinds) > 1 or None in kinds:
        return None
    names = [name for name in _ARRAYS if layers[0].get(name) is not None]
    arrays = {name: mx.concatenate([layer[name] for layer in layers]) for name in names}
    mx.eval(arrays)
    views, start, cuts = [], 0, []
    for layer in layers:
        stop = start + layer["weight"].shape[0]
        view = {name: array[start:stop] for name, array in arrays.items()}
        mx.eval(view)
        layer.update(view)
        views.append(view)
        cuts.append(stop)
        start = stop
    first = layers[0]
    packing = (first.group_size, first.bits, first.mode) if isinstance(first, nn.QuantizedLinear) else None
    return Joined(arrays, tuple(views), tuple(cuts[:-1]), packing)


def _kind(layer: nn.Module) -> tuple[object, ...] | None:
    """What has to be equal for layers to be joined; None for a layer that is something else."""
    if type(layer) not in LINEAR:
        return None
    packing = (layer.group_size, layer.bits, layer.mode) if isinstance(layer, nn.QuantizedLinear) else None
    arrays = tuple((name, layer[name].dtype) for name in _ARRAYS if layer.get(name) is not None)
    return (packing, layer["weight"].shape[1], arrays)


def _holds(layer: nn.Module, view: dict[str, mx.array]) -> bool:
    return all(layer.get(name) is array for name, array in view.items())


def joined_of(holder: nn.Module, layers: Sequence[nn.Module], x: mx.array) -> Joined | None:
    """The joined form of a module's layers; None where there is none, and for an input of many tokens.

    Args:
        holder: has it, or None, as `_joined`; one that serves no more is dropped.
        layers: linear, or in the place of a linear one.
        x: their input (B, L, width).
    """
    joined: Joined | None = holder._joined
    if joined is not None and not joined.serves(layers):
        joined = holder._joined = None
    return joined if x.shape[1] <= FEW_TOKENS else None


def outputs(holder: nn.Module, layers: Sequence[nn.Module], x: mx.array) -> list[mx.array]:
    """What each of a module's layers makes of x, as one product where there is a joined form; as of `joined_of`."""
    joined = joined_of(holder, layers, x)
    return [layer(x) for layer in layers] if joined is None else joined(x)
