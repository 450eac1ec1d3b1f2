"""What stands in the prompt for a tiled image."""

from __future__ import annotations

from rave_mlx.config import TileConfig
from rave_mlx.tiles.tiling import Tiling
from rave_mlx.tiles.unpad import visual_tokens


def layout(tiling: Tiling, config: TileConfig, size: tuple[int, int]) -> tuple[str | int, ...]:
    """Numbers of visual tokens with the text between them; `size` (width, height) of the original."""
    if config.plan == "pinpoints":
        return (visual_tokens(config, tiling.region),)
    if config.markers == "grid":
        raise NotImplementedError
    count = len(tiling.levels) * config.tile_tokens
    return ("<img>", count, "</img>") if config.markers == "tags" else (count,)
