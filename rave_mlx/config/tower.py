"""All kinds of vision towers."""

from __future__ import annotations

from rave_mlx.config.patch_vision import PatchVisionConfig
from rave_mlx.config.query_vision import QueryVisionConfig
from rave_mlx.config.vision import (
    AxialVisionConfig,
    GridVisionConfig,
    TileVisionConfig,
    VisionConfig,
    WindowVisionConfig,
)

Tower = (
    VisionConfig
    | TileVisionConfig
    | GridVisionConfig
    | WindowVisionConfig
    | AxialVisionConfig
    | QueryVisionConfig
    | PatchVisionConfig
)
