"""A decoder that holds a part of the heads and widths, and adds up with the other processes what leaves a sublayer.

Its matrices are plain ones of the part's shape, so that loading, packing and joining them is as ever; the sum comes
after them (Megatron-LM, arXiv 1909.08053). MLX's own sharded layers do the same for parts of equal size.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import mlx.core as mx

from rave_mlx.backend.split_rows import by_rows
from rave_mlx.config import LMMConfig
from rave_mlx.models.decoder import Decoder
from rave_mlx.models.decoder_layer import DecoderLayer
from rave_mlx.models.hooks import LayerHooks
from rave_mlx.models.kv_cache import LayerCache
from rave_mlx.models.rope import Consecutive, Positions
from rave_mlx.models.state_cache import StateCache
from rave_mlx.models.step import Step


class PartLayer(DecoderLayer):
    """A decoder layer with a part of the heads and of the MLP or experts."""

    _group: mx.distributed.Group

    @classmethod
    def of(cls, layer: DecoderLayer, group: mx.distributed.Group) -> PartLayer:
        """A layer of the part's shape as one that adds up."""
        part = copy(layer)
        part.__class__ = cls
        assert isinstance(part, PartLayer)
        part._group = group
        return part

    def __call__(
        self, x: mx.array, step: Step, cache: LayerCache | StateCache | None, layer_hooks: LayerHooks | None = None
    ) -> mx.array:
        heads = by_rows(lambda x: self.attention.heads(self.input_norm(x)), x, axis=1)
        attended = self.attend(heads, step, cache, layer_hooks)
        # Not by rows: the processes have to add up in one order, however many threads they have.
        return self.finish(x, attended)[0]

    def attention_output(self, attended: mx.array) -> mx.array:
        """What attention adds to the stream, from the part's joined heads."""
        out = mx.distributed.all_sum(self.attention.o_proj(attended), group=self._group)
        return self.scaled(self.attention_out_norm(out) if self._out_norms else out)

    def mlp_output(self, x: mx.array) -> mx.array:
        """What the MLP adds to the stream x (B, L, hidden)."""
        out = mx.distributed.all_sum(self.mlp(self.post_attention_norm(x)), group=self._group)
        return self.scaled(self.mlp_out_norm(out) if self._out_norms else out)


class PartDecoder(Decoder):
    """The decoder of one process.

    Args:
        config: of the part.
        group: the processes.
    """

    def __init__(self, config: LMMConfig, group: mx.distributed.Group):
        super().__init__(config)
        self.layers = [PartLayer.of(layer, group) for layer in self.layers]
        self._group = group

    def shared(self, x: mx.array) -> mx.array:
        """An array of process 0, in every process; in the others x has its shape and type, and is zero."""
        return mx.distributed.all_sum(x, group=self._group)


def packed_input(x: mx.array, deepstack: mx.array | None) -> mx.array:
    """What enters the decoder as one array (1 + n, B, L, hidden), which travels at once.

    Args:
        x: embeddings (B, L, hidden).
        deepstack: features of n layers (n, B, L, hidden).
    """
    return x[None] if deepstack is None else mx.concatenate([x[None], deepstack.astype(x.dtype)])


def unpacked_input(packed: mx.array) -> tuple[mx.array, mx.array | None]:
    """The arguments of `packed_input`, from what it gave."""
    return packed[0], packed[1:] if packed.shape[0] > 1 else None


def positions_from(first: Sequence[int] | None, count: int, positions: mx.array | None) -> Positions:
    """Positions as they travel: those of text by their first, others as an array."""
    if first is not None:
        return Consecutive(tuple(first), count)
    assert positions is not None
    return positions
