"""Reading a prompt: images through the vision tower, tokens through the decoder in chunks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from itertools import chain

import mlx.core as mx
import numpy as np

from rave_mlx import backend
from rave_mlx.attention import Path, group_size
from rave_mlx.backend.gpu_memory import clear_cache
from rave_mlx.errors import ModelError, UsageError
from rave_mlx.generation.encoding import encode_group, group
from rave_mlx.inputs.images.preprocess import ImagePatches
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.kv_cache import Cache
from rave_mlx.models.lmm import LMM

PREFILL_CHUNK = 2048
"""Prompt tokens read in one pass; bounds the memory of activations."""
PACKED_CHUNK = 256
"""The same where weights stay packed on a CPU: the activations of more tokens would take as much as a small model."""
_STATES = 3
"""States of linear attention that are kept of a prompt."""
NOT_A_NUMBER = (
    "the model's scores are not numbers (NaN): its weights are damaged, or overflow in this type; download or convert "
    "it again, or load it with dtype float32"
)
"""What an answer ends with when the model computes no numbers."""


def prefill(
    lmm: LMM,
    prompt: Prompt,
    cache: Cache,
    *,
    features: Mapping[str, mx.array] | None = None,
    chunk: int | None = None,
    path: Path | None = None,
) -> mx.array:
    """Read the part of `prompt` that `cache` does not hold yet.

    Args:
        lmm: the model.
        prompt: what is read.
        cache: holds the first tokens of the prompt, or none; extended in place. Where rotary frequencies follow the
            length, its keys have to be of the prompt's `rope_scaling.rope_bucket`.
        features: of images (visual tokens, hidden) by digest; those that are here are not computed again.
        chunk: tokens read in one pass, more where a policy or the mask needs tokens in one pass; None: a number that
            fits the machine.
        path: forced attention path.

    Returns:
        Logits (1, vocab) of the token after the prompt.

    Raises:
        UsageError: when there is nothing left to read, or the chunk is not positive.
        MemoryLimitError: when keys and values of the prompt would not fit.
        ModelError: when the model computes no numbers.
    """
    reading = Reading(lmm, prompt, cache, features=features, chunk=chunk, path=path)
    while (logits := reading.advance()) is None:
        pass
    return logits


class Reading:
    """A prompt that is being read, one group of images or one chunk of tokens after the other.

    Args:
        lmm, prompt, cache, features, chunk, path: as of `prefill`.
        others: gives images of other prompts, which are encoded with those of this one where that costs little.

    Attributes:
        features: of the prompt's images by digest: those that were known, and those that were computed.
        encoded: the images that were computed, those of `others` included.

    Raises:
        UsageError, MemoryLimitError: as of `prefill`.
    """

    def __init__(
        self,
        lmm: LMM,
        prompt: Prompt,
        cache: Cache,
        *,
        features: Mapping[str, mx.array] | None = None,
        chunk: int | None = None,
        path: Path | None = None,
        others: Callable[[], Iterable[ImagePatches]] = tuple,
    ):
        self._packed = lmm.config.quantization is not None and backend.current().kernels is not None
        if chunk is None:
            chunk = PACKED_CHUNK if self._packed else PREFILL_CHUNK
        if chunk < 1:
            raise UsageError(f"the prefill chunk is {chunk}; it must be at least 1")
        if cache.length >= len(prompt):
            raise UsageError("the cache holds the whole prompt already; trim it by one token to read on")
        if cache.hooks is not None and not cache.hooks.chunkable:
            chunk = len(prompt)
        _check_room(lmm, len(prompt), chunk)
        self.prompt, self.cache, self.features = prompt, cache, dict(features or {})
        self.encoded: list[ImagePatches] = []
        self._lmm, self._chunk, self._path, self._others = lmm, chunk, path, others
        # Images of which every token is in the cache are not needed any more.
        pending = sorted(set(prompt.token_map.image[cache.length :].tolist()) - {-1})
        self._images = [prompt.images[index] for index in pending]
        self._planned = cache.hooks is None
        if cache.hooks is None:
            cache.reserve(len(prompt) - cache.length)
        whole = cache.hooks is not None and not cache.hooks.chunkable
        self._kept = () if whole or not cache.states else _lengths_kept(prompt)

    def advance(self) -> mx.array | None:
        """Encode the next images, or read the next chunk.

        Returns:
            Logits (1, vocab) of the token after the prompt, once all of it is read.

        Raises:
            ModelError: when the model computes no numbers.
        """
        self._images = [image for image in self._images if image.digest not in self.features]
        if self._images:
            others = (image for image in self._others() if image.digest not in self.features)
            images = group(self._lmm, chain(self._images, others))
            self.features.update(zip([x.digest for x in images], encode_group(self._lmm, images), strict=True))
            self.encoded += images
            return None
        if not self._planned and self.cache.hooks is not None:
            self.cache.hooks.plan([self.prompt], self.features)
            self._planned = True
        start = self.cache.length
        chunk = min([self._chunk, *(length - start for length in self._kept if length > start)])
        stop = _chunk_end(self.prompt, start, chunk)
        with backend.row_parallel(), backend.lean_memory() if self._packed else nullcontext():
            hidden = self._lmm.read(self.prompt, self.cache, stop, self.features, path=self._path)[:, -1:]
            mx.eval(hidden)
            self.cache.evaluate()
        if stop in self._kept:
            self.cache.keep_states()
        clear_cache()
        if stop < len(self.prompt):
            return None
        logits = self._lmm.decoder.logits(hidden)[:, 0]
        if mx.any(mx.isnan(logits)):
            raise ModelError(NOT_A_NUMBER)
        return logits


def reuse(cache: Cache, seen: Prompt | None, prompt: Prompt) -> int:
    """Trim a cache to what it shares with a prompt; at least one token is left to read.

    Args:
        cache: keys and values.
        seen: what it holds, or the beginning of it; None: nothing that can be used.
        prompt: what will be read.

    Returns:
        How many tokens of the prompt are in the cache.
    """
    shared = 0 if seen is None else min(seen.same_until(prompt), len(prompt) - 1, cache.length)
    if cache.hooks is not None and not cache.hooks.prefix_reusable:
        shared = 0
    shared = cache.reach(shared)
    cache.trim(shared)
    return shared


def _chunk_end(prompt: Prompt, start: int, chunk: int) -> int:
    """Where the chunk from `start` ends: not before tokens that its tokens see ahead, or depend on."""
    stop = min(start + chunk, len(prompt))
    reach = prompt.token_map.reach
    while reach is not None and (end := int(reach[start:stop].max(initial=0))) > stop:
        stop = end
    return stop


def _lengths_kept(prompt: Prompt) -> tuple[int, ...]:
    """Where a conversation may go on otherwise: after the images of each message, and after the last message.

    States of linear attention are kept there; the latest of these places only.
    """
    message, visual = prompt.token_map.message, prompt.token_map.visual
    ends = [int(np.flatnonzero(visual & (message == m))[-1]) + 1 for m in np.unique(message[visual]).tolist()]
    written = np.flatnonzero(message >= 0)
    ends += [int(written[-1]) + 1] if written.size else []
    return tuple(sorted(end for end in set(ends) if end < len(prompt)))[-_STATES:]


def _check_room(lmm: LMM, tokens: int, chunk: int) -> None:
    """Refuse a prompt whose keys, values and activations exceed the memory at hand, before starting on it."""
    text = lmm.decoder.text
    # Of one layer at a time, the states and the three matrices of the MLP.
    passing = min(tokens, chunk) * (4 * text.hidden_size + 3 * text.intermediate_size) * _weight_size(lmm)
    backend.check_memory(
        kept_bytes(lmm, tokens) + passing,
        f"a prompt of {tokens} tokens",
        "lower --image-tokens, use fewer images or a smaller model",
    )


def kept_bytes(lmm: LMM, tokens: int) -> int:
    """Bytes of the keys and values of so many tokens, and of the states of linear attention, in every layer."""
    linear = lmm.decoder.text.linear
    keys = tokens * token_bytes(lmm, lmm.kv_bits)
    # Now, before the newest token, and where the conversation may go on otherwise.
    return keys + (0 if linear is None else (2 + _STATES) * 4 * len(linear.layers) * linear.state_numbers)


def token_bytes(lmm: LMM, bits: int | None) -> int:
    """Bytes of one token's keys and values, in every layer.

    Args:
        lmm: the model.
        bits: of a number of them, as of `LMM.kv_bits`; None: they are kept whole.
    """
    text, size = lmm.decoder.text, _weight_size(lmm)
    if bits is None:
        return 2 * size * text.key_numbers
    # A group of packed numbers has a scale and an offset.
    rows = [(text.kv_heads_of(i), text.head_dim_of(i)) for i in text.key_layers]
    return sum(2 * heads * (width * bits // 8 + 2 * size * width // group_size(width, bits)) for heads, width in rows)


def _weight_size(lmm: LMM) -> int:
    return int(lmm.decoder.norm.weight.dtype.size)
