"""Pruning by attention, and by attention without its recency bias (arXiv 2508.17807), without training.

FastV: after an early layer, the visual tokens that the prompt's last token attends to least are dropped; the others
keep their positions. Attention to later tokens is larger for no reason of content, so debiasing divides by the trend:

    a_i = mean over heads of the last row;   a^_i = a_i / f(i / V),   f(x) = exp(sigma x)

with i the place among an image's V visual tokens, before the top-k. A constant factor of f changes no order.

Released (`intcomp/attention-bias`, e75ebe7): sigma fitted for each host and data set; presets carry the published
ones. Experimental: those were fitted on LLaVA-1.5-7B for hosts other than this one (PyramidDrop, SparseVLM, HiMAP,
TokenCarve); the weight file for FastV itself is no exponential and is not reproduced, so `fastv` is FastV without
debiasing and the other presets are FastV with another host's trend. Tokens of padding, which the code sets to 0, are
kept in the contest: no family here pads images with tokens that show nothing but padding, except LLaVA with padding
to squares.
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
from rave_mlx.models.hooks import KeptTokens
from rave_mlx.policies.policy import Context, Policy, Rows


@dataclass(frozen=True)
class Debias(Policy):
    """Drops, after one layer, the visual tokens that the last token attends to least.

    Attributes:
        keep: how many of the prompt's visual tokens go on; all when there are no more.
        sigma: slope of the trend that is divided out; 0: none.
        after: last layer that sees all tokens, counted in a model of `of` layers and taken at the same relative
            depth in another; never the last one.
        of: see there.
    """

    name: ClassVar[str] = "debias"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "fastv": {"sigma": 0.0},
        "pyramiddrop-mme": {"sigma": 1.88096},
        "pyramiddrop-gqa": {"sigma": 2.29782},
        "sparsevlm-gqa": {"sigma": 1.32555},
        "himap-gqa": {"sigma": 1.25122},
        "tokencarve-gqa": {"sigma": 0.96100},
    }
    rows: ClassVar[Rows] = "last"
    prefix_reusable: ClassVar[bool] = False
    chunkable: ClassVar[bool] = False

    keep: int = 128
    sigma: float = 1.88096
    after: int = 1
    of: int = 32

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise UsageError(f"--attention debias: keep is {self.keep}; at least 1 visual token has to stay")
        if not 0 <= self.after < self.of:
            raise UsageError(f"--attention debias: layer {self.after} is not one of layers 0 to {self.of - 1}")

    def check(self, config: LMMConfig) -> None:
        if config.vision is None:
            raise UsageError("--attention debias: this model reads text only; there are no visual tokens to drop")
        if len(config.text.attention_layers) < 2:
            raise UsageError("--attention debias: this model has one layer; none is left for fewer tokens")
        refuse_borrowed(self.name, config)

    def layers(self, count: int) -> Collection[int]:
        return [min(self.after * count // self.of, count - 2)]

    def observe(self, ctx: Context, weights: mx.array) -> None:
        if ctx.phase != "decode":
            ctx.state["received"] = mx.mean(weights[:, :, -1], axis=1)

    def after_block(self, ctx: Context, x: mx.array) -> KeptTokens | None:
        visual = ctx.tokens.visual
        if ctx.phase == "decode" or visual.sum() <= self.keep:
            return None
        one_prompt(self, x)
        places = np.flatnonzero(visual[0])
        received = np.array(ctx.state["received"])[0, places].astype(np.float64)
        ranks = image_places(ctx.tokens.image[0, places])
        chosen = places[best(received * trend_weights(ranks, self.sigma), self.keep)]
        return KeptTokens(mx.array(np.union1d(np.flatnonzero(~visual[0]), chosen).astype(np.int32)[None]))


def refuse_borrowed(name: str, config: LMMConfig) -> None:
    """Refuse to drop tokens between layers of which later ones use the keys of earlier ones.

    Args:
        name: of the policy.
        config: of the model.

    Raises:
        UsageError: for such a model.
    """
    if config.text.borrowed_layers:
        raise UsageError(
            f"--attention {name}: the last {config.text.borrowed_layers} layers of this {config.family} model use the "
            "keys and values of earlier ones, which hold all tokens; none can go on with fewer"
        )


def one_prompt(policy: Policy, x: mx.array) -> None:
    """Refuse a batch, whose prompts would keep different numbers of tokens."""
    if x.shape[0] > 1:
        raise UsageError(f"--attention {policy.name} reads one prompt at a time, not {x.shape[0]}")


def image_places(image: NDArray[np.int32]) -> NDArray[np.float64]:
    """i / V of each visual token within its image, from the images that they belong to."""
    places = np.zeros(len(image))
    for index in np.unique(image):
        own = image == index
        places[own] = np.arange(own.sum()) / own.sum()
    return places


def trend_weights(places: NDArray[np.float64], sigma: float) -> NDArray[np.float64]:
    """1 / f at places i / V."""
    weights: NDArray[np.float64] = np.exp(-sigma * places)
    return weights


def best(scores: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Indices of the largest scores, ascending; ties go to the first."""
    # Rounded, so that scores that are equal but for the order of their sums tie.
    return np.sort(np.argsort(-scores.round(12), kind="stable")[:count])
