"""Where on the page every visual token comes from.

The way from an image to visual tokens, walked backwards: cells of a native grid, squares of tiles (stretched, cropped
or padded), the rows of an unpadded LLaVA-NeXT image with their newline tokens, the latents of a resampler. Learned
queries have no place of their own: each reads a whole tile.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rave_mlx.config import (
    Connector,
    ConvConnectorConfig,
    ImageConfig,
    Images,
    Overview,
    PoolConnectorConfig,
    ResamplerConfig,
    TileConfig,
)
from rave_mlx.inputs.images.patches import ImagePatches
from rave_mlx.inputs.images.tiling.pinpoint_grid import fit_inside
from rave_mlx.inputs.images.tiling.view_grid import inner_size

Boxes = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class TokenBoxes:
    """Which part of the page each visual token of one image shows.

    Attributes:
        boxes: (n, 4) left, top, right, bottom in pixels of the upright original; NaN where a token shows no part of
            it: newlines, class tokens, padding.
        overview: (n,) marks of tokens of a tile with the whole image beside tiles that show it in detail.
        cell: width and height of the smallest box, in pixels of the original.
    """

    boxes: Boxes
    overview: NDArray[np.bool_]
    cell: tuple[float, float]


def locate_tokens(image: ImagePatches, config: Images, connector: Connector) -> TokenBoxes:
    """Find the box on the page that each visual token of an image shows, in the order in which the decoder reads them.

    Args:
        image: as the model read it.
        config: how it was cut.
        connector: how patches became visual tokens.
    """
    if isinstance(config, ImageConfig):
        rows, columns = (side // config.merge_size for side in image.grid[1:])
        boxes = _grid(np.linspace(0, image.size[0], columns + 1), np.linspace(0, image.size[1], rows + 1))
        if config.row_tokens:
            lines = np.full((rows, columns + 1, 4), np.nan)
            lines[:, :-1] = boxes.reshape(rows, columns, 4)
            boxes = np.pad(lines.reshape(-1, 4), [(1, 1), (0, 0)], constant_values=np.nan)
        return _finish(boxes, np.zeros(len(boxes), bool), image)
    if config.plan == "pinpoints":
        return _finish(*_pinpoints(image, config), image)
    if config.overview is not None:
        return _finish(*_views(image, config, config.overview), image)
    (rows, columns), per_tile = image.arrangement, _of_tile(config, connector)
    if image.grid[0] == 1:
        return _finish(_single(per_tile, image.size, config), np.zeros(len(per_tile), bool), image)
    tiles = [per_tile / [columns, rows, columns, rows] + np.tile([c / columns, r / rows], 2)
             for r in range(rows) for c in range(columns)]  # fmt: skip
    several = image.grid[0] > rows * columns
    boxes = np.concatenate([*tiles, per_tile] if several else tiles) * np.tile(image.size, 2)
    overview = np.arange(len(boxes)) >= len(per_tile) * rows * columns
    return _finish(boxes, overview, image)


def _finish(boxes: Boxes, overview: NDArray[np.bool_], image: ImagePatches) -> TokenBoxes:
    """Boxes within the image; what lies outside of it shows nothing."""
    assert len(boxes) == image.tokens, (len(boxes), image.tokens)
    clipped = boxes.clip(0, np.tile(image.size, 2))
    sizes = clipped[:, 2:] - clipped[:, :2]
    clipped[~(sizes > 1e-9).all(axis=1)] = np.nan
    detail = clipped[~overview] if np.isfinite(clipped[~overview]).any() else clipped
    smallest = np.nanmedian(detail[:, 2:] - detail[:, :2], axis=0) if np.isfinite(detail).any() else image.size
    return TokenBoxes(clipped, overview, (float(smallest[0]), float(smallest[1])))


def _grid(x: NDArray[np.float64], y: NDArray[np.float64]) -> Boxes:
    """Boxes between the edges x and y, row by row."""
    rows, columns = len(y) - 1, len(x) - 1
    left, right = np.tile(x[:-1], rows), np.tile(x[1:], rows)
    return np.stack([left, np.repeat(y[:-1], columns), right, np.repeat(y[1:], columns)], axis=1)


def _of_tile(config: TileConfig, connector: Connector) -> Boxes:
    """Boxes of a tile's tokens in units of the tile. A latent of a resampler reads the whole tile."""
    if isinstance(connector, ResamplerConfig):
        return np.tile([0.0, 0.0, 1.0, 1.0], (config.tile_tokens, 1))
    side = math.isqrt(config.tile_tokens)
    patches = config.tile_size // config.patch_size
    if isinstance(connector, PoolConnectorConfig):
        patches = side * connector.pool
    edges = np.linspace(0, patches * config.patch_size / config.tile_size, side + 1)
    if isinstance(connector, ConvConnectorConfig):  # four patches a side, fewer at the right and bottom
        edges = np.minimum(4 * np.arange(side + 1), patches) * (config.patch_size / config.tile_size)
    boxes = _grid(edges, edges)
    if config.tile_tokens == side**2 + 1:  # the class token comes first
        boxes = np.concatenate([np.full((1, 4), np.nan), boxes])
    return boxes


def _single(tile: Boxes, size: tuple[int, int], config: TileConfig) -> Boxes:
    """A single tile's boxes, in pixels of an image of `size` (width, height)."""
    width, height = size
    if config.plan != "single" or config.fit == "stretch":
        return tile * [width, height, width, height]
    if config.fit == "pad":
        side = max(size)
        padded: Boxes = tile * side - np.tile([(side - width) // 2, (side - height) // 2], 2)
        return padded
    side, shortest = config.tile_size, min(size)
    scaled = [side if edge == shortest else int(side * edge / shortest) for edge in size]
    offset = [(edge - side) // 2 for edge in scaled]
    boxes: Boxes = (tile * side + np.tile(offset, 2)) * np.tile([width / scaled[0], height / scaled[1]], 2)
    return boxes


def _views(image: ImagePatches, config: TileConfig, overview: Overview) -> tuple[Boxes, NDArray[np.bool_]]:
    """Every token of a tile shows the tile, those of the view of the whole image all of it, the last one nothing."""
    (rows, columns), (width, height) = image.arrangement, image.size
    tiles = _grid(np.linspace(0, width, columns + 1), np.linspace(0, height, rows + 1))[: image.grid[0]]
    inner = inner_size(image.size, overview.size)
    margins = [(overview.size - side) // 2 for side in inner]
    square = np.tile([overview.size, overview.size], 2) * [0, 0, 1, 1] - np.tile(margins, 2)
    whole = square * np.tile([width / inner[0], height / inner[1]], 2)
    boxes = np.concatenate([
        np.repeat(tiles, config.tile_tokens, axis=0), np.tile(whole, (overview.tokens, 1)), np.full((1, 4), np.nan)
    ])  # fmt: skip
    return boxes, (np.arange(len(boxes)) >= len(tiles) * config.tile_tokens) & (len(tiles) > 0)


def _pinpoints(image: ImagePatches, config: TileConfig) -> tuple[Boxes, NDArray[np.bool_]]:
    """LLaVA-NeXT: the tile with the whole image, then the rows of the region that shows it, each with a newline."""
    side = config.tile_size // config.patch_size
    (width, height), used = image.size, side * config.patch_size / config.tile_size
    across, overview = math.isqrt(config.tile_tokens), config.tile_tokens
    edges = np.linspace(0, used, across + 1)
    whole = _grid(edges, edges) * [width, height, width, height]
    whole = np.concatenate([np.full((overview - across**2, 4), np.nan), whole])
    newline = np.full((1, 4), np.nan)
    if image.region is None:
        return np.concatenate([whole, newline]), np.zeros(overview + 1, bool)
    region, canvas = image.region, tuple(n * config.tile_size for n in image.arrangement)
    inner_width, inner_height = fit_inside(image.size, (canvas[0], canvas[1]))
    x = _edges(region.left, region.width, region.columns, config) - (canvas[1] - inner_width) // 2
    y = _edges(region.top, region.height, region.rows, config) - (canvas[0] - inner_height) // 2
    lines = _grid(x * (width / inner_width), y * (height / inner_height)).reshape(region.rows, region.columns, 4)
    ended = np.concatenate([lines, np.broadcast_to(newline, (region.rows, 1, 4))], axis=1).reshape(-1, 4)
    return np.concatenate([whole, ended]), np.arange(overview + len(ended)) < overview


def _edges(start: int, length: int, count: int, config: TileConfig) -> NDArray[np.float64]:
    """Where `count` features that share `length` patches from `start` on begin and end, in pixels of all tiles."""
    patches = np.linspace(start, start + length, count + 1)
    side = config.tile_size // config.patch_size
    tile = np.floor(patches / side)
    pixels: NDArray[np.float64] = tile * config.tile_size + (patches - tile * side) * config.patch_size
    return pixels
