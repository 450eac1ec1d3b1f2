"""The arithmetic of `vflowopt`: how important each visual token is, and which tokens become one.

Everything here is about one image; a grid is one tile, or the tiles of LLaVA-NeXT put together without padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx.config import (
    Connector,
    PathConnectorConfig,
    PoolConnectorConfig,
    ShuffleConnectorConfig,
    TileConfig,
    TileVisionConfig,
)
from rave_mlx.inputs.images.patches import ImagePatches
from rave_mlx.models.connectors.mlp import join_tiles, scale_features
from rave_mlx.models.vision.tiled import TileLayer

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
_GREY = np.array([299, 587, 114]) / 1000
"""Luma of red, green and blue (ITU-R 601), as in Pillow's mode L."""


@dataclass(frozen=True, eq=False)
class PrunedPatches(ImagePatches):
    """An image of which some visual tokens are left; `layout` counts those.

    Attributes:
        importance: (tokens,) of what is left; inf for tokens that always stay.
    """

    importance: Floats = field(default_factory=lambda: np.zeros(0), repr=False)


@dataclass(frozen=True, eq=False)
class Places:
    """The visual tokens of an image: importance (inf for those that always stay), grid (-1 for those), row, column."""

    importance: Floats
    grid: Ints
    row: Ints
    column: Ints

    @classmethod
    def of(cls, values: Floats, grid: int) -> Places:
        """Tokens of one grid, row after row, from their importance (rows, columns)."""
        row, column = np.indices(values.shape)
        return cls(values.reshape(-1), np.full(values.size, grid), row.reshape(-1), column.reshape(-1))

    @classmethod
    def extra(cls, count: int) -> Places:
        """Tokens that show no part of the image: newlines, class tokens."""
        none = np.full(count, -1)
        return cls(np.full(count, np.inf), none, none, none)

    @classmethod
    def joined(cls, parts: Sequence[Places]) -> Places:
        """One after the other."""
        names = ("importance", "grid", "row", "column")
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def attention(layer: TileLayer, x: mx.array, heads: int, first: int) -> list[NDArray[np.float32]]:
    """Attention among the patches of each tile in one layer of a vision tower.

    Args:
        layer: of the tower.
        x: what enters it (tiles, states, hidden).
        heads: of the tower.
        first: index of the first patch's state: 1 after a class token, which is left out.

    Returns:
        For each tile (patches, patches), mean over heads.
    """
    width = x.shape[-1] // heads
    found = []
    for tile in range(x.shape[0]):
        q, k, _ = layer.attention.project(layer.norm1(x[tile]))
        q, k = (y.astype(mx.float32).reshape(-1, heads, width).swapaxes(0, 1) for y in (q, k))
        weights = mx.mean(mx.softmax(q @ k.swapaxes(-1, -2) * width**-0.5, axis=-1), axis=0)
        found.append(np.array(weights[first:, first:]))
    return found


def tile_importance(weights: NDArray[np.float32], threshold: float, entropies: Floats | None, alpha: float) -> Floats:
    """Importance (patches,) in a tile: the mean row of its global tokens, plus alpha softmax(entropies).

    Args:
        weights: attention (patches, patches).
        threshold: global tokens receive more than this many times the mean; where none does, all rows count.
        entropies: (patches,) of the grey levels, in bits; None to leave them out.
        alpha: their factor.
    """
    received = weights.mean(axis=0, dtype=np.float64)
    chosen = received > threshold * received.mean()
    importance: Floats = weights[chosen].mean(axis=0, dtype=np.float64) if chosen.any() else received
    if entropies is not None:
        powers = np.exp(entropies - entropies.max())
        importance = importance + alpha * powers / powers.sum()
    return importance


def patch_entropies(image: ImagePatches, config: TileConfig) -> Floats:
    """Shannon entropy in bits (tiles, patches) of the 256 grey levels in each patch."""
    pixels = image.pixels.reshape(len(image.pixels), 3, -1)
    mean, std = (np.array(values)[:, None] for values in (config.mean, config.std))
    levels = np.rint((pixels * std + mean) * 255)
    grey = np.rint(np.einsum("c,pcx->px", _GREY, levels)).astype(np.int64).clip(0, 255)
    counts = np.zeros((len(grey), 256))
    np.add.at(counts, (np.arange(len(grey))[:, None], grey), 1)
    shares = counts / grey.shape[1]
    bits: Floats = -(shares * np.log2(np.where(shares > 0, shares, 1))).sum(axis=1)
    return bits.reshape(image.grid[0], len(bits) // image.grid[0])


def places(values: Floats, image: ImagePatches, tower: TileVisionConfig, connector: Connector) -> Places:
    """Where an image's visual tokens stand and how important they are.

    Pixel shuffle and averaging make one token of several patches, whose mean it gets; a scaled-down image's map is
    scaled with it.

    Args:
        values: importance of the patches (tiles, patches).
        image: their image.
        tower: configuration of the vision tower.
        connector: configuration of the connector; not a resampler's.
    """
    tiles, rows, columns = image.grid
    if isinstance(connector, ShuffleConnectorConfig | PathConnectorConfig):
        scale = connector.scale if isinstance(connector, ShuffleConnectorConfig) else connector.taken_scale
        cells = values.reshape(tiles, rows // scale, scale, columns // scale, scale).mean(axis=(2, 4))
        return Places.joined([Places.of(tile, index) for index, tile in enumerate(cells)])
    maps = values.reshape(tiles, rows, columns)
    if isinstance(connector, PoolConnectorConfig):
        pool, high, wide = connector.pool, rows // connector.pool, columns // connector.pool
        inside = maps[:, : high * pool, : wide * pool].reshape(tiles, high, pool, wide, pool)
        return Places.joined([Places.of(tile, index) for index, tile in enumerate(inside.mean(axis=(2, 4)))])
    if not getattr(connector, "newline", False):
        before = [Places.extra(1)] if tower.class_token and tower.keep_class_token else []
        return Places.joined([part for index, tile in enumerate(maps) for part in (*before, Places.of(tile, index))])
    if image.region is None:
        return Places.joined([Places.of(maps[0], 0), Places.extra(1)])
    region = image.region
    flat = mx.array(values[1:, :, None].astype(np.float32))
    whole = join_tiles(flat, image, region).reshape(region.height, region.width, 1)
    scaled = np.array(scale_features(whole, region.rows, region.columns)).astype(np.float64)
    one = Places.of(scaled[..., 0], 1)
    lines = [_part(one, one.row == row) for row in range(region.rows)]
    return Places.joined([Places.of(maps[0], 0), *(part for line in lines for part in (line, Places.extra(1)))])


def _part(every: Places, chosen: NDArray[np.bool_]) -> Places:
    """Those of the tokens that are marked (tokens,)."""
    return Places(every.importance[chosen], every.grid[chosen], every.row[chosen], every.column[chosen])


def recycle(found: Places, keep: float, cell: float) -> tuple[Ints, Ints, NDArray[np.float32]]:
    """Which tokens of an image are left, and what becomes of the others.

    Of N tokens of a grid, the least important round(N (1 - keep)) + floor(N / cell^2) go. Those of one cell, a square
    of `cell` tokens a side, become one: their mean by importance, in the place of the most important of them.

    Args:
        found: the image's visual tokens.
        keep: share of a grid's tokens that are left, merged ones included.
        cell: side of a cell, in tokens; need not be whole.

    Returns:
        (n,) indices of the tokens that are left, ascending; (c,) those among them that stand for a cell; and (c,
        tokens) the share of every token in these.
    """
    left, merged, shares = [np.flatnonzero(found.grid < 0)], [], []
    for grid in np.unique(found.grid[found.grid >= 0]):
        own = np.flatnonzero(found.grid == grid)
        order = own[np.argsort(-found.importance[own].round(12), kind="stable")]
        stay = max(1, own.size - round(own.size * (1 - keep)) - int(own.size / cell**2))
        left.append(order[:stay])
        gone = order[stay:]
        cells = (found.row[gone] // cell) * found.column.size + found.column[gone] // cell
        for index in np.unique(cells):
            members = gone[cells == index]
            weights = found.importance[members]
            share = np.zeros(found.importance.size, np.float32)
            share[members] = weights / weights.sum() if weights.min() >= 0 < weights.sum() else 1 / members.size
            merged.append(members[0])
            shares.append(share)
    index = np.sort(np.concatenate([*left, merged]).astype(np.int64))
    return index, np.array(merged, np.int64), np.array(shares, np.float32).reshape(len(shares), -1)
