"""What was read lately, for prompts that begin in the same way: the same page and another question."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import mlx.core as mx

from rave_mlx import backend
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.kv_cache import Cache

T = TypeVar("T")
_COVERED = 0.75
"""Share of a prompt that another one has to have in common with it to stand for both."""
_SHARE_OF_MEMORY = 16
_MOST_BYTES = 1 << 30


@dataclass(frozen=True, eq=False)
class _Kept:
    """A prompt without the pixels of its images, its cache, and which rotary frequencies that was read with."""

    prompt: Prompt
    cache: Cache
    bucket: int


class PrefixStore:
    """Caches of recently read prompts, the least recently used of which are given up.

    Args:
        most: bytes of keys and values that are kept; None: a sixteenth of the memory, 1 GiB at most.

    Attributes:
        notes: what policies found out about pages, as the words on them.
    """

    def __init__(self, most: int | None = None):
        self.most = default_bytes() if most is None else most
        self.notes = Notes()
        self._kept: list[_Kept] = []

    @property
    def nbytes(self) -> int:
        """Bytes that are kept."""
        return sum(kept.cache.nbytes for kept in self._kept)

    def begin(self, prompt: Prompt, empty: Cache, bucket: int) -> Cache:
        """A cache to read a prompt with, which holds as much of its beginning as is known.

        Args:
            prompt: what is about to be read; at least one of its tokens is left to read.
            empty: a cache for it that holds nothing; says whether gates are used.
            bucket: `rope_scaling.rope_bucket` of the prompt.
        """
        shared, best = 0, None
        for kept in self._kept:
            if kept.bucket == bucket and kept.cache.gated == empty.gated:
                same = kept.cache.reach(min(kept.prompt.same_until(prompt), len(prompt) - 1))
                shared, best = max((shared, best), (same, kept), key=lambda pair: pair[0])
        if best is None:
            return empty
        self._kept.remove(best)
        self._kept.append(best)
        return fork(best.cache, shared)

    def keep(self, prompt: Prompt, cache: Cache, bucket: int) -> None:
        """Keep a prompt that was read, unless most of it is there already.

        Args:
            prompt: what `cache` holds.
            cache: must not change from now on.
            bucket: as of `begin`.
        """
        for kept in list(self._kept):
            if kept.bucket != bucket or kept.cache.gated != cache.gated:
                continue
            shared = kept.cache.reach(kept.prompt.same_until(prompt))
            if shared >= _COVERED * len(prompt):
                return
            if shared >= _COVERED * len(kept.prompt):
                self._kept.remove(kept)
        if cache.nbytes <= self.most:
            self._kept.append(_Kept(_without_pixels(prompt), cache, bucket))
            self.shrink(self.most)

    def shrink(self, most: int) -> None:
        """Give up the least recently used until `most` bytes are left at most."""
        while self._kept and self.nbytes > most:
            self._kept.pop(0)


class Notes:
    """What was found out about recent pages, the least recently asked of which is given up.

    Args:
        most: how many are kept.
    """

    def __init__(self, most: int = 16):
        self.most = most
        self._kept: OrderedDict[str, Any] = OrderedDict()

    def get(self, key: str, make: Callable[[], T]) -> T:
        """What is known under a key; `make` finds it out where nothing is."""
        if key not in self._kept:
            self._kept[key] = make()
        self._kept.move_to_end(key)
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)
        found: T = self._kept[key]
        return found


class FeatureStore(MutableMapping[str, mx.array]):
    """Features of recently encoded images by digest, the least recently used of which are given up.

    Args:
        most: bytes that are kept, the newest image's in any case; None: as of `PrefixStore`.
    """

    def __init__(self, most: int | None = None):
        self.most = default_bytes() if most is None else most
        self._kept: OrderedDict[str, mx.array] = OrderedDict()

    def __getitem__(self, digest: str) -> mx.array:
        self._kept.move_to_end(digest)
        return self._kept[digest]

    def __setitem__(self, digest: str, features: mx.array) -> None:
        self._kept[digest] = features
        self._kept.move_to_end(digest)
        while len(self._kept) > 1 and sum(x.nbytes for x in self._kept.values()) > self.most:
            self._kept.popitem(last=False)

    def __delitem__(self, digest: str) -> None:
        del self._kept[digest]

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._kept))

    def __len__(self) -> int:
        return len(self._kept)


def fork(cache: Cache, length: int) -> Cache:
    """A cache that holds the first `length` tokens of another one, which is left as it is; without policies.

    Args:
        cache: the other one.
        length: one that its `reach` gives.
    """
    copy = Cache(len(cache.layers), gated=cache.gated)
    copy.layers = [layer.fork(length) for layer in cache.layers]
    copy.mirror = None if cache.mirror is None else cache.mirror.fork(length)
    low, high = cache.visual_span
    copy.visual_span = (low, min(high, length)) if low < length else (0, 0)
    return copy


def default_bytes() -> int:
    """Bytes that a store keeps unless it is told otherwise."""
    return min(_MOST_BYTES, backend.memory().total // _SHARE_OF_MEMORY)


def _without_pixels(prompt: Prompt) -> Prompt:
    """The prompt for comparisons: images are told apart by their digests."""
    images = tuple(
        replace(image, pixels=image.pixels[:0].copy(), original=None, features=None) for image in prompt.images
    )
    return replace(prompt, images=images)
