"""The tiles that show an image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rave_mlx.inputs.images.patches import Region


@dataclass(frozen=True, eq=False)
class Tiling:
    """Tiles of one image.

    Attributes:
        levels: uint8 (tiles, tile_size, tile_size, 3), in the order in which the model reads them, the tile with the
            whole image (if any) included.
        whole: uint8 (size, size, 3), a last view of the whole image that is of another size; None: there is none.
        rows, columns: how the others are arranged.
        region: the part of the others that shows the image, where the features of padding are dropped; else None.
    """

    levels: NDArray[np.uint8]
    rows: int
    columns: int
    region: Region | None = None
    whole: NDArray[np.uint8] | None = None

    @property
    def overview(self) -> bool:
        """Whether there is a tile with the whole image beside the others."""
        return len(self.levels) == self.rows * self.columns + 1
