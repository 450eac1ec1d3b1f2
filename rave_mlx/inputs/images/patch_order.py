"""In which order the patches of an image at native resolution come, and back from there."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def patch_order(rows: int, columns: int, merge: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Row and column of every patch: the merge x merge patches of one visual token together, each in reading order;
    patches at the right and bottom that fill no such cell come last.

    Args:
        rows, columns: of patches.
        merge: patches a side of a cell.

    Returns:
        Two arrays (rows * columns,).
    """
    row, column = (x.reshape(-1) for x in np.indices((rows, columns), dtype=np.int32))
    high, wide = rows // merge, columns // merge
    inside = (row < high * merge) & (column < wide * merge)
    keys = (column % merge, row % merge, column // merge, row // merge)
    order = np.lexsort((*(np.where(inside, key, 0) for key in keys), ~inside))
    return row[order], column[order]


def in_reading_order(patches: NDArray[Any], rows: int, columns: int, merge: int) -> NDArray[Any]:
    """Patches (rows * columns, ...) of `patch_order` as a grid (rows, columns, ...).

    Args:
        patches: anything per patch.
        rows, columns: of patches.
        merge: patches a side of a cell.
    """
    grid = np.empty((rows, columns, *patches.shape[1:]), patches.dtype)
    grid[patch_order(rows, columns, merge)] = patches
    return grid
