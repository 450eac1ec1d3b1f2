"""Vision towers, for images at their own resolution and for square tiles."""

from __future__ import annotations

from rave_mlx.config import (
    AxialVisionConfig,
    GridVisionConfig,
    PatchVisionConfig,
    QueryVisionConfig,
    Tower,
    VisionConfig,
    WindowVisionConfig,
)
from rave_mlx.models.vision.axial import AxialVision
from rave_mlx.models.vision.grid import GridVision
from rave_mlx.models.vision.patches import PatchVision
from rave_mlx.models.vision.queries import QueryVision
from rave_mlx.models.vision.qwen import QwenVision
from rave_mlx.models.vision.tiled import TileVision
from rave_mlx.models.vision.windowed_tiles import WindowVision

READ_TOGETHER = (QwenVision, GridVision, TileVision, WindowVision)
"""Towers with `together` for several images: the patches, or those of a tile, are in as many rows and columns."""


def build_tower(
    config: Tower,
) -> AxialVision | PatchVision | QwenVision | GridVision | TileVision | WindowVision | QueryVision:
    """The tower of a configuration, without weights. Called with (pixels, grid) of one image."""
    if isinstance(config, AxialVisionConfig):
        return AxialVision(config)
    if isinstance(config, PatchVisionConfig):
        return PatchVision(config)
    if isinstance(config, GridVisionConfig):
        return GridVision(config)
    if isinstance(config, WindowVisionConfig):
        return WindowVision(config)
    if isinstance(config, QueryVisionConfig):
        return QueryVision(config)
    return QwenVision(config) if isinstance(config, VisionConfig) else TileVision(config)
