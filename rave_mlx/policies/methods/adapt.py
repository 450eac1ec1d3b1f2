"""ADAPT: written tokens look again at what the first ones looked at (arXiv 2606.31054, ECCV 2026), without training.

While the first K tokens of an answer are written, attention to the image is recorded: it is the anchor. From then on,
in every layer:

    paper      a = softmax of a head's scores over the image;  S = sum_j a_j^2 w_j / (sum_j a_j)^2
               where S < tau:  score_j <- score_j + alpha log(w_j + 1e-9)
               w: mean over layers, heads and the K tokens
    released   H = sum_j (b_j m_j)^2, m the mean over heads;  d = 1 - H / H_anchor, within 0 and 1
               weight_j <- (1 - k d) weight_j + k d anchor_j
               anchor: mean over the K tokens, for every layer and head; b: 1/2 for each side on which a token stands
               within two tokens of the edge of the page, where the page is wide enough

From `yao-ustc/ADAPT` (2026): the first is its `inference.py`, which nothing there calls, the second the default of its
hooks. w is no distribution: it sums to the share of the image, and log w < 0, so the image loses against the text
unless `keep_image` lifts its scores by as much as leaves its share what it was (ours). tau = 0.6 is above what S can be
where w is a share, so nearly every token is steered.

Assumed: S is of each head (the code takes one row of scores); rows are normalised again; several images are one. Not
here: the weights of layers by sharpness and place, which the code uses for pictures only; removal of a bias seen on
noise images, which is in the text and not in the code; the code's third mode, which zeroes tokens in all heads at once
so that rows no longer sum to 1; and the preference training.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx.config import LMMConfig
from rave_mlx.errors import UsageError
from rave_mlx.inputs.images.token_boxes import TokenBoxes, locate_tokens
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.methods.vflowopt_map import PrunedPatches
from rave_mlx.policies.policy import Context, Policy, Rows

_EPS = 1e-9
_EDGE = 2
"""Tokens from the edge of the page that count half."""


@dataclass(frozen=True)
class ADAPT(Policy):
    """Steers written tokens towards the places that the answer's first tokens looked at.

    Attributes:
        mode: "concentration" or "dispersion": the formulas of the paper and of the released hooks.
        tokens: K, how many written tokens make the anchor.
        tau: concentration below which a head is steered.
        alpha: how much the logarithm of the anchor counts.
        keep_image: whether the image's share of a head's attention stays what it is.
        strength: k, how much of the anchor is mixed in where attention is as dispersed as can be.
    """

    name: ClassVar[str] = "adapt"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper": {}, "released": {"mode": "dispersion"}}
    rows: ClassVar[Rows] = "last"

    mode: Literal["concentration", "dispersion"] = "concentration"
    tokens: int = 5
    tau: float = 0.6
    alpha: float = 0.5
    keep_image: bool = False
    strength: float = 0.4

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise UsageError(f"--attention adapt: tokens is {self.tokens}; the anchor needs at least 1 written token")

    def check(self, config: LMMConfig) -> None:
        if config.vision is None:
            raise UsageError("--attention adapt: this model reads text only; there is no image to look at")

    def plan(self, lmm: LMM, prompt: Prompt, features: Mapping[str, mx.array]) -> Mapping[str, Any]:
        """A fresh anchor for every answer, and how much each visual token counts."""
        index = mx.array(np.flatnonzero(prompt.token_map.visual))
        inner = None if self.mode == "concentration" else mx.array(_inner(lmm, prompt).astype(np.float32))
        return {"index": index, "inner": inner, "rows": defaultdict(list)}

    def edit_scores(self, ctx: Context, scores: mx.array) -> mx.array:
        anchor = self._anchor(ctx) if self.mode == "concentration" else None
        if anchor is None or not self.alpha:
            return scores
        index = ctx.plan["index"]
        image = scores[..., index]
        steered = image + self.alpha * mx.log(anchor + _EPS)
        if self.keep_image:
            now, then = (mx.logsumexp(x, axis=-1, keepdims=True) for x in (image, steered))
            steered = steered + now - then
        low = concentration(mx.softmax(image, axis=-1), anchor) < self.tau
        return _with(scores, index, mx.where(low[..., None], steered, image))

    def weights(self, ctx: Context, weights: mx.array) -> mx.array:
        if self.mode != "dispersion" or self._anchor(ctx) is None or not self.strength:
            return weights
        stored = mx.mean(mx.stack(ctx.plan["rows"][ctx.layer]), axis=0)[None, :, None]
        index, inner = ctx.plan["index"], ctx.plan["inner"]
        image = weights[..., index]
        now, then = (herfindahl(mx.mean(x, axis=1, keepdims=True), inner) for x in (image, stored))
        share = mx.clip(self.strength * mx.clip(1 - now / (then + _EPS), 0, 1), 0, 1)[..., None]
        return _with(weights, index, (1 - share) * image + share * stored)

    def observe(self, ctx: Context, weights: mx.array) -> None:
        """Record what the first written tokens look at."""
        rows = ctx.plan["rows"][ctx.layer]
        if ctx.phase == "decode" and len(rows) < self.tokens:
            rows.append(weights[0, :, -1][:, ctx.plan["index"]])

    def _anchor(self, ctx: Context) -> mx.array | None:
        """(V,) mean over layers, heads and tokens of what was recorded; None until all of it is there."""
        rows = ctx.plan["rows"]
        if ctx.phase != "decode" or len(rows[ctx.num_layers - 1]) < self.tokens:
            return None
        if "anchor" not in ctx.plan:
            ctx.plan["anchor"] = mx.mean(mx.stack([x for layer in rows.values() for x in layer]), axis=(0, 1))
        anchor: mx.array = ctx.plan["anchor"]
        return anchor


def _inner(lmm: LMM, prompt: Prompt) -> NDArray[np.float64]:
    """`inner_shares` (V,) of the prompt's visual tokens."""
    config, connector = lmm.config.image, lmm.config.connector
    assert config is not None
    assert connector is not None
    if any(isinstance(image, PrunedPatches) for image in prompt.images):
        raise UsageError("--attention adapt:released does not know where the tokens are that vflowopt leaves")
    shares = [np.zeros(0)]
    for image in prompt.images:
        own = inner_shares(locate_tokens(image, config, connector), image.size)
        shares.append(own if image.kept is None else own[image.kept])
    return np.concatenate(shares)


def concentration(a: mx.array, w: mx.array) -> mx.array:
    """S (...) of attention a (..., V) to the image's tokens against an anchor w (V,)."""
    return mx.sum(a * a * w, axis=-1) / (mx.square(mx.sum(a, axis=-1)) + _EPS)


def herfindahl(a: mx.array, inner: mx.array) -> mx.array:
    """H (...) of attention a (..., V), with what each token counts (V,)."""
    return mx.sum(mx.square(a * inner), axis=-1)


def inner_shares(found: TokenBoxes, size: tuple[int, int]) -> NDArray[np.float64]:
    """(n,) how much each visual token of an image counts: half for each of its two axes at whose edge it stands.

    Args:
        found: where the tokens are.
        size: width and height of the page.
    """
    shares, reach = np.ones(len(found.boxes)), [_EDGE * side for side in found.cell]
    if not all(size[axis] > 2 * reach[axis] * (1 + 1e-6) for axis in (0, 1)):
        return shares
    for axis in (0, 1):
        middle = (found.boxes[:, axis] + found.boxes[:, axis + 2]) / 2
        shares[(middle < reach[axis]) | (middle > size[axis] - reach[axis])] /= 2
    return shares


def _with(x: mx.array, index: mx.array, values: mx.array) -> mx.array:
    """x (..., K) with other values (..., V) at some keys (V,)."""
    changed: mx.array = x.at[..., index].add(values - x[..., index])
    return changed
