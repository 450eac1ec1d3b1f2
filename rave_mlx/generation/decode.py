"""Reading a prompt in chunks and writing the answer token by token."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import mlx.core as mx
import numpy as np

from rave_mlx import backend
from rave_mlx.attention import Path
from rave_mlx.errors import UsageError
from rave_mlx.generation.sampling import Sampling
from rave_mlx.inputs.images.preprocess import ImagePatches
from rave_mlx.inputs.prompt.message import Role
from rave_mlx.inputs.prompt.prompt import Prompt, TokenMap
from rave_mlx.models.kv_cache import Cache
from rave_mlx.models.lmm import LMM
from rave_mlx.models.rope_scaling import outgrows
from rave_mlx.policies.parse import Attention

PREFILL_CHUNK = 2048
"""Prompt tokens read in one pass; bounds the memory of activations."""

Finish = Literal["stop", "length"]


@dataclass(frozen=True)
class Piece:
    """What one generated token adds.

    Attributes:
        text: the characters it completes; may be empty.
        token: its id.
        finish: set on the last piece: "stop" when the model ended its answer, "length" when a limit did.
    """

    text: str
    token: int
    finish: Finish | None = None


def prefill(
    lmm: LMM,
    prompt: Prompt,
    cache: Cache,
    *,
    features: Mapping[str, mx.array] | None = None,
    chunk: int = PREFILL_CHUNK,
    path: Path | None = None,
) -> mx.array:
    """Read the part of `prompt` that `cache` does not hold yet.

    Where rotary frequencies follow the length, the cache has to be of the prompt's regime (`models.frequencies`).

    Returns:
        Logits (1, vocab) of the token after the prompt.

    Raises:
        UsageError: when there is nothing left to read, or the chunk is not positive.
        MemoryLimitError: when keys and values of the prompt would not fit.
    """
    if chunk < 1:
        raise UsageError(f"the prefill chunk is {chunk}; it must be at least 1")
    if cache.length >= len(prompt):
        raise UsageError("the cache holds the whole prompt already; trim it by one token to read on")
    if cache.run is not None and not cache.run.chunkable:
        chunk = len(prompt)
    _check_room(lmm, len(prompt), chunk)
    known = dict(features or {})
    for index in sorted(set(prompt.token_map.image[cache.length :].tolist()) - {-1}):
        image = prompt.images[index]
        if image.digest not in known:
            known[image.digest] = encode(lmm, image)
    if cache.run is not None:
        cache.run.plan(lmm, [prompt], known)
    while True:
        stop = _chunk_end(prompt, cache.length, chunk)
        with backend.row_parallel():
            hidden = lmm.read(prompt, cache, stop, known, path=path)[:, -1:]
            mx.eval(hidden)
            cache.evaluate()
        if stop == len(prompt):
            return lmm.decoder.logits(hidden)[:, 0]


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
    if cache.run is not None and not cache.run.prefix_reusable:
        shared = 0
    cache.trim(shared)
    return shared


def encode(lmm: LMM, image: ImagePatches) -> mx.array:
    """Features (visual tokens, hidden) of one image, computed."""
    with backend.row_parallel():
        features = lmm.features(image)
        mx.eval(features)
    return features


def decode(
    lmm: LMM,
    prompt: Prompt,
    cache: Cache,
    logits: mx.array,
    sampling: Sampling,
    *,
    max_tokens: int,
    features: Mapping[str, mx.array] | None = None,
    path: Path | None = None,
) -> Iterator[int]:
    """Token ids of the answer, up to and including a stop token, at most `max_tokens`.

    The next step is queued before a token is handed out, so that the machine computes while the caller prints.
    After the last token the cache may hold one token that was never handed out: trim it to what was.

    Args:
        prompt: what `cache` holds.
        logits: (1, vocab) after the prompt.
        features: of the prompt's images, for models whose rotary frequencies change when the answer grows beyond a
            length: there, everything is read again once.
    """
    choose = sampling.chooser()
    position = prompt.token_map.next_position
    penalty = sampling.repetition_penalty != 1
    history: list[int] = prompt.ids[0].tolist() if penalty else []
    answer: list[int] = []
    token = choose(history, logits)
    mx.async_eval(token)
    for count in range(max_tokens):
        following = None
        again = outgrows(lmm.config.text.rope, position + count + 1)
        if count + 1 < max_tokens and not again and not penalty:
            following = choose(history, step(lmm, cache, token, position + count, path=path))
            mx.async_eval(following)
        value = int(np.asarray(token)[0])
        answer.append(value)
        yield value
        if value in lmm.config.tokens.stop or count + 1 == max_tokens:
            return
        if following is None:
            if again:
                logits = _read_again(lmm, continued(prompt, answer), cache, features, path)
            else:
                logits = step(lmm, cache, token, position + count, path=path)
            following = choose(history + answer if penalty else history, logits)
        token = following


def _read_again(
    lmm: LMM, prompt: Prompt, cache: Cache, features: Mapping[str, mx.array] | None, path: Path | None
) -> mx.array:
    """Replace what the cache holds; when that fails half-way, it holds nothing."""
    cache.trim(0)
    try:
        return prefill(lmm, prompt, cache, features=features, path=path)
    except BaseException:
        cache.trim(0)
        raise


def continued(prompt: Prompt, answer: Sequence[int]) -> Prompt:
    """A prompt with the answer so far."""
    tokens, more = prompt.token_map, len(answer)
    following = tokens.next_position + np.arange(more, dtype=np.int32)
    grown = TokenMap(
        role=np.append(tokens.role, np.full(more, Role.ASSISTANT, np.int8)),
        image=np.append(tokens.image, np.full(more, -1, np.int32)),
        positions=np.hstack([tokens.positions, np.tile(following, (3, 1))]),
        message=np.append(tokens.message, np.full(more, -1, np.int32)),
        opened=None if tokens.opened is None else np.pad(tokens.opened, [(0, 0), (0, more)]),
    )
    return replace(prompt, ids=np.append(prompt.ids, np.array([answer], np.int32), axis=1), token_map=grown)


def step(lmm: LMM, cache: Cache, token: mx.array, position: int, *, path: Path | None = None) -> mx.array:
    """Logits (1, vocab) after one more text token (1,) at a rotary position."""
    if cache.run is not None:
        cache.run.write(position)
    hidden = lmm.decoder.hidden(
        lmm.decoder.embed_ids(token[None]),
        mx.full((1, 3, 1), position, dtype=mx.int32),
        None,
        cache=cache,
        gate_span=cache.visual_span if cache.gated else None,
        longest=position + 1,
        path=path,
        run=cache.run,
    )
    return lmm.decoder.logits(hidden)[:, 0]


def stream(
    lmm: LMM,
    messages: Sequence[Mapping[str, Any]],
    *,
    max_tokens: int = 256,
    image_tokens: int | None = None,
    policy: Attention = None,
    **sampling: Any,
) -> Iterator[Piece]:
    """Answer a conversation once, piece by piece.

    Args:
        messages: as in `LMM.prepare`.
        max_tokens: limit of the answer's length.
        image_tokens: budget of visual tokens an image.
        policy: attention policy, as of `Session`.
        sampling: fields of `Sampling`: temperature, top_p, top_k, min_p, repetition_penalty, seed.
    """
    from rave_mlx.chat.session import Session

    chat = Session(lmm, policy=policy, max_tokens=max_tokens, image_tokens=image_tokens, sampling=Sampling(**sampling))
    yield from chat.answer(messages)


def generate(lmm: LMM, messages: Sequence[Mapping[str, Any]], **options: Any) -> str:
    """The whole answer of `stream` as one string."""
    return "".join(piece.text for piece in stream(lmm, messages, **options))


class Clock:
    """Wall-clock times of one answer in seconds."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.first_token = 0.0
        self.total = 0.0

    def tick(self) -> None:
        """Note that a token arrived."""
        self.total = time.perf_counter() - self._start
        self.first_token = self.first_token or self.total


def _chunk_end(prompt: Prompt, start: int, chunk: int) -> int:
    """Where the chunk from `start` ends: not before tokens that its tokens see ahead."""
    stop = min(start + chunk, len(prompt))
    opened = prompt.token_map.opened
    while opened is not None and (reach := int(opened[1, start:stop].max(initial=0))) > stop:
        stop = reach
    return stop


def _check_room(lmm: LMM, tokens: int, chunk: int) -> None:
    """Refuse a prompt whose keys, values and activations exceed the memory at hand, before starting on it."""
    text = lmm.config.text
    size = lmm.decoder.norm.weight.dtype.size
    kept = tokens * text.num_layers * 2 * text.num_kv_heads * text.head_dim * size
    passing = min(tokens, chunk) * (4 * text.hidden_size + 3 * text.intermediate_size) * size
    backend.check_memory(
        kept + passing, f"a prompt of {tokens} tokens", "lower --image-tokens, use fewer images or a smaller model"
    )
