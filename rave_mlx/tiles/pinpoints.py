"""The plan "pinpoints"."""

from __future__ import annotations

from PIL import Image

from rave_mlx.config import TileConfig
from rave_mlx.tiles.tiling import Tiling


def pinpoints(image: Image.Image, config: TileConfig, budget: int) -> Tiling:
    """Tiles of an RGB image, at most `budget` visual tokens."""
    raise NotImplementedError
