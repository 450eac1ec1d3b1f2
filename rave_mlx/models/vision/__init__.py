"""Vision towers: two for images at their own resolution, one for square tiles."""

from __future__ import annotations

from rave_mlx.config import GridVisionConfig, Tower, VisionConfig
from rave_mlx.models.vision.grid import GridVision
from rave_mlx.models.vision.qwen import QwenVision
from rave_mlx.models.vision.tiled import TileVision


def build_tower(config: Tower) -> QwenVision | GridVision | TileVision:
    """The tower of a configuration, without weights. Called with (pixels, grid) of one image."""
    if isinstance(config, GridVisionConfig):
        return GridVision(config)
    return QwenVision(config) if isinstance(config, VisionConfig) else TileVision(config)
