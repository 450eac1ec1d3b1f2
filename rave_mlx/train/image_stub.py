"""How many tokens an image will take, from the header of its file alone.

A stub is an image without pixels: enough to lay out a prompt. What decides about its tokens is the code that cuts
real images; only the pixels are missing.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rave_mlx.config import ImageConfig, Images, TileConfig
from rave_mlx.errors import ImageError
from rave_mlx.inputs.image_reference import ImageReference
from rave_mlx.inputs.images.header import header_size
from rave_mlx.inputs.images.native_grid import native_layout
from rave_mlx.inputs.images.preprocess import ImagePatches, cut_patches, fit_size, read_patches
from rave_mlx.inputs.images.sources import named
from rave_mlx.inputs.images.tiling import PLANS, TILED_IMAGE_TOKENS
from rave_mlx.inputs.images.tiling.markers import layout
from rave_mlx.train.rows import DataError

_NONE = np.zeros((0, 0), np.float32)


class Spool:
    """Encoded images of a data set that brings them in its rows, in a temporary file instead of in memory."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="rave-mlx-")  # noqa: SIM115 - it lives as long as the data set
        self._end = 0

    def add(self, data: bytes) -> Spooled:
        """Keep an image."""
        self._file.write(data)
        self._file.flush()
        start, self._end = self._end, self._end + len(data)
        return Spooled(self, start, len(data))

    def read(self, start: int, size: int) -> bytes:
        """Bytes from a place on; from any thread."""
        return os.pread(self._file.fileno(), size, start)


@dataclass(frozen=True)
class Spooled:
    """An image in a spool."""

    spool: Spool
    start: int
    size: int

    def read(self) -> bytes:
        """Its encoded bytes."""
        return self.spool.read(self.start, self.size)


@dataclass(frozen=True, eq=False)
class ImageStub(ImagePatches):
    """An image without pixels, and where to get them."""

    source: Path | Spooled = Path()
    page: int = 1

    def content_digest(self) -> str:
        """SHA-256 of its encoded bytes, in hexadecimal.

        Raises:
            DataError: when its file is gone or cannot be read.
        """
        if isinstance(self.source, Spooled):
            return hashlib.sha256(self.source.read()).hexdigest()
        try:
            with self.source.open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{self.source}: cannot be read ({error.strerror})") from None

    def read(self, config: Images, image_tokens: int | None) -> ImagePatches:
        """The image itself.

        Raises:
            ImageError: when it cannot be read.
            DataError: when it is not the one that was opened.
        """
        source = self.source if isinstance(self.source, Path) else self.source.read()
        patches = read_patches(source, config, page=self.page, image_tokens=image_tokens)
        if patches.layout != self.layout or patches.grid != self.grid:
            raise DataError(f"{self.source}: the image has changed since the data set was opened; start again")
        return patches


def make_stub(image: ImageReference, config: Images, image_tokens: int | None, spool: Spool) -> ImageStub:
    """The stub of an image.

    Raises:
        ImageError: when its file is no image, or one the model cannot take.
    """
    size = _size(image)
    if size is None:
        made = read_patches(image.source, config, page=image.page, image_tokens=image_tokens)
    else:
        with named(image.source):
            made = _sized(size, config, image_tokens)
    source = image.source if isinstance(image.source, Path) else spool.add(image.source)
    return ImageStub(_NONE, made.grid, "", made.size, made.layout, source=source, page=image.page)


def check_budget(config: Images, image_tokens: int | None) -> None:
    """Refuse a budget that no image fits into, before every image is refused for it; ImageError."""
    cut_patches(Image.new("RGB", (64, 64)), config, image_tokens)


def _size(image: ImageReference) -> tuple[int, int] | None:
    """(width, height) in pixels, upright; None where only decoding tells."""
    if image.page > 1:
        return None
    try:
        with io.BytesIO(image.source) if isinstance(image.source, bytes) else image.source.open("rb") as file:
            return header_size(file)
    except OSError:
        return None  # the decoder fails as well, and has the words for it


@lru_cache(maxsize=4096)
def _sized(size: tuple[int, int], config: Images, image_tokens: int | None) -> ImagePatches:
    """An image of `size` (width, height) without pixels."""
    if isinstance(config, ImageConfig):
        width, height = fit_size(*size, config, image_tokens)
        rows, columns = height // config.patch_size, width // config.patch_size
        placed = native_layout(rows // config.merge_size, columns // config.merge_size, config)
        return ImagePatches(_NONE, (1, rows, columns), "", size, placed)
    return _tiled(size, config, TILED_IMAGE_TOKENS if image_tokens is None else image_tokens)


def _tiled(size: tuple[int, int], config: TileConfig, budget: int) -> ImagePatches:
    if min(size) < 1:
        raise ImageError(f"the image has no pixels ({size[0]} x {size[1]}); pass one with both sides above 0")
    blank = Image.new("RGB", size) if config.fit == "pad" else _Blank(size)
    tiling = PLANS[config.plan](blank, config, budget)
    side = config.tile_size // config.patch_size
    return ImagePatches(_NONE, (len(tiling.levels), side, side), "", size, layout(tiling, config, size))


class _Blank(Image.Image):
    """A picture that has a size and costs nothing to resize: the same zero stands for every level."""

    def __init__(self, size: tuple[int, int]):
        super().__init__()
        self._size, self._mode = size, "RGB"
        self._levels = np.broadcast_to(np.uint8(0), (size[1], size[0], 3))

    def resize(self, size: Any, *args: Any, **options: Any) -> Image.Image:
        return _Blank((size[0], size[1]))

    def crop(self, box: Any = None) -> Image.Image:
        return _Blank((box[2] - box[0], box[3] - box[1]))

    @property
    def __array_interface__(self) -> dict[str, Any]:
        interface: dict[str, Any] = self._levels.__array_interface__
        return interface
