"""Vision towers: two for images at their own resolution, two for square tiles."""

from __future__ import annotations

from rave_mlx.config import GridVisionConfig, Tower, VisionConfig, WindowVisionConfig
from rave_mlx.models.vision.grid import GridVision
from rave_mlx.models.vision.qwen import QwenVision
from rave_mlx.models.vision.tiled import TileVision
from rave_mlx.models.vision.windowed_tiles import WindowVision


def build_tower(config: Tower) -> QwenVision | GridVision | TileVision | WindowVision:
    """The tower of a configuration, without weights. Called with (pixels, grid) of one image."""
    if isinstance(config, GridVisionConfig):
        return GridVision(config)
    if isinstance(config, WindowVisionConfig):
        return WindowVision(config)
    return QwenVision(config) if isinstance(config, VisionConfig) else TileVision(config)
