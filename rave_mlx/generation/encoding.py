"""Images through the vision tower: those of one size together, in groups that bound the memory they take."""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping, Sequence

import mlx.core as mx

from rave_mlx import backend
from rave_mlx.backend.gpu_memory import clear_cache
from rave_mlx.inputs.images.preprocess import ImagePatches
from rave_mlx.models.image_features import features_together, form
from rave_mlx.models.lmm import LMM

PATCHES = {"cpu": 1024, "metal": 16384, "cuda": 16384}
"""Most patches that images have together in one pass of the tower; a larger image is read alone.

On a GPU it takes several small images to fill it. On a CPU one page does, and of several their activations leave the
cache; of small crops the operations are what counts there, too."""


def encode(lmm: LMM, image: ImagePatches) -> mx.array:
    """Run one image through the vision tower and the connector; features (visual tokens, hidden), computed."""
    return encode_group(lmm, [image])[0]


def encode_group(lmm: LMM, images: Sequence[ImagePatches]) -> list[mx.array]:
    """`encode` for the images of one group."""
    with backend.row_parallel():
        features = features_together(lmm, images)
        mx.eval(features)
    clear_cache()
    return features


def group(lmm: LMM, images: Iterable[ImagePatches], patches: int | None = None) -> list[ImagePatches]:
    """The first of some images, and those of the others that go through the tower with it; each once.

    Args:
        lmm: the model.
        images: to be encoded, at least one.
        patches: the most that they may have together; None: as many as are good for the backend.
    """
    most = PATCHES[backend.current().kind] if patches is None else patches
    found: dict[str, ImagePatches] = {}
    taken, kind = 0, None
    for image in images:
        if not found:
            kind = form(lmm, image)
        elif taken + len(image.pixels) > most or image.digest in found or form(lmm, image) != kind:
            continue
        found[image.digest] = image
        taken += len(image.pixels)
        if taken >= most:
            break
    return list(found.values())


def encode_missing(lmm: LMM, images: Iterable[ImagePatches], features: MutableMapping[str, mx.array]) -> None:
    """Add the features of those images that are not there, by digest."""
    while missing := [image for image in images if image.digest not in features]:
        now = group(lmm, missing)
        features.update(zip([image.digest for image in now], encode_group(lmm, now), strict=True))
