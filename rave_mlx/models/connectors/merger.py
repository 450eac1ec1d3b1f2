"""The connector of the Qwen-VL models (arXiv 2409.12191), with DeepStack (arXiv 2406.04334) in Qwen3-VL."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.backend.activations import gelu
from rave_mlx.config import ConnectorConfig, VisionConfig
from rave_mlx.inputs.images.preprocess import ImagePatches


class CellMerger(nn.Module):
    """A norm, the merge_size^2 patches of a cell side by side, then a two-layer MLP.

    `norm_after`: the norm is of the patches side by side instead of each patch.
    """

    def __init__(self, config: ConnectorConfig, vision: VisionConfig, *, norm_after: bool = False):
        super().__init__()
        norm = nn.RMSNorm if config.norm == "rms" else nn.LayerNorm
        self._wide = vision.hidden_size * vision.merge_size**2
        self._norm_after = norm_after
        self.norm = norm(self._wide if norm_after else vision.hidden_size, config.norm_eps)
        self.fc1 = nn.Linear(self._wide, config.hidden_size)
        self.fc2 = nn.Linear(config.hidden_size, config.output_size)

    def merge(self, x: mx.array) -> mx.array:
        """(patches, vision hidden), the patches of a cell together -> (cells, decoder hidden)."""
        wide = self.norm(x.reshape(-1, self._wide)) if self._norm_after else self.norm(x).reshape(-1, self._wide)
        merged: mx.array = self.fc2(gelu(self.fc1(wide)))
        return merged


class PatchMerger(CellMerger):
    """Merges the tower's output and, each with a merger of its own, the states of its deepstack layers."""

    def __init__(self, config: ConnectorConfig, vision: VisionConfig):
        super().__init__(config, vision)
        if vision.deepstack_layers:
            self.deepstack = [CellMerger(config, vision, norm_after=True) for _ in vision.deepstack_layers]

    def __call__(self, states: Sequence[mx.array], image: ImagePatches) -> mx.array:
        """(patches, vision hidden) of the last layer and of n deepstack layers -> (visual tokens, (1 + n) * decoder
        hidden)."""
        last, *deep = states
        if not deep:
            return self.merge(last)
        merged = [merger.merge(state) for merger, state in zip(self.deepstack, deep, strict=True)]
        return mx.concatenate([self.merge(last), *merged], axis=-1)
