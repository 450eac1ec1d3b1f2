"""Several images through the vision tower as one: a small tower's operations cost a GPU more than its arithmetic."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import mlx.core as mx

from rave_mlx.inputs.images.preprocess import ImagePatches
from rave_mlx.models.lmm import LMM
from rave_mlx.models.vision import READ_TOGETHER


def form(lmm: LMM, image: ImagePatches) -> Hashable:
    """What images have in common that the tower reads together; an image's own where it is read alone."""
    if image.features is not None or not isinstance(lmm.vision, READ_TOGETHER):
        return image.digest
    return image.grid[1:]


def features_together(lmm: LMM, images: Sequence[ImagePatches]) -> list[mx.array]:
    """`LMM.features` of each of several images.

    Args:
        lmm: the model.
        images: at least one, all of one `form`.
    """
    if len(images) == 1:
        return [lmm.features(images[0])]
    dtype = lmm.decoder.norm.weight.dtype
    pixels = mx.concatenate([mx.array(image.pixels).astype(dtype) for image in images])
    states = lmm.vision.together(pixels, [image.grid for image in images])
    return [lmm.connector(state, image) for state, image in zip(states, images, strict=True)]
