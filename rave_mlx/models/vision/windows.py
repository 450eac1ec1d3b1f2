"""Host arithmetic on the grid of an image's patches: coordinates, windows, interpolated positions.

Windows at the right and bottom edge are smaller; patches are therefore sorted so that windows of one size stand
together, and each size is one batched attention call. Attention inside a window and over the whole image does not
depend on the order, which is undone after the last layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rave_mlx.config import VisionConfig

Grid = tuple[int, int, int]
Fit = Literal["corners", "edges"]
Filter = Literal["bilinear", "bicubic"]
Runs = tuple[tuple[int, int], ...]
"""(windows, patches a window) of runs of equally large windows."""


@dataclass(frozen=True)
class WindowPlan:
    """How the patches of one image are ordered for windowed attention.

    Attributes:
        order: for each place in the tower's order, the index of the visual token (merge_size^2 patches) there.
        runs: (windows, patches a window) of each run of equally large windows, in the tower's order; one window
            around everything for a tower without windows, which keeps the order it is given.
        rows, columns: patch coordinates in the tower's order.
    """

    order: NDArray[np.int32]
    runs: Runs
    rows: NDArray[np.int32]
    columns: NDArray[np.int32]


def plan_windows(grid: Grid, config: VisionConfig) -> WindowPlan:
    """Order the patches of an image of `grid` (frames, patch rows, patch columns)."""
    frames, high, wide = grid
    merge = config.merge_size
    cells_high, cells_wide = high // merge, wide // merge
    side = max(cells_high, cells_wide)
    if config.window_size is not None:
        side = config.window_size // config.patch_size // merge
    index = np.arange(frames * cells_high * cells_wide, dtype=np.int32)
    frame, rest = np.divmod(index, cells_high * cells_wide)
    row, column = np.divmod(rest, cells_wide)
    across, down = -(-cells_wide // side), -(-cells_high // side)
    window = (frame * down + row // side) * across + column // side
    size = np.bincount(window)[window]
    order = np.lexsort((index, window, -size)).astype(np.int32)
    sizes, counts = np.unique(np.bincount(window), return_counts=True)
    runs = tuple((int(n), int(s) * merge * merge) for s, n in zip(sizes[::-1], counts[::-1], strict=True))
    inner_row, inner_column = np.divmod(np.arange(merge * merge, dtype=np.int32), merge)
    rows = (row[order, None] * merge + inner_row).reshape(-1).astype(np.int32)
    columns = (column[order, None] * merge + inner_column).reshape(-1).astype(np.int32)
    return WindowPlan(order, runs, rows, columns)


def interpolation(
    plan: WindowPlan, grid: Grid, side: int, fit: Fit = "corners", filter: Filter = "bilinear"
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Where patches fall in a square of side x side learned positions that is stretched over the image.

    The arithmetic is transformers' own, in float32.

    Args:
        plan: from `plan_windows`.
        grid: frames, patch rows and patch columns of the image.
        side: of the square of learned positions.
        fit, filter: as `VisionConfig.position_fit` and `position_filter`.

    Returns:
        (patches, n) places in the square, row by row, and (patches, n) weights, in the tower's order; n is 4 or 16.
    """
    _, high, wide = grid
    up, upper = _neighbours(plan.rows, high, side, fit, filter)
    left, lefter = _neighbours(plan.columns, wide, side, fit, filter)
    places = up[:, :, None] * side + left[:, None]
    weights = upper[:, :, None] * lefter[:, None]
    return places.reshape(len(up), -1), weights.reshape(len(up), -1)


def _neighbours(
    index: NDArray[np.int32], size: int, side: int, fit: Fit, filter: Filter
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The two or four learned positions around each patch along one axis of `size` patches, and their weights."""
    half = np.float32(0.5)
    place = index.astype(np.float32)
    if fit == "corners":
        place = place * np.float32(side - 1) / np.float32(max(size - 1, 1))
    else:
        place = (place + half) * np.float32(side) / np.float32(size) - half
    first = np.floor(place)
    step = np.arange(2, dtype=np.float32) if filter == "bilinear" else np.arange(-1, 3, dtype=np.float32)
    away = np.abs((place - first)[:, None] - step)
    weights = 1 - away if filter == "bilinear" else _cubic(away)
    return (first[:, None] + step).clip(0, side - 1).astype(np.int32), weights


def _cubic(away: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weights of cubic convolution (Keys 1981) at these distances, with torch's constant."""
    a = np.float32(-0.75)
    near = ((a + 2) * away - (a + 3)) * away * away + 1
    far = ((a * away - 5 * a) * away + 8 * a) * away - 4 * a
    return np.where(away <= 1, near, far)
