"""The connector of the Qwen-VL models (arXiv 2409.12191)."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.config import ConnectorConfig, VisionConfig
from rave_mlx.elementwise import gelu
from rave_mlx.images import ImagePatches


class PatchMerger(nn.Module):
    """RMS norm, the merge_size^2 patches of a cell side by side, then a two-layer MLP (Qwen2-VL)."""

    def __init__(self, config: ConnectorConfig, vision: VisionConfig):
        super().__init__()
        self._wide = vision.hidden_size * vision.merge_size**2
        self.norm = nn.RMSNorm(vision.hidden_size, config.norm_eps)
        self.fc1 = nn.Linear(self._wide, config.hidden_size)
        self.fc2 = nn.Linear(config.hidden_size, config.output_size)

    def __call__(self, x: mx.array, image: ImagePatches) -> mx.array:
        """(patches, vision hidden) in merge-block order -> (visual tokens, decoder hidden)."""
        return self.fc2(gelu(self.fc1(self.norm(x).reshape(-1, self._wide))))
