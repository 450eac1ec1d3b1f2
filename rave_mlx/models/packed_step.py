"""One written token through a decoder layer of packed weights on a CPU, as one operation (`backend.cpu.layer_steps`).

For the plainest kind of layer and of token: RMS norms, attention with rotary positions over whole keys, SwiGLU; one
conversation, no policy, no gate that acts. Everything else takes the usual way.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import mlx.core as mx
import mlx.nn as nn

from rave_mlx import backend
from rave_mlx.backend.cpu.layer_steps import Form, LayerStep, Matrix
from rave_mlx.backend.decode_ops import RMSNorm
from rave_mlx.config import TextConfig
from rave_mlx.models.kv_cache import LayerCache
from rave_mlx.models.mlp import MLP
from rave_mlx.models.rope import RotaryTable

if TYPE_CHECKING:
    from rave_mlx.models.step import Step

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
_ARRAYS = ("weight", "scales", "biases", "bias")
_HALVES = ("gate_proj", "up_proj", "down_proj")


class PackedStep:
    """The steps of one layer; made anew when its matrices are others (an adapter, fused weights)."""

    def __init__(self, text: TextConfig, index: int) -> None:
        """Of the layer `index`; nothing is made before the first token that is written."""
        self._text, self._slides, self._possible = text, text.slides(index), _is_possible(text, index)
        self._made: LayerStep | None = None
        self._from: tuple[object, ...] = ()

    def __call__(self, layer: nn.Module, x: mx.array, step: Step, cache: object) -> mx.array | None:
        """What the layer makes of a token x (1, 1, hidden), its key and value in the cache; None: take the usual way.

        Args:
            layer: the `DecoderLayer` whose steps these are.
            x: its input.
            step: what the pass knows about the token.
            cache: of the layer; extended.
        """
        if not self._possible or x.shape[:2] != (1, 1) or x.dtype != mx.float32 or not isinstance(cache, LayerCache):
            return None
        table, mask = step.rotation, step.mask
        if self._slides:
            table, mask = step.sliding_rotation or table, step.sliding_mask
        if mask is not None and not isinstance(mask, str):
            return None
        if not isinstance(table, RotaryTable) or not _is_plain(layer, step, cache, table):
            return None
        parts = _parts(layer)
        if len(parts) != len(self._from) or any(a is not b for a, b in zip(parts, self._from, strict=True)):
            self._made, self._from = _made(layer, self._text), parts
        if self._made is None:
            return None
        keys, values = cache.arrays
        y, key, value = self._made(x, keys, values, cache.length, table.cos, table.sin)
        cache.append(key, value)
        return y


def _is_possible(text: TextConfig, index: int) -> bool:
    """Whether a layer does no more than the operation."""
    lends = any(text.lender_of(other) == index for other in range(text.num_layers))
    linear = text.linear is not None and text.is_linear(index)
    more = text.sublayer_norms or text.layer_scales or text.layer_inputs is not None or text.residual_scale != 1
    attention = text.output_gate or text.value_norm or text.qk_norm_rotated or text.query_scale != 1
    borrows = text.lender_of(index) is not None or (text.values_from_keys and not text.slides(index))
    experts = text.experts_of(index) is not None
    return text.activation == "silu" and not (lends or linear or more or attention or borrows or experts)


def _is_plain(layer: nn.Module, step: Step, cache: LayerCache, table: RotaryTable) -> bool:
    """Whether nothing about this token needs more than the operation does."""
    if cache.bits is not None or cache.length == 0 or len(cache.arrays) != 2 or cache.arrays[0].dtype != mx.float32:
        return False
    if (
        step.key_scale is not None
        or step.path is not None
        or (step.gate_span is not None and "gate" in layer.attention)
    ):
        return False
    angles = table.second is None and table.queries is None and not table.neighbours and table.cos.dtype == mx.float32
    return angles and table.cos.size * 2 == cache.arrays[0].shape[3]


def _parts(layer: nn.Module) -> tuple[object, ...]:
    """What a step is made from, to notice when it is replaced."""
    attention, mlp = layer.attention, layer.mlp
    modules = [*(attention[name] for name in _PROJECTIONS), *(mlp[name] for name in _HALVES)]
    return (
        layer.input_norm.weight,
        layer.post_attention_norm.weight,
        *modules,
        *[m.get(name) for m in modules for name in _ARRAYS],
    )


def _made(layer: nn.Module, text: TextConfig) -> LayerStep | None:
    """The steps of a layer, None where its matrices are not packed, or in a way that the kernels do not cover."""
    kernels, attention, mlp = backend.current().kernels, layer.attention, layer.mlp
    if kernels is None or kernels.steps is None or type(mlp) is not MLP:
        return None
    norms = [layer.input_norm, layer.post_attention_norm]
    norms += [attention[name] for name in ("q_norm", "k_norm") if name in attention]
    if any(type(norm) is not RMSNorm or norm.weight.dtype != mx.float32 for norm in norms):
        return None
    matrices = [_matrix(attention[name]) for name in _PROJECTIONS] + [_matrix(mlp[name]) for name in _HALVES]
    found = [m for m in matrices if m is not None]
    if len(found) < len(matrices):
        return None
    width = found[0].codes.shape[0] // text.num_heads
    if width % 16 or not 0 < width <= 256:
        return None
    form = Form(
        heads=text.num_heads,
        kv_heads=found[1].codes.shape[0] // width,
        width=width,
        eps=norms[0].eps,
        head_eps=norms[-1].eps,
        scale=float(attention.score_scale),
    )
    weights = [*(norm.weight for norm in norms), None, None]
    return LayerStep(kernels.steps, form, weights[:4], found)


def _matrix(module: nn.Module) -> Matrix | None:
    """A layer's packed matrix; None for one that the kernels do not multiply with."""
    if type(module) is not nn.QuantizedLinear:
        return None
    if not backend.multiplies_packed(module.group_size, module.bits, module.mode):
        return None
    biases, bias = module.biases, module.get("bias")
    if biases is None or (bias is not None and bias.dtype != mx.float32):
        return None
    return Matrix(module.weight, module.scales, biases, bias, module.bits, module.group_size)
