"""ACT: attention calibration (arXiv 2406.15765, ICML 2024), without training; for text models too.

A key that many queries attend to, other than the first such key, is a sink of its head, and passes most of that
attention on. For every head, with N tokens and A the softmax weights of a prompt:

    a_j = sum_i A_ij / (N - j)                     over the N - j queries that see key j
    sinks = {j : a_j > threshold} without the first
    A_ij *= beta on sinks;  the freed mass goes to all other keys, the first one included, in proportion

Paper and released code (`GATECH-EIC/ACT`, a267af7): the paper's threshold is 5 / N, the code's 0.1. Both calibrate
only heads that raised accuracy on 900 samples, a list for each model that is not part of this project: here all heads
of the chosen layers are, unless `heads` names them. The code scores prompts and never decodes; here the prompt's sinks
stay sinks while an answer is written (`answers`), which is an extension.

The number of queries that see a key is that of a causal mask, also where a model opens it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import mlx.core as mx

from rave_mlx.config import LMMConfig
from rave_mlx.errors import UsageError
from rave_mlx.policies.policy import Context, Policy, Rows
from rave_mlx.policies.profiling import depths
from rave_mlx.policies.tokens import KeyRows


@dataclass(frozen=True)
class ACT(Policy):
    """Moves the attention that sinks other than the first receive to all other keys.

    Attributes:
        beta: what a sink keeps of its attention; 1 changes nothing.
        alpha: threshold as a multiple of 1 / N.
        threshold: threshold of its own; none: alpha / N.
        first, last: calibrated layers, both included, counted in a model of `of` layers and taken at the same
            relative depth in another.
        of: see there.
        heads: calibrated heads as layer.head, of the model at hand (`heads=3.0/3.7/12.1`); empty: all.
        answers: whether tokens that are written calibrate their attention to the prompt's sinks.
    """

    name: ClassVar[str] = "act"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "released": {"threshold": 0.1, "answers": False},
    }
    rows: ClassVar[Rows] = "all"
    needs_visual: ClassVar[bool] = False
    prefix_reusable: ClassVar[bool] = False
    chunkable: ClassVar[bool] = False

    beta: float = 0.4
    alpha: float = 5.0
    threshold: float | None = None
    first: int = 2
    last: int = 30
    of: int = 32
    heads: tuple[str, ...] = ()
    answers: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise UsageError(f"--attention act: beta is {self.beta:g}; it is a fraction from 0 to 1")
        if not 0 <= self.first <= self.last < self.of:
            raise UsageError(f"--attention act: layers {self.first} to {self.last} are not layers 0 to {self.of - 1}")
        wrong = [h for h in self.heads if not all(part.isdecimal() for part in h.split(".")) or h.count(".") != 1]
        if wrong:
            raise UsageError(f"--attention act: heads {wrong[0]!r} is not layer.head; write heads=3.0/3.7")

    def check(self, config: LMMConfig) -> None:
        text, count = config.text, len(config.text.attention_layers)
        outside = [f"{layer}.{head}" for layer, head in self._pairs if layer >= count or head >= text.num_heads]
        if outside:
            raise UsageError(
                f"--attention act: heads {outside[0]}: the model has layers 0 to {count - 1} with heads 0 "
                f"to {text.num_heads - 1}"
            )

    def layers(self, count: int) -> Collection[int]:
        if self.heads:
            return {layer for layer, _ in self._pairs}
        return depths(self.first, self.last, self.of, count)

    def weights(self, ctx: Context, weights: mx.array) -> mx.array:
        sinks: KeyRows = ctx.state.setdefault("sinks", KeyRows())
        if ctx.phase == "decode":
            if not self.answers:
                return weights
        elif sinks.length < len(ctx.tokens):
            assert ctx.received is not None
            sinks.write(0, self._found(ctx, ctx.received()).swapaxes(1, 2))
        return calibrate(weights, sinks.upto(ctx.keys).swapaxes(1, 2)[:, :, None], self.beta)

    @property
    def _pairs(self) -> list[tuple[int, int]]:
        """`heads` as (layer, head)."""
        return [(int(layer), int(head)) for layer, _, head in (h.partition(".") for h in self.heads)]

    def _found(self, ctx: Context, received: mx.array) -> mx.array:
        """Sinks (B, H, K) of a prompt from its column sums."""
        valid = ctx.tokens.marks("valid")[:, None]
        count = mx.sum(valid, axis=-1, keepdims=True)
        threshold = self.alpha / count if self.threshold is None else self.threshold
        sinks = find_sinks(received, valid, threshold)
        if self.heads:
            chosen = [head for layer, head in self._pairs if layer == ctx.layer]
            sinks = sinks & mx.array([h in chosen for h in range(sinks.shape[1])])[:, None]
        return sinks


def find_sinks(received: mx.array, valid: mx.array, threshold: float | mx.array) -> mx.array:
    """Marks (B, H, K) of each head's sinks other than the first.

    Args:
        received: column sums (B, H, K) of causal softmax weights (B, H, K, K).
        valid: marks (B, 1, K) of keys that are not padding.
        threshold: mean weight above which a key is a sink; broadcasts to (B, 1, 1).
    """
    seen_by = mx.arange(received.shape[-1], 0, -1)
    above = (received / seen_by > threshold) & valid
    return above & (mx.cumsum(above.astype(mx.int32), axis=-1) > 1)


def calibrate(weights: mx.array, sinks: mx.array, beta: float) -> mx.array:
    """Move attention from sinks to the other keys, in proportion; rows still sum to 1.

    Args:
        weights: softmax weights (B, H, rows, K).
        sinks: marks (B, H, 1, K).
        beta: what a sink keeps, from 0 to 1.
    """
    on_sinks = mx.sum(weights * sinks, axis=-1, keepdims=True)
    rest = mx.sum(mx.where(sinks, 0, weights), axis=-1, keepdims=True)
    # Without another key to take it (rounded to nothing), a row keeps its attention.
    moved = mx.where(rest > 0, 1 - beta, 0.0)
    gain = 1 + moved * on_sinks / mx.where(rest > 0, rest, 1)
    return weights * mx.where(sinks, 1 - moved, gain)
