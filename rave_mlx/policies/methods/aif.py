"""AIF: adaptive information flow (arXiv 2604.15809, CVPR 2026), without training. Experimental.

Visual tokens that all layers attend to alike tell the text little; text is kept from reading them. From a profile
pass, d(i, l) is the largest attention that any text token pays to visual token i in layer l:

    mu_i = mean over l of d;   Ent_i = entropy over layers of d(i, l) / sum_l d(i, l)
    S = entropy over the tokens that are left of mu / sum mu

The tokens of highest Ent are hidden from text rows, in all layers, while reading and writing; visual tokens still see
each other. Of the shares 0.1 to 0.9, the one that moves S furthest from its value over all tokens is taken.

The authors published no code, and these points are not in what was read: how heads are reduced (mean here), which
text rows count (all after an image here), and how shares become counts (rounded to the nearest). So the figures of the
paper are not claimed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx.config import LMMConfig
from rave_mlx.errors import UsageError
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.policy import Context, Policy, Rows
from rave_mlx.policies.profiling import fitted, observe


@dataclass(frozen=True)
class AIF(Policy):
    """Hides from text the visual tokens that all layers attend to alike.

    Attributes:
        shares: shares of the visual tokens to choose from; a single one is taken as it is, 0 changes nothing.
    """

    name: ClassVar[str] = "aif"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}}
    prefix_reusable: ClassVar[bool] = False

    shares: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)

    def __post_init__(self) -> None:
        if not self.shares or not all(0 <= share < 1 for share in self.shares):
            raise UsageError(f"--attention aif: shares {self.shares}: give shares from 0 to below 1, as shares=0.2/0.5")

    def check(self, config: LMMConfig) -> None:
        if config.vision is None:
            raise UsageError("--attention aif: this model reads text only; it has no visual tokens to hide")

    def plan(self, lmm: LMM, prompt: Prompt, features: Mapping[str, mx.array]) -> Mapping[str, Any]:
        visual = np.flatnonzero(prompt.token_map.visual)
        hidden = np.zeros(len(prompt), bool)
        text_follows = visual.size > 0 and not prompt.token_map.visual[visual[0] :].all()
        if text_follows:
            observer = _Flow(tuple(visual.tolist()))
            run = observe(lmm, prompt, features, observer)
            layers = range(len(lmm.config.text.attention_layers))
            flow = np.stack([np.array(run.state(observer, i)["most"]) for i in layers], axis=1).astype(np.float64)
            hidden[visual[hidden_tokens(flow, self.shares)]] = True
        return {"hidden": mx.array(hidden), "any": bool(hidden.any())}

    def visible(self, ctx: Context, allowed: mx.array) -> mx.array:
        if not ctx.plan["any"]:
            return allowed
        text = ctx.tokens.marks("text")[:, ctx.start :]
        hidden = fitted(ctx.plan["hidden"], len(ctx.tokens))
        return allowed & ~(text[:, None, :, None] & hidden)


def hidden_tokens(flow: NDArray[np.float64], shares: Sequence[float]) -> NDArray[np.int64]:
    """Tokens to hide, the highest entropy first, from d (V, layers)."""
    mean = flow.mean(axis=1)
    order = np.argsort(-flow_entropy(flow), kind="stable")
    counts = [min(round(share * len(mean)), len(mean) - 1) for share in shares]
    best = max(counts, key=lambda count: gap(mean, order, count))
    return order[:best]


def flow_entropy(flow: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ent (V,) of d (V, layers), in nats; 0 for a token that no layer attends to."""
    total = flow.sum(axis=1, keepdims=True)
    return _entropy(np.divide(flow, total, out=np.zeros_like(flow), where=total > 0))


def gap(mean: NDArray[np.float64], order: NDArray[np.int64], count: int) -> float:
    """How far hiding tokens moves the entropy S of the mean attention: |S - S_0|, in nats.

    Args:
        mean: mu (V,), the mean over layers of the attention that each visual token receives.
        order: (V,) tokens in the order in which they are hidden.
        count: how many are hidden.
    """
    kept = np.delete(mean, order[:count])
    if not kept.sum():
        return 0.0
    return abs(float(_entropy(kept / kept.sum()) - _entropy(mean / mean.sum())))


def _entropy(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """-sum p log p over the last axis, with 0 log 0 = 0."""
    terms: NDArray[np.float64] = p * np.log(np.where(p > 0, p, 1))
    entropy: NDArray[np.float64] = -terms.sum(axis=-1)
    return entropy


@dataclass(frozen=True)
class _Flow(Policy):
    """Observes the largest attention (V,) of any text row to each visual token, mean over heads."""

    rows: ClassVar[Rows] = "text"

    visual: tuple[int, ...] = ()

    def observe(self, ctx: Context, weights: mx.array) -> None:
        columns = [i for i in self.visual if i < ctx.keys]
        most = mx.max(mx.mean(weights[0], axis=0)[:, mx.array(columns)], axis=0)
        most = mx.pad(most, [(0, len(self.visual) - len(columns))])
        ctx.state["most"] = mx.maximum(ctx.state["most"], most) if "most" in ctx.state else most
