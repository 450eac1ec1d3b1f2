"""How an image becomes what a vision tower reads. Pixels are scaled to [0, 1], then (x - mean) / std per channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rave_mlx.config.part import Part, positive
from rave_mlx.errors import ConfigError

Resample = Literal["bicubic", "bilinear", "lanczos"]

_LARGEST_SIDE = 1 << 16
"""Most pixels of `longest_edge`; more is a damaged configuration."""
_LARGEST_LEVEL = 1e6
"""Most that mean, std and 1 / std may be; more is a damaged configuration."""


@dataclass(frozen=True)
class ImageConfig(Part):
    """Images at native resolution, as the Qwen-VL models read them (arXiv 2409.12191).

    Both sides are rounded to multiples of `patch_size * merge_size`, the area is kept within [min_pixels, max_pixels],
    and the aspect is kept.

    Attributes:
        patch_size: side of a patch in pixels.
        min_pixels, max_pixels: bounds of the area, in pixels.
        temporal_patch_size: frames behind a patch; a still image is repeated.
        merge_size: patches a side of the square that becomes one visual token.
        mean, std: of red, green and blue, levels in [0, 1].
        resample: filter that images are resized with.
        max_sides: (height, width) in pixels (Pixtral, arXiv 2410.07073): instead of keeping an area, images that do
            not fit into it are reduced until they do, and both sides are rounded up to multiples of `step`; None: the
            area counts.
        step: with max_sides, the multiple in pixels; None: `cell`. Patches that fill no cell at the right and bottom
            are seen by the tower and give no visual token.
        grow_sides: whether sides shorter than a visual token are first taken for as long as one, the other side in
            proportion, which decides how strips are rounded: one side after the other, "rounded" (PaddleOCR-VL), or
            both by one factor, "truncated" (GLM-4V).
        fill: whether every image is scaled, small ones up, until it fills the largest area, and both sides are then
            rounded down (Gemma 4); `min_pixels` counts for nothing.
        row_tokens: whether one more visual token ends every row, and one stands before and after all of them
            (HunyuanOCR); they show nothing, and a budget of tokens does not count them.
        image_start: text of the token before the visual ones; empty for none.
        row_end, image_end: text of the tokens after every row of visual tokens and, in the place of the last one,
            after the image; empty for none.
    """

    patch_size: int
    min_pixels: int
    max_pixels: int
    temporal_patch_size: int = 2
    merge_size: int = 2
    mean: tuple[float, ...] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, ...] = (0.26862954, 0.26130258, 0.27577711)
    resample: Resample = "bicubic"
    max_sides: tuple[int, ...] | None = None
    step: int | None = None
    grow_sides: Literal["never", "rounded", "truncated"] = "never"
    fill: bool = False
    row_tokens: bool = False
    image_start: str = ""
    row_end: str = ""
    image_end: str = ""
    kind: Literal["native"] = "native"

    def __post_init__(self) -> None:
        positive(self, "patch_size", "temporal_patch_size", "merge_size", "max_pixels")
        _check_channels(self)
        sides = self.max_sides
        if sides is not None and (len(sides) != 2 or not all(1 <= side <= _LARGEST_SIDE for side in sides)):
            raise ConfigError(f"image.max_sides {list(sides)}: height and width from 1 to {_LARGEST_SIDE} are needed")
        if self.step is not None and (sides is None or self.step < 1 or self.step % self.patch_size):
            raise ConfigError(
                f"image.step {self.step} belongs to max_sides and is a multiple of patch_size {self.patch_size}"
            )

    @property
    def cell(self) -> int:
        """Side of the square of pixels behind one visual token."""
        return self.patch_size * self.merge_size


@dataclass(frozen=True)
class DenseTiles(Part):
    """Pages that get more tiles than others (Granite-Docling): wide ones that would be shrunk too much.

    Attributes:
        max_tiles: most tiles of such a page.
        below: the width that the tiles have is less than this share of the page's; 0: any page.
        min_aspect, max_aspect: its width is more than the first times its height, and no more than the second; 0: any.
    """

    max_tiles: int
    below: float = 0.0
    min_aspect: float = 0.0
    max_aspect: float = 0.0

    def __post_init__(self) -> None:
        positive(self, "max_tiles")


@dataclass(frozen=True)
class Overview(Part):
    """A view of the whole image, of another size than the tiles (DeepSeek-OCR 2): the image is scaled until its longer
    side is `size` pixels, and stands in the middle of a square of one colour.

    Attributes:
        size: in pixels.
        tokens: visual tokens of the view.
        color: levels of red, green and blue around the image, from 0 to 255.
        alone: whether there are no tiles beside it, however large the image.
    """

    size: int
    tokens: int
    color: tuple[int, ...] = (127, 127, 127)
    alone: bool = False

    def __post_init__(self) -> None:
        positive(self, "size", "tokens")
        if self.size > _LARGEST_SIDE:
            raise ConfigError(f"image.overview.size {self.size}: at most {_LARGEST_SIDE} pixels")
        if len(self.color) != 3 or not all(0 <= level <= 255 for level in self.color):
            raise ConfigError(f"image.overview.color {list(self.color)}: three levels from 0 to 255 are needed")


@dataclass(frozen=True)
class TileConfig(Part):
    """Square tiles of `tile_size` pixels, each cut into patches of `patch_size`; `tile_tokens` visual tokens a tile.

    Attributes:
        plan: how tiles are chosen.
            "single": one tile.
            "pinpoints": the best of the sizes in `pinpoints` (height, width), image fitted into it and padded, cut
                into tiles, after one tile with the whole image (LLaVA-NeXT, LLaVA-OneVision).
            "closest": the arrangement of min_tiles to max_tiles tiles whose aspect is closest, then one tile with
                the whole image if there are several (InternVL).
            "split": longest side to `longest_edge`, sides up to multiples of a tile, then one tile with the whole
                image if there are several (Idefics3, SmolVLM).
            "views": of an image larger than a tile the arrangement of min_tiles to max_tiles tiles whose aspect is
                closest; then `overview`, and one token that ends the image and shows nothing (DeepSeek-OCR 2).
        fit: of a single tile: "stretch" to a square, "crop" (shortest side to the tile, centre cut out) or "pad"
            (square by padding with the mean colour, then resized).
        tile_tokens: visual tokens a tile.
        max_features: pinpoints: more tiles' worth of features than this are scaled down (LLaVA-OneVision); None: never.
        max_side: closest: most tiles a side; None: any number.
        overview: views: the view of the whole image.
        dense: closest: pages with more tiles than max_tiles; None: there are none.
        markers: what stands around visual tokens in a prompt: "none"; "tags", <img> and </img>; "grid", Idefics3's
            tokens for rows, columns and the whole image; "page", the same with a row and a column for an image of one
            tile (Granite-Docling).
        before, after: with "none", text around an image's visual tokens.
    """

    tile_size: int
    patch_size: int
    tile_tokens: int
    plan: Literal["single", "pinpoints", "closest", "split", "views"] = "single"
    fit: Literal["stretch", "crop", "pad"] = "stretch"
    pinpoints: tuple[tuple[int, ...], ...] = ()
    max_features: int | None = None
    min_tiles: int = 1
    max_tiles: int = 12
    longest_edge: int | None = None
    max_side: int | None = None
    overview: Overview | None = None
    dense: DenseTiles | None = None
    markers: Literal["none", "tags", "grid", "page"] = "none"
    before: str = ""
    after: str = ""
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    resample: Resample = "bicubic"
    kind: Literal["tiles"] = "tiles"

    def __post_init__(self) -> None:
        positive(self, "tile_size", "patch_size", "tile_tokens", "min_tiles", "max_tiles")
        _check_channels(self)
        if (self.plan == "pinpoints") != bool(self.pinpoints):
            raise ConfigError("image: pinpoints belong to the plan of that name, which needs at least one")
        if any(len(p) != 2 or p[0] % self.tile_size or p[1] % self.tile_size or min(p) < 1 for p in self.pinpoints):
            raise ConfigError(f"image.pinpoints: pairs of multiples of tile_size {self.tile_size} are needed")
        if self.plan == "split" and (self.longest_edge is None or not 1 <= self.longest_edge <= _LARGEST_SIDE):
            raise ConfigError(f"image: the split plan needs longest_edge, from 1 to {_LARGEST_SIDE}")
        if (self.plan == "views") != (self.overview is not None):
            raise ConfigError("image: overview belongs to the plan 'views', which needs one")
        if self.plan == "views" and self.tile_size > _LARGEST_SIDE:
            raise ConfigError(f"image.tile_size {self.tile_size}: at most {_LARGEST_SIDE} pixels")
        if self.min_tiles > self.max_tiles:
            raise ConfigError(f"image: min_tiles {self.min_tiles} is more than max_tiles {self.max_tiles}")


def _check_channels(config: ImageConfig | TileConfig) -> None:
    """Refuse means and deviations that are not of three channels, or not of levels in [0, 1]."""
    if not len(config.mean) == len(config.std) == 3:
        raise ConfigError(
            f"image.mean and image.std need a number for red, green and blue: {config.mean}, {config.std}"
        )
    if 0 in config.std:
        raise ConfigError(f"image.std {list(config.std)}: a channel cannot be divided by 0")
    if any(abs(v) > _LARGEST_LEVEL for v in (*config.mean, *config.std, *(1 / s for s in config.std))):
        raise ConfigError(
            f"image.mean {list(config.mean)} and image.std {list(config.std)} are not for levels in [0, 1]"
        )


Images = ImageConfig | TileConfig
