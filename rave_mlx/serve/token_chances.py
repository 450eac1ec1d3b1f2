"""What tokens were how likely, as OpenAI's `logprobs` show it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from rave_mlx.errors import RaveError
from rave_mlx.generation.grammar_tokens import GrammarTokens, grammar_tokens
from rave_mlx.generation.job import NewToken
from rave_mlx.models.lmm import LMM

LEAST = -9999.0
"""In place of the log-probability of what is impossible, as OpenAI has it: JSON has no infinity."""


class LikelyTokens:
    """A logits processor that changes nothing and keeps the likeliest tokens of every place.

    Args:
        count: how many a place.
    """

    def __init__(self, count: int):
        self._count = count
        self._found: list[tuple[mx.array, mx.array]] = []

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """Look at the logits (1, vocab) of the next token."""
        scores = logits.astype(mx.float32)
        scores = scores - mx.logsumexp(scores, axis=-1, keepdims=True)
        best = mx.argsort(-scores, axis=-1)[0, : self._count]
        found = best, scores[0, best]
        mx.async_eval(*found)
        self._found.append(found)
        return logits

    def at(self, place: int) -> list[tuple[int, float]]:
        """The ids and log-probabilities of a place in the answer, the likeliest first."""
        ids, scores = (np.asarray(each).tolist() for each in self._found[place])
        return list(zip(ids, scores, strict=True))


class TokenTexts:
    """The bytes of single tokens, as far as they are known.

    Args:
        lmm: the model.
    """

    def __init__(self, lmm: LMM):
        self._lmm = lmm
        self._known: GrammarTokens | None = None
        with contextlib.suppress(RaveError):  # without llguidance, or for a tokenizer that it does not know
            self._known = grammar_tokens(lmm)

    def of(self, index: int) -> bytes:
        """The bytes of a token; none for a control token."""
        if self._known is not None and index < self._known.rows:
            return self._known.text([index])[0]
        return self._lmm.tokenizer.decode([index]).encode("utf-8", "replace")


def log(probability: float) -> float:
    """The logarithm of a probability, as it is given out."""
    return math.log(probability) if probability > 0 else LEAST


def entry(texts: TokenTexts, token: NewToken, likely: Sequence[tuple[int, float]]) -> dict[str, Any]:
    """A token in the `logprobs` of a chat completion.

    Args:
        texts: of the model's tokens.
        token: what came.
        likely: ids and log-probabilities of what could have come.
    """
    return {
        **_shown(texts.of(token.id), log(token.probability)),
        "top_logprobs": [_shown(texts.of(index), max(LEAST, score)) for index, score in likely],
    }


def _shown(data: bytes, score: float) -> dict[str, Any]:
    return {"token": data.decode("utf-8", "replace"), "logprob": score, "bytes": list(data)}
