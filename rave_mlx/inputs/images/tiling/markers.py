"""What stands in the prompt for a tiled image."""

from __future__ import annotations

from rave_mlx.config import TileConfig
from rave_mlx.inputs.images.tiling.plan import Tiling
from rave_mlx.inputs.images.tiling.unpad import visual_tokens


def layout(tiling: Tiling, config: TileConfig, size: tuple[int, int]) -> tuple[str | int, ...]:
    """What stands in the prompt for a tiled image: numbers of visual tokens, and the text between them.

    Args:
        tiling: its tiles.
        config: visual tokens a tile, and which marks the model knows.
        size: (width, height) of the original, in pixels.
    """
    if config.plan == "pinpoints":
        return (visual_tokens(config, tiling.region),)
    if config.markers in ("grid", "page"):
        return _grid(tiling, config.tile_tokens, named=config.markers == "page")
    count = len(tiling.levels) * config.tile_tokens
    if config.overview is not None:
        count += config.overview.tokens + 1
    if config.before or config.after:
        return (config.before, count, config.after)
    return ("<img>", count, "</img>") if config.markers == "tags" else (count,)


def _grid(tiling: Tiling, tokens: int, *, named: bool) -> tuple[str | int, ...]:
    """Idefics3 (arXiv 2408.12637): every tile has its row and column before it, the rows end in a newline.

    Args:
        tiling: the tiles.
        tokens: visual tokens a tile.
        named: whether an only tile has a row and a column as well.
    """
    around, whole = "<fake_token_around_image>", "<global-img>"
    if not tiling.overview and named:
        return (f"{around}<row_1_col_1>", tokens, "\n")
    if not tiling.overview:
        return (f"{around}{whole}", tokens, around)
    parts: list[str | int] = []
    before = ""
    for row in range(1, tiling.rows + 1):
        for column in range(1, tiling.columns + 1):
            parts += [f"{before}{around}<row_{row}_col_{column}>", tokens]
            before = ""
        before = "\n"
    return (*parts, f"\n\n{around}{whole}", tokens, around)
