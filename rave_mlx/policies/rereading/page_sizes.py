"""The same page at other sizes, cut into other patches."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from rave_mlx.config import ImageConfig, Images
from rave_mlx.inputs.images.patches import RESAMPLE
from rave_mlx.inputs.images.preprocess import cut_patches, fit_size
from rave_mlx.inputs.prompt.message import ImagePart, Original


def page_sizes(page: ImagePart, original: Original, config: Images, scales: Sequence[float]) -> list[ImagePart]:
    """A page as it would be read at other sizes; those that come out as the page itself, or twice, are left out.

    Where tokens follow the image's size, the page is read `scale` times as large as it is; by 1 / `scale` where that
    is more than the model reads in full. Tiles show every image equally large: there the page stands on a larger
    sheet of its own colour, in the same proportions to each other.

    Args:
        page: as the model reads it.
        original: its pixels.
        config: how images are read.
        scales: sizes, as shares of the page's side as it is read.
    """
    if isinstance(config, ImageConfig):
        found = [_sized(page, original, config, scale) for scale in scales]
    else:
        largest = max(*scales, 1.0)
        shares = sorted({scale / largest for scale in (*scales, 1.0)} - {1.0}, reverse=True)
        found = [_on_sheet(original, config, share) for share in shares]
    different = {part.patches.digest: part for part in found if part.patches.digest != page.patches.digest}
    return list(different.values())


def _sized(page: ImagePart, original: Original, config: ImageConfig, scale: float) -> ImagePart:
    """The page `scale` times as large as it is read, or by 1 / `scale` where that is too large to be read in full."""
    _, rows, columns = page.patches.grid
    width, height = columns * config.patch_size, rows * config.patch_size
    sides = fit_size(round(width * scale), round(height * scale), config, original.image_tokens)
    if scale > 1 and sides[0] * sides[1] <= width * height:
        sides = fit_size(round(width / scale), round(height / scale), config, original.image_tokens)
    # Once, to whole cells: cutting into patches does not resample it again.
    return ImagePart(
        cut_patches(original.picture.resize(sides, RESAMPLE[config.resample]), config, original.image_tokens)
    )


def _on_sheet(original: Original, config: Images, share: float) -> ImagePart:
    """The page in the middle of a sheet of which its sides take up `share`."""
    picture = original.picture
    # The colour of the corner is that of the paper.
    sheet = Image.new(
        picture.mode, (round(picture.width / share), round(picture.height / share)), picture.getpixel((0, 0))
    )
    sheet.paste(picture, ((sheet.width - picture.width) // 2, (sheet.height - picture.height) // 2))
    return ImagePart(cut_patches(sheet, config, original.image_tokens))
