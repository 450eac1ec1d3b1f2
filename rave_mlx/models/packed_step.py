"""One written token through decoder layers of packed weights on a CPU, as one operation (`backend.cpu.layer_steps`).

For the plainest kind of layer and of token: RMS norms, attention with rotary positions over whole keys, SwiGLU; one
conversation, no policy, no gate that acts. Everything else takes the usual way.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from operator import is_
from typing import cast

import mlx.core as mx
import mlx.nn as nn

from rave_mlx import backend
from rave_mlx.backend.cpu.layer_steps import Form, LayerSteps, Matrix, Parts, embed
from rave_mlx.backend.decode_ops import RMSNorm
from rave_mlx.config import TextConfig
from rave_mlx.models.decoder_layer import DecoderLayer
from rave_mlx.models.kv_cache import Cache, LayerCache
from rave_mlx.models.mlp import MLP
from rave_mlx.models.packed_linear import PackedEmbedding, PackedLinear
from rave_mlx.models.rope import RotaryTable
from rave_mlx.models.state_cache import StateCache
from rave_mlx.models.step import Step

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj")
_HALVES = ("gate_proj", "up_proj", "down_proj")
_NORMS = ("input_norm", "post_attention_norm")
_TABLES = (nn.QuantizedEmbedding, PackedEmbedding)
_HEAD_NORMS = ("q_norm", "k_norm")


class PackedSteps:
    """The steps of a decoder's layers; made anew when their matrices are others (an adapter, fused weights)."""

    def __init__(self, text: TextConfig) -> None:
        """Nothing is made before the first token that is written."""
        self._text, self._possible = text, [_is_possible(text, index) for index in range(text.num_layers)]
        # By the first layer, and whether gates act.
        self._runs: dict[tuple[int, bool], _Run] = {}

    def __call__(
        self, layers: Sequence[nn.Module], index: int, x: mx.array, step: Step, cache: Cache
    ) -> tuple[mx.array, int] | None:
        """What the layers from `index` on, as many as possible, make of a token; None: this one takes the usual way.

        Args:
            layers: all of the decoder.
            index: the first one.
            x: its input (1, 1, hidden).
            step: what the pass knows about the token.
            cache: extended by the token in these layers.

        Returns:
            What enters the layer after them, and its index.
        """
        if not self._possible[index] or step.key_scale is not None or step.path is not None:
            return None
        table, mask = step.rotation, step.mask
        if self._text.slides(index):
            table, mask = step.sliding_rotation or table, step.sliding_mask
        if (mask is not None and not isinstance(mask, str)) or not isinstance(table, RotaryTable):
            return None
        gated = step.gate_span is not None
        run = self._runs.get((index, gated))
        if run is None or not run.goes_on(cache):
            if run is None or not run.serves(layers):
                run = self._runs[index, gated] = self._made(layers, index, gated)
            if not run.takes(cache):
                return None
        return (run(x, table, cache), index + run.count) if _is_plain(table, run.width) else None

    def _made(self, layers: Sequence[nn.Module], index: int, gated: bool) -> _Run:
        """The longest run of layers from one on."""
        slides, found = self._text.slides(index), list[Parts]()
        for other in range(index, len(layers)):
            fits = self._possible[other] and self._text.slides(other) == slides
            fits = fits and not (gated and "gate" in layers[other].attention)
            parts = _parts(layers[other], self._text) if fits else None
            if parts is None or (found and parts.form != found[0].form):
                break
            found.append(parts)
        kernels = backend.current().kernels
        steps = None
        if found and kernels is not None and kernels.steps is not None:
            steps = LayerSteps(kernels.steps, found)
        return _Run(layers, index, max(1, len(found)), steps)


class _Run:
    """Layers whose steps are one operation: `count` of them; `steps` is None for one that takes the usual way."""

    def __init__(self, layers: Sequence[nn.Module], index: int, count: int, steps: LayerSteps | None) -> None:
        self.count, self.steps, self.width = count, steps, 0
        self._index, self._layers = index, list(layers[index : index + count])
        watched = [
            (module, name)
            for layer in self._layers
            for _, module in layer.named_modules()
            for name in dict.fromkeys([*module, "bias"])
        ]
        self._modules, self._names = [module for module, _ in watched], [name for _, name in watched]
        self._values = [dict.get(module, name) for module, name in watched]
        # The cache of the token before, and how many tokens it then held.
        self._cache: weakref.ref[Cache] | None = None
        self._length = 0

    def serves(self, layers: Sequence[nn.Module]) -> bool:
        """Whether the layers, their modules and arrays are those that the steps were made of."""
        # In C throughout: a decoder has more than a thousand of them.
        now = map(dict.get, self._modules, self._names)
        same = all(map(is_, self._layers, layers[self._index : self._index + self.count]))
        return same and all(map(is_, self._values, now))

    def goes_on(self, cache: Cache) -> bool:
        """Whether the token follows the one before: then nothing is looked at again until the answer ends."""
        same = self._cache is not None and self._cache() is cache
        return same and cache.layers[self._index].length == self._length

    def takes(self, cache: Cache) -> bool:
        """Whether the steps can go on from what a cache holds of these layers."""
        own = [layer for layer in self._own(cache) if isinstance(layer, LayerCache)]
        self._cache = None
        if self.steps is None or len(own) < self.count or not _are_plain(own):
            return False
        self._cache, self._length, self.width = weakref.ref(cache), own[0].length, own[0].arrays[0].shape[3]
        return True

    def __call__(self, x: mx.array, table: RotaryTable, cache: Cache) -> mx.array:
        """What the layers make of a token x (1, 1, hidden), after `goes_on` or `takes`."""
        own = cast("list[LayerCache]", self._own(cache))
        stores = [rows for layer in own for rows in layer.reserve(1)]
        assert self.steps is not None
        y = self.steps(x, stores, self._length, table.cos, table.sin)
        self._length += 1
        for layer in own:
            layer.length = self._length
        return y

    def _own(self, cache: Cache) -> list[LayerCache | StateCache]:
        return cache.layers[self._index : self._index + self.count]


def _is_possible(text: TextConfig, index: int) -> bool:
    """Whether a layer does no more than the operation."""
    lends = any(text.lender_of(other) == index for other in range(text.num_layers))
    linear = text.linear is not None and text.is_linear(index)
    more = text.sublayer_norms or text.layer_scales or text.layer_inputs is not None or text.residual_scale != 1
    attention = text.output_gate or text.value_norm or text.qk_norm_rotated or text.query_scale != 1
    borrows = text.lender_of(index) is not None or (text.values_from_keys and not text.slides(index))
    experts = text.experts_of(index) is not None
    return text.activation == "silu" and not (lends or linear or more or attention or borrows or experts)


def _are_plain(caches: Sequence[LayerCache]) -> bool:
    """Whether caches hold whole keys and values of the same tokens, and nothing else."""
    length = caches[0].length
    if length == 0:
        return False
    for cache in caches:
        if cache.bits is not None or cache.length != length or len(cache.arrays) != 2:
            return False
        if cache.arrays[0].dtype != mx.float32 or cache.arrays[0].shape[0] != 1:
            return False
    return True


def _is_plain(table: RotaryTable, width: int) -> bool:
    """Whether whole heads are rotated in the usual way, one token's."""
    odd = table.second is not None or table.queries is not None or table.neighbours
    return not odd and table.cos.dtype == mx.float32 and table.cos.size * 2 == width


def packed_row(embedding: nn.Module, ids: mx.array) -> mx.array | None:
    """The embedding (1, 1, hidden) of one id (1, 1) from a packed table, in float32; None: take the usual way."""
    kernels = backend.current().kernels
    if ids.shape != (1, 1) or kernels is None or kernels.steps is None or type(embedding) not in _TABLES:
        return None
    biases = embedding.get("biases")
    if biases is None or not backend.multiplies_packed(embedding.group_size, embedding.bits, embedding.mode):
        return None
    table = Matrix(embedding.weight, embedding.scales, biases, None, embedding.bits, embedding.group_size)
    return embed(kernels.steps, table, ids)


def _parts(layer: nn.Module, text: TextConfig) -> Parts | None:
    """A layer for the kernels; None where its matrices are not packed, or in a way that the kernels do not cover."""
    attention, mlp = layer.attention, layer.mlp
    if type(layer) is not DecoderLayer or type(mlp) is not MLP:
        return None
    norms = [layer[name] for name in _NORMS] + [attention[name] for name in _HEAD_NORMS if name in attention]
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
    return Parts(form, tuple(weights[:4]), tuple(found))


def _matrix(module: nn.Module) -> Matrix | None:
    """A layer's packed matrix; None for one that the kernels do not multiply with."""
    if type(module) not in (nn.QuantizedLinear, PackedLinear):
        return None
    if not backend.multiplies_packed(module.group_size, module.bits, module.mode):
        return None
    biases, bias = module.biases, module.get("bias")
    if biases is None or (bias is not None and bias.dtype != mx.float32):
        return None
    return Matrix(module.weight, module.scales, biases, bias, module.bits, module.group_size)
