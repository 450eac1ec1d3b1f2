"""Choosing the next token: mlx-lm's samplers and repetition penalty behind one frozen configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType

import mlx.core as mx
import numpy as np

from rave_mlx.backend.mlx_lm_file import mlx_lm_file
from rave_mlx.errors import UsageError
from rave_mlx.generation.logits_processors import LogitsProcessor


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn.

    Attributes:
        temperature: 0 takes the most likely token; `top_p`, `top_k` and `min_p` then have no effect.
        top_p: the most likely tokens that have this probability together; 1: all (nucleus sampling, arXiv 1904.09751).
        top_k: this many of the most likely tokens; 0: all.
        min_p: tokens with at least this share of the largest probability; 0: all (arXiv 2407.01082).
        repetition_penalty: divides the scores of tokens that occurred (CTRL, arXiv 1909.05858); 1: off.
        repetition_window: how many tokens back the penalty looks, the prompt's included.
        seed: the same one gives the same answer; None: MLX's random state as it is.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    repetition_window: int = 64
    seed: int | None = None

    def __post_init__(self) -> None:
        for name, valid, range_ in (
            ("temperature", self.temperature >= 0, "0 or more"),
            ("top_p", 0 < self.top_p <= 1, "above 0 and at most 1"),
            ("top_k", self.top_k >= 0, "0 or more"),
            ("min_p", 0 <= self.min_p <= 1, "between 0 and 1"),
            ("repetition_penalty", self.repetition_penalty > 0, "above 0"),
            ("repetition_window", self.repetition_window > 0, "above 0"),
        ):
            if not valid:
                raise UsageError(f"{name} is {getattr(self, name)}; it must be {range_}")

    def sampler(self) -> Callable[[mx.array], mx.array]:
        """The function from logits (1, vocab) to the id (1,) drawn; seeds MLX's random state when a seed is set."""
        if self.seed is not None:
            mx.random.seed(self.seed)
        if self.temperature == 0:
            return lambda logits: mx.argmax(logits, axis=-1)
        draw = _samplers().make_sampler(self.temperature, top_p=self.top_p, min_p=self.min_p, top_k=self.top_k)

        def sample(logits: mx.array) -> mx.array:
            chosen: mx.array = draw(logits - mx.logsumexp(logits, axis=-1, keepdims=True))
            return chosen

        return sample

    def drawer(self) -> Drawer:
        """What draws the tokens of one answer among several, with a random state of its own.

        With a seed it draws what `sampler` draws, whatever else is drawn in between.
        """
        return Drawer(self)

    def logits_processors(self) -> list[LogitsProcessor]:
        """The repetition penalty, where it is on."""
        if self.repetition_penalty == 1:
            return []
        processors: list[LogitsProcessor] = _samplers().make_logits_processors(
            repetition_penalty=self.repetition_penalty, repetition_context_size=self.repetition_window
        )
        return processors


class Drawer:
    """Draws the tokens of one answer; see `Sampling.drawer`."""

    def __init__(self, sampling: Sampling):
        self._sampling = sampling
        seed = sampling.seed
        if seed is None and sampling.temperature > 0:
            seed = int(np.asarray(mx.random.randint(0, 1 << 31)))
        # MLX's own random state is split like this for every draw.
        self._key = mx.random.key(seed or 0)

    def __call__(self, logits: mx.array) -> mx.array:
        """The id (1,) drawn from logits (1, vocab)."""
        chosen = self._sampling
        if chosen.temperature == 0:
            return mx.argmax(logits, axis=-1)
        pair = mx.random.split(self._key)
        self._key = pair[0]
        scores, tools = logits - mx.logsumexp(logits, axis=-1, keepdims=True), _samplers()
        if chosen.top_p < 1:
            scores = tools.apply_top_p(scores, chosen.top_p)
        if chosen.min_p > 0:
            scores = tools.apply_min_p(scores, chosen.min_p)
        if 0 < chosen.top_k < scores.shape[-1]:
            scores = tools.apply_top_k(scores, chosen.top_k)
        return mx.random.categorical(scores * (1 / chosen.temperature), key=pair[1])


def _samplers() -> ModuleType:
    """mlx-lm's `sample_utils`."""
    return mlx_lm_file("sample_utils")
