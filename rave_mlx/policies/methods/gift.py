"""GIFT: gaze-shift-guided fusion (arXiv 2510.22067, ICML 2026), without training.

Where attention to the image rises while the model reads the content words of the question, the image is salient; the
salient visual tokens and the question are amplified in equal measure, for the token that is about to be written.

Profile pass, layer s: dA(h, i, j) = max(A(h, i, j) - A(h, i - 1, j), 0) for content words i and visual tokens j. Over
the half of the heads with the largest sum: S_j = mean dA, clamped to mean +- 3 standard deviations, scaled to [0, 1].

Then, in the last row of the prompt and in every generated row, with A the softmax weights: in the half of the heads
that look most at the image, A_j *= exp(alpha S_j) for visual j; r = (their new visual mass) / (their old one), one
number for all heads; in the half that look most at the question, A_q *= beta r for question tokens q; rows are
normalised again.

Paper and released code (`amazon-science/GIFT`, e20b8a9): the paper takes the layer with the largest total change for
s, the code a fixed one for each model (presets `llava-7b`, `llava-13b`, `qwen2-vl-7b`); the code has no beta. The code
divides 0 by 0 where S is constant; here S is 0 then. Content words are found by a list of function words instead of a
part-of-speech tagger: a deviation, and English only. Several images count as one.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx.config import LMMConfig
from rave_mlx.errors import UsageError
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.hooks import KeptTokens
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.policy import Context, Policy, Rows
from rave_mlx.policies.profiling import content_words, depth, depths, fitted, observe, question


@dataclass(frozen=True)
class GIFT(Policy):
    """Salient visual tokens and the question, amplified for the token that is written.

    Attributes:
        alpha: strength; 0 changes nothing.
        beta: factor of the question besides r.
        source: layer of the saliency; none: the one where attention to the image rises most (paper).
        first, last: layers that are steered, both included.
        of: how many layers the model has that `source`, `first` and `last` count in; in another model they stand at
            the same relative depth.
    """

    name: ClassVar[str] = "gift"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "llava-7b": {"source": 11},
        "llava-13b": {"source": 10, "first": 14, "last": 20, "of": 40},
        "qwen2-vl-7b": {"alpha": 4.0, "source": 14, "first": 5, "last": 18, "of": 28},
    }
    rows: ClassVar[Rows] = "last"

    alpha: float = 5.0
    beta: float = 1.0
    source: int | None = None
    first: int = 12
    last: int = 22
    of: int = 32

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise UsageError(f"--attention gift: beta is {self.beta:g}; it must be above 0")
        if not 0 <= self.first <= self.last < self.of:
            raise UsageError(f"--attention gift: layers {self.first} to {self.last} are not layers 0 to {self.of - 1}")
        if self.source is not None and not 0 <= self.source < self.of:
            raise UsageError(f"--attention gift: source {self.source} is not one of layers 0 to {self.of - 1}")

    def check(self, config: LMMConfig) -> None:
        if config.vision is None:
            raise UsageError("--attention gift: this model reads text only; there is no image to look at")

    def layers(self, count: int) -> Collection[int]:
        return depths(self.first, self.last, self.of, count)

    def plan(self, lmm: LMM, prompt: Prompt, features: Mapping[str, mx.array]) -> Mapping[str, Any]:
        visual = prompt.token_map.visual
        asked = question(prompt)
        saliency = np.zeros(len(prompt), np.float32)
        if visual.any() and asked.any():
            count = len(lmm.config.text.attention_layers)
            fixed = None if self.source is None else depth(self.source, self.of, count)
            saliency[visual] = _saliency(lmm, prompt, features, fixed)
        return {name: mx.array(row.astype(np.float32)) for name, row in (("saliency", saliency), ("question", asked))}

    def weights(self, ctx: Context, weights: mx.array) -> mx.array:
        saliency, asked = (fitted(ctx.plan[name], ctx.keys) for name in ("saliency", "question"))
        return enhance(weights, ctx.visual[:, None, None], asked, saliency, self.alpha, self.beta)


def enhance(
    weights: mx.array, visual: mx.array, question: mx.array, saliency: mx.array, alpha: float, beta: float
) -> mx.array:
    """Amplify attention to salient visual tokens and to the question; rows are not normalised again.

    Args:
        weights: (B, H, rows, K).
        visual, question: marks that broadcast to it.
        saliency: S, broadcasting too, 0 off the image.
        alpha, beta: as in `GIFT`.
    """
    on_image = _upper_half(mx.sum(weights * visual, axis=-1, keepdims=True))
    on_question = _upper_half(mx.sum(weights * question, axis=-1, keepdims=True))
    new = mx.where(on_image, weights * mx.exp(alpha * saliency), weights)
    old_mass, new_mass = (mx.sum(w * visual * on_image, axis=(1, 3), keepdims=True) for w in (weights, new))
    ratio = mx.where(old_mass > 0, new_mass / mx.where(old_mass > 0, old_mass, 1), 1)
    return mx.where(on_question & (question > 0), new * (beta * ratio), new)


def saliency_of(mean_rise: NDArray[np.float64]) -> NDArray[np.float64]:
    """S (V,) from the mean rise of attention to each visual token; 0 where all are the same."""
    if mean_rise.size < 2:
        return np.zeros_like(mean_rise)
    spread = 3 * mean_rise.std(ddof=1)
    clamped = np.clip(mean_rise, mean_rise.mean() - spread, mean_rise.mean() + spread)
    low, high = clamped.min(), clamped.max()
    return (clamped - low) / (high - low) if high > low else np.zeros_like(clamped)


def _upper_half(mass: mx.array) -> mx.array:
    """Marks of the half of the heads (at least one) with the largest mass (B, H, rows, 1); ties go to the first."""
    heads = mass.shape[1]
    rank = mx.argsort(mx.argsort(-mass, axis=1), axis=1)
    return rank < max(1, heads // 2)


@dataclass(frozen=True)
class _Rises(Policy):
    """Observes how attention to visual tokens rises from the token before each word to the word."""

    rows: ClassVar[Rows] = "all"
    needs_visual: ClassVar[bool] = False

    words: tuple[int, ...] = ()
    visual: tuple[int, ...] = ()
    only: int | None = None

    def layers(self, count: int) -> Collection[int]:
        return range(count) if self.only is None else [self.only]

    def observe(self, ctx: Context, weights: mx.array) -> None:
        start, stop = ctx.rows
        rows = [i for i in sorted({*self.words, *(w - 1 for w in self.words)}) if start <= i < stop]
        if rows:
            # A block of rows covers only the keys that its last row may see: later ones are in a column of zeros.
            seen = mx.pad(weights[0][:, mx.array([i - start for i in rows])], [(0, 0), (0, 0), (0, 1)])
            columns = mx.array([min(j, ctx.keys) for j in self.visual])
            found = ctx.state.setdefault("rows", {})
            found |= dict(zip(rows, seen[..., columns].swapaxes(0, 1), strict=True))

    def after_block(self, ctx: Context, x: mx.array) -> KeptTokens | None:
        # The prompt is read whole, so every row has been seen by now.
        rows = ctx.state.pop("rows")
        rise = mx.stack([mx.maximum(rows[w] - rows[w - 1], 0) for w in self.words], axis=1)
        heads = mx.argsort(-mx.sum(rise, axis=(1, 2)))[: max(1, rise.shape[0] // 2)]
        ctx.state["total"] = mx.sum(rise)
        ctx.state["mean"] = mx.mean(rise[heads], axis=(0, 1))
        return None


def _saliency(lmm: LMM, prompt: Prompt, features: Mapping[str, mx.array], layer: int | None) -> NDArray[np.float64]:
    """S (V,) of the prompt's visual tokens, from one layer or from the one with the largest total rise."""
    words = [int(i) for i in np.flatnonzero(content_words(lmm, prompt)) if i > 0]
    visual = tuple(int(i) for i in np.flatnonzero(prompt.token_map.visual))
    if not words:
        return np.zeros(len(visual))
    observer = _Rises(tuple(words), visual, layer)
    run = observe(lmm, prompt, features, observer)
    if layer is None:
        totals = [run.state(observer, i)["total"].item() for i in range(len(lmm.config.text.attention_layers))]
        layer = int(np.argmax(totals))
    return saliency_of(np.array(run.state(observer, layer)["mean"]).astype(np.float64))
