"""What one answer of a conversation took: tokens, time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from rave_mlx.generation.decode import Clock
from rave_mlx.generation.prefill import token_bytes
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.lmm import LMM


@dataclass(frozen=True)
class TurnStats:
    """What one answer took, in tokens, time and memory.

    Attributes:
        prompt_tokens: length of the whole prompt.
        reused_tokens: how many of them were in the cache, or on disk.
        stored_tokens: how many of them were on disk, from a conversation before.
        visual_tokens: how many of them are visual.
        images_encoded: how often the vision tower ran.
        answer_tokens: generated tokens, the stop token included.
        first_token_seconds: from the question to the first token.
        tokens_per_second: of the tokens after the first.
        certainty: the probability that the model gave to the answer's least likely token, before temperature.
        token_bytes: what a token's keys and values take; gate features not counted.
        plain_token_bytes: what they would take without `kv_bits`.
        peak_bytes: MLX's peak memory since the program began.
    """

    prompt_tokens: int
    reused_tokens: int
    stored_tokens: int
    visual_tokens: int
    images_encoded: int
    answer_tokens: int
    first_token_seconds: float
    tokens_per_second: float
    certainty: float
    token_bytes: int
    plain_token_bytes: int
    peak_bytes: int


def turn_stats(
    lmm: LMM, prompt: Prompt, reused: int, stored: int, encoded: int, ids: Sequence[int], clock: Clock, certainty: float
) -> TurnStats:
    """The statistics of one answer.

    Args:
        lmm: the model.
        prompt: what was read.
        reused: how many of its tokens were in the cache, or on disk.
        stored: how many of them were on disk.
        encoded: how often the vision tower ran.
        ids: of the answer, the stop token included.
        clock: ticked once for each of them.
        certainty: see `TurnStats`.
    """
    after = clock.total - clock.first_token
    return TurnStats(
        prompt_tokens=len(prompt),
        reused_tokens=reused,
        stored_tokens=stored,
        visual_tokens=prompt.visual_tokens,
        images_encoded=encoded,
        answer_tokens=len(ids),
        first_token_seconds=clock.first_token,
        tokens_per_second=(len(ids) - 1) / after if len(ids) > 1 and after > 0 else 0.0,
        certainty=certainty,
        token_bytes=token_bytes(lmm, lmm.kv_bits),
        plain_token_bytes=token_bytes(lmm, None),
        peak_bytes=mx.get_peak_memory(),
    )
