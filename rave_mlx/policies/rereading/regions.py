"""Parts of a map: its highest values, their connected components, and the components that weigh most."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


def highest(heat: Floats, share: float) -> Mask:
    """Marks of the values from the (1 - share) quantile on; with a share of 1, of all."""
    marks: Mask = heat >= np.quantile(heat, 1 - share)
    return marks


def components(mask: Mask) -> NDArray[np.int64]:
    """Labels of the 4-connected components of a mask (height, width): 0 outside, then 1, 2, ... in reading order.

    Works on runs (stretches of marks within a row), of which smooth masks have few: runs that touch one of the row
    above are joined.
    """
    height, width = mask.shape
    padded = np.zeros((height, width + 2), np.int8)
    padded[:, 1:-1] = mask
    change = np.diff(padded, axis=1)
    row, start = np.nonzero(change == 1)
    stop = np.nonzero(change == -1)[1]
    parent = np.arange(len(row))

    def root(run: int) -> int:
        while parent[run] != run:
            parent[run] = parent[parent[run]]
            run = int(parent[run])
        return run

    begins = np.searchsorted(row, np.arange(height + 1))
    for y in range(1, height):
        above, run = begins[y - 1], begins[y]
        while above < begins[y] and run < begins[y + 1]:
            if start[above] < stop[run] and start[run] < stop[above]:
                low, high = sorted((root(int(above)), root(int(run))))
                parent[high] = low
            if stop[above] < stop[run]:
                above += 1
            else:
                run += 1
    roots = np.array([root(i) for i in range(len(row))], np.int64)
    name = np.unique(roots, return_inverse=True)[1] + 1
    labels = np.zeros((height, width + 1), np.int64)
    labels[row, start] = name
    labels[row, stop] -= name
    return labels.cumsum(axis=1)[:, :width]


def heaviest(heat: Floats, mask: Mask, count: int, share: float = 0.0) -> Mask:
    """The part of a mask that lies in the components with the largest sums of heat.

    Args:
        heat: (height, width).
        mask: of the same shape.
        count: how many components are kept.
        share: of all components; where it makes more than `count`, so many are kept.
    """
    labels = components(mask)
    sums = np.bincount(labels.ravel(), weights=heat.ravel())[1:]
    kept = np.argsort(-sums, kind="stable")[: max(count, int(len(sums) * share))] + 1
    return np.isin(labels, kept)


def bounds(mask: Mask) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) of the marks, right and bottom exclusive; of everything where there are none."""
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not rows.size:
        return 0, 0, mask.shape[1], mask.shape[0]
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
