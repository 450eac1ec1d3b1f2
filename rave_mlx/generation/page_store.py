"""Pages that were read once for good: visual features and keys and values on disk, for the next process.

What is kept of a prompt is its beginning up to the last visual token: another question about the same page begins in
the same way. An entry is named after all that decides its numbers (`PageStore.prefix_key`), so nothing else is ever
taken for it: the weights in memory, adapters included, and the embeddings of the prompt's tokens; whether gates are
used; token ids, positions, pixels; types and layout of the cache; versions. Attention policies that touch a decoder
layer keep states beside keys and values and take the plain way, with the features of images alone; so does a prompt
whose visual tokens see the question that follows them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from functools import cached_property
from importlib import metadata

import mlx.core as mx
import numpy as np

from rave_mlx import backend
from rave_mlx.config import TextConfig
from rave_mlx.generation.page_folder import PageFolder, most_bytes
from rave_mlx.generation.weights_identity import embedding_digest, weights_digest
from rave_mlx.inputs.images.patches import ImagePatches
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.kv_cache import Cache, LayerCache
from rave_mlx.models.lmm import LMM
from rave_mlx.models.state_cache import StateCache

_FORMAT = 1
"""Version of what is kept and how it is named; also raised where the arithmetic of a model changes."""


class PageStore:
    """What a model has read of pages, in this process or another.

    Args:
        lmm: the model; its weights must not change from the first page on.
        folder: where pages are kept; None for the user's own folder.

    Raises:
        UsageError: as `page_folder.most_bytes`.
    """

    def __init__(self, lmm: LMM, folder: PageFolder | None = None):
        self._lmm = lmm
        self.folder = PageFolder() if folder is None else folder

    @classmethod
    def open(cls, lmm: LMM) -> PageStore | None:
        """The store in the user's own folder; None where `page_folder.VARIABLE` switches it off, or for text alone.

        Raises:
            UsageError: as `page_folder.most_bytes`.
        """
        return cls(lmm) if lmm.config.vision is not None and most_bytes() else None

    @cached_property
    def _model(self) -> str:
        """All that does not depend on the prompt."""
        versions = [metadata.version(name) for name in ("rave-mlx", "mlx")]
        return f"{_FORMAT} {versions} {backend.current().kind} {weights_digest(self._lmm)}"

    def begin(self, prompt: Prompt, cache: Cache, bucket: int) -> int:
        """Fill a cache with as much of a prompt's beginning as is kept, where that is more than it holds.

        Args:
            prompt: what is about to be read.
            cache: for it; changed in place.
            bucket: `rope_scaling.rope_bucket` of the prompt.

        Returns:
            Tokens that the cache was filled with; 0 where it is left as it is.
        """
        for end in _page_ends(prompt):
            if end <= cache.length or not _is_plain(cache):
                return 0
            found = self.folder.read(self.prefix_key(prompt, end, cache, bucket))
            layers = None if found is None else _layers(found, cache, end, self._lmm.config.text)
            if layers is not None:
                cache.layers = layers
                visual = np.flatnonzero(prompt.token_map.visual[:end])
                cache.visual_span = (int(visual[0]), int(visual[-1]) + 1)
                return end
        return 0

    def keep(self, prompt: Prompt, cache: Cache, bucket: int, known: int = 0) -> None:
        """Keep the beginning of a prompt, up to its last visual token.

        Args:
            prompt: whose tokens `cache` begins with.
            cache: read under `bucket`.
            bucket: as of `begin`.
            known: tokens of the prompt that were not read just now.
        """
        end = next(iter(_page_ends(prompt)), 0)
        if known < end <= cache.length and _is_plain(cache) and cache.reach(end) == end:
            arrays = {
                f"{index}.{part}": x
                for index, layer in enumerate(cache.layers)
                for part, x in enumerate(layer.first(end))
            }
            self.folder.write(self.prefix_key(prompt, end, cache, bucket), arrays)

    def features(self, image: ImagePatches) -> mx.array | None:
        """Features (visual tokens, hidden) of an image, as of `LMM.features`; None where they are not kept."""
        found = self.folder.read(self._features_key(image))
        return None if found is None else found.get("features")

    def has_features(self, image: ImagePatches) -> bool:
        """Whether the features of an image are kept."""
        return self.folder.has(self._features_key(image))

    def missing_features(self, prompt: Prompt, start: int, known: Collection[str]) -> dict[str, mx.array]:
        """Kept features, by digest, of the images of which tokens from `start` on are still to be read.

        Args:
            prompt: what is about to be read.
            start: its tokens before are read.
            known: digests of images that nothing is needed of.
        """
        pending = sorted(set(prompt.token_map.image[start:].tolist()) - {-1})
        images = [prompt.images[i] for i in pending if prompt.images[i].digest not in known]
        return {image.digest: kept for image in images if (kept := self.features(image)) is not None}

    def keep_features(self, image: ImagePatches, features: mx.array) -> None:
        """Keep the features of an image."""
        self.folder.write(self._features_key(image), {"features": features})

    def prefix_key(self, prompt: Prompt, end: int, cache: Cache, bucket: int) -> str:
        """Name of the entry of the first `end` tokens: SHA-256, in hexadecimal, over all that decides its numbers."""
        tokens = prompt.token_map
        images = [prompt.images[i].digest for i in sorted(set(tokens.image[:end].tolist()) - {-1})]
        digest = hashlib.sha256(f"prefix {self._model} {self._lmm.kv_bits} {cache.gated} {bucket} {images}\n".encode())
        digest.update(embedding_digest(self._lmm, prompt.ids[0, :end]).encode())
        for array in (prompt.ids[:, :end], tokens.image[:end], tokens.positions[:, :end]):
            digest.update(f"{array.shape} {array.dtype}\n".encode() + np.ascontiguousarray(array).tobytes())
        if tokens.lookahead is not None:
            digest.update(np.ascontiguousarray(tokens.lookahead[:, :end]).tobytes())
        return digest.hexdigest()

    def _features_key(self, image: ImagePatches) -> str:
        return hashlib.sha256(f"features {self._model} {image.digest} {image.grid} {image.layout}".encode()).hexdigest()


def _page_ends(prompt: Prompt) -> list[int]:
    """Lengths of beginnings that end with an image and do not depend on what follows, the longest first."""
    tokens, reach = prompt.token_map, prompt.token_map.reach
    ends = [int(np.flatnonzero(tokens.image == index)[-1]) + 1 for index in set(tokens.image.tolist()) - {-1}]
    return [
        end
        for end in sorted(ends, reverse=True)
        if end < len(prompt) and (reach is None or int(reach[:end].max(initial=0)) <= end)
    ]


def _is_plain(cache: Cache) -> bool:
    """Whether a cache is nothing but keys, values and states of one conversation."""
    return cache.hooks is None


def _layers(
    found: dict[str, mx.array], cache: Cache, length: int, text: TextConfig
) -> list[LayerCache | StateCache] | None:
    """The layers' caches from the tensors of an entry; None where they are not those of `length` tokens."""
    layers: list[LayerCache | StateCache] = []
    for index, layer in enumerate(cache.layers):
        arrays = [found[name] for part in range(len(found)) if (name := f"{index}.{part}") in found]
        if text.lender_of(index) is not None and not arrays:
            layers.append(LayerCache(layer.bits) if isinstance(layer, LayerCache) else layer)
            continue
        if len(arrays) < 2:
            return None
        if isinstance(layer, StateCache):
            layers.append(StateCache.holding(arrays, length))
        elif any(x.shape[2] != length for x in arrays):
            return None
        else:
            layers.append(LayerCache.holding(arrays, length, layer.bits))
    return layers
