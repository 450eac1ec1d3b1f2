"""Writing an answer token by token."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import mlx.core as mx
import numpy as np

from rave_mlx.attention import Path
from rave_mlx.backend.gpu_memory import CLEAR_EVERY, clear_cache
from rave_mlx.generation.logits_processors import LogitsProcessor
from rave_mlx.generation.prefill import prefill
from rave_mlx.generation.sampling import Sampling
from rave_mlx.inputs.prompt.message import Role
from rave_mlx.inputs.prompt.positions import last_inputs
from rave_mlx.inputs.prompt.prompt import Prompt, TokenMap
from rave_mlx.models.kv_cache import Cache
from rave_mlx.models.lmm import LMM
from rave_mlx.models.rope import Consecutive
from rave_mlx.models.rope_scaling import outgrows

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


def decode(
    lmm: LMM,
    prompt: Prompt,
    cache: Cache,
    logits: mx.array,
    sampling: Sampling,
    *,
    max_tokens: int,
    processors: Sequence[LogitsProcessor] = (),
    features: Mapping[str, mx.array] | None = None,
    path: Path | None = None,
) -> Iterator[int]:
    """Token ids of the answer, up to and including a stop token, at most `max_tokens`.

    The next step is queued before a token is handed out, so that the machine computes while the caller prints.
    After the last token the cache may hold one token that was never handed out: trim it to what was.

    Args:
        lmm: the model.
        prompt: what `cache` holds.
        cache: keys and values of the prompt; those of the answer are added.
        logits: (1, vocab) after the prompt.
        sampling: how tokens are drawn.
        max_tokens: limit of the answer's length.
        processors: change the logits of every token, in this order, before those of `sampling` do.
        features: of the prompt's images, for models whose rotary frequencies change when the answer grows beyond a
            length: there, everything is read again once.
        path: forced attention path.
    """
    sampler, chain = sampling.sampler(), [*processors, *sampling.logits_processors()]
    tokens = mx.array(prompt.ids[0]) if chain else None

    def choose(logits: mx.array, token: mx.array | None) -> mx.array:
        nonlocal tokens
        if tokens is not None and token is not None:
            tokens = mx.concatenate([tokens, token.astype(tokens.dtype)])
        for processor in chain:
            assert tokens is not None
            logits = processor(tokens, logits)
        chosen = sampler(logits)
        mx.async_eval(chosen)
        return chosen

    position = prompt.token_map.next_position
    answer: list[int] = []
    token = choose(logits, None)
    for count in range(max_tokens):
        following = None
        rereads = outgrows(lmm.config.text.rope, position + count + 1)
        if count + 1 < max_tokens and not rereads:
            following = choose(step(lmm, cache, token, position + count, path=path), token)
        answer.append(int(np.asarray(token)[0]))
        yield answer[-1]
        if answer[-1] in lmm.config.tokens.stop or count + 1 == max_tokens:
            return
        if following is None:
            following = choose(read_again(lmm, continued(prompt, answer), cache, features, path), token)
        token = following
        if (count + 1) % CLEAR_EVERY == 0:
            clear_cache()


def read_again(
    lmm: LMM, prompt: Prompt, cache: Cache, features: Mapping[str, mx.array] | None, path: Path | None = None
) -> mx.array:
    """Replace what the cache holds by a prompt; when that fails half-way, it holds nothing.

    Args:
        lmm: the model.
        prompt: what is read, the answer so far included.
        cache: of an answer whose rotary frequencies have changed.
        features: of images by digest, as of `prefill`.
        path: forced attention path.
    """
    cache.trim(0)
    try:
        return prefill(lmm, prompt, cache, features=features, path=path)
    except BaseException:
        cache.trim(0)
        raise


def continued(prompt: Prompt, answer: Sequence[int]) -> Prompt:
    """A prompt with the answer so far (ids) as its last tokens."""
    tokens, more = prompt.token_map, len(answer)
    following = tokens.next_position + np.arange(more, dtype=np.int32)
    role = np.append(tokens.role, np.full(more, Role.ASSISTANT, np.int8))
    image = np.append(tokens.image, np.full(more, -1, np.int32))
    grown = TokenMap(
        role=role,
        image=image,
        positions=np.hstack([tokens.positions, np.tile(following, (len(tokens.positions), 1))]),
        message=np.append(tokens.message, np.full(more, -1, np.int32)),
        lookahead=None if tokens.lookahead is None else np.pad(tokens.lookahead, [(0, 0), (0, more)]),
        reader=None if tokens.reader is None else last_inputs(role, image),
    )
    return replace(prompt, ids=np.append(prompt.ids, np.array([answer], np.int32), axis=1), token_map=grown)


def step(lmm: LMM, cache: Cache, token: mx.array, position: int, *, path: Path | None = None) -> mx.array:
    """Read one more text token; logits (1, vocab) of the token after it.

    Args:
        lmm: the model.
        cache: holds everything before; extended by the token.
        token: its id (1,), which need not be computed yet.
        position: its rotary position.
        path: forced attention path.
    """
    if cache.hooks is not None:
        cache.hooks.write(position)
    hidden = lmm.decoder.hidden(
        lmm.decoder.embed_ids(token[None]),
        Consecutive((position,), 1),
        None,
        ids=token[None],
        cache=cache,
        gate_span=cache.visual_span if cache.gated else None,
        longest=position + 1,
        path=path,
        hooks=cache.hooks,
    )
    return lmm.decoder.logits(hidden)[:, 0]


class Clock:
    """Wall-clock times of one answer in seconds."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self.first_token = 0.0
        self.total = 0.0

    def tick(self) -> None:
        """Note that a token arrived, now."""
        self.total = time.perf_counter() - self._start
        self.first_token = self.first_token or self.total
