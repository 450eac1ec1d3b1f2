"""Features of a frozen tower, computed once an image: kept in memory up to a limit, beyond it in files.

A file is named after the image's content and the model's, so that a folder may be used by many runs and models, and by
several processes at once: files are written beside their place and renamed into it.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path

import mlx.core as mx
import numpy as np

from rave_mlx.errors import ModelError
from rave_mlx.generation.encoding import encode
from rave_mlx.inputs.images.preprocess import ImagePatches
from rave_mlx.models.lmm import LMM

_MEMORY = 1 << 30


class FeatureCache:
    """What `LMM.features` gives for images, for a tower and a connector that do not change.

    Args:
        lmm: the model.
        memory: bytes that may be held; the images used longest ago give way.
        folder: where features are kept as well; None: in memory only.

    Raises:
        ModelError: when the folder cannot be made or written.
    """

    def __init__(self, lmm: LMM, *, memory: int = _MEMORY, folder: Path | None = None):
        self._lmm, self._memory, self._folder = lmm, memory, folder
        self._held: OrderedDict[str, mx.array] = OrderedDict()
        self._bytes = 0
        self.computed = 0
        """How often the tower ran."""
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise ModelError(f"{folder}: cannot keep features there ({error.strerror})") from None
            self._model = fingerprint(lmm)

    @property
    def nbytes(self) -> int:
        """Bytes held in memory."""
        return self._bytes

    def read(self, images: Iterable[ImagePatches]) -> dict[str, mx.array]:
        """Features (visual tokens, hidden * (1 + n)) of images by digest, computed; call it outside of gradients."""
        return {image.digest: self._one(image) for image in images}

    def _one(self, image: ImagePatches) -> mx.array:
        if image.digest in self._held:
            self._held.move_to_end(image.digest)
            return self._held[image.digest]
        found = self._load(image)
        if found is None:
            found = encode(self._lmm, image)
            self.computed += 1
            self._store(image, found)
        self._held[image.digest] = found
        self._bytes += found.nbytes
        while self._bytes > self._memory:
            self._bytes -= self._held.popitem(last=False)[1].nbytes
        return found

    def _file(self, image: ImagePatches) -> Path | None:
        return None if self._folder is None else self._folder / f"{self._model}-{image.digest[:32]}.safetensors"

    def _load(self, image: ImagePatches) -> mx.array | None:
        file = self._file(image)
        if file is None or not file.is_file():
            return None
        try:
            stored = mx.load(str(file))
            assert isinstance(stored, dict)
            found: mx.array = stored["features"]
            mx.eval(found)
        except (RuntimeError, KeyError):
            return None  # written by something else, or damaged: it is computed and written again
        return found if found.shape[0] == image.tokens else None

    def _store(self, image: ImagePatches, features: mx.array) -> None:
        file = self._file(image)
        if file is None:
            return
        try:
            handle, part = tempfile.mkstemp(suffix=".part.safetensors", dir=file.parent)
            os.close(handle)
            try:
                mx.save_safetensors(part, {"features": features})
                Path(part).replace(file)
            except BaseException:
                Path(part).unlink(missing_ok=True)
                raise
        except (OSError, RuntimeError) as error:
            raise ModelError(f"{file.parent}: features cannot be kept there ({error}); choose another folder") from None


def fingerprint(lmm: LMM) -> str:
    """A hash of all that features depend on: configuration, type and values of tower and connector."""
    found = hashlib.sha256(repr((lmm.config.vision, lmm.config.connector, lmm.decoder.norm.weight.dtype)).encode())
    for name, tensor in sorted(lmm.named_weights().items()):
        if name.startswith(("vision.", "connector.")):
            found.update(f"{name} {tensor.shape} {tensor.dtype}".encode())
            found.update(np.array(mx.contiguous(tensor).view(mx.uint8)).data)
    return found.hexdigest()[:32]
