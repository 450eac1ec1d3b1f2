"""Observers: policies that change nothing and keep figures of where a model looks, without attention matrices.

`Masses` keeps how the row that chooses a token divides its attention among image, text and what was generated;
`Entropies` how widely it looks within the image. From masses come the modality dominance index and the attention
efficiency index of "When Language Overrules" (arXiv 2508.10552). `rave_mlx.look` keeps whole maps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx.inputs.prompt.message import Role
from rave_mlx.policies.policy import Context, Policy, Rows
from rave_mlx.policies.runtime import PolicyRuntime


@dataclass(frozen=True)
class Masses(Policy):
    """Keeps each such row's masses on image, text (the prompt's) and answer tokens; see `masses`."""

    name: ClassVar[str] = "masses"
    rows: ClassVar[Rows] = "last"
    needs_visual: ClassVar[bool] = False

    def key_groups(self, ctx: Context) -> mx.array:
        """Image, text of the prompt, answers."""
        answer = mx.array(ctx.tokens.role == Role.ASSISTANT)
        return mx.stack([ctx.tokens.marks("visual"), ctx.tokens.marks("text") & ~answer, answer], axis=-1)

    def observe_masses(self, ctx: Context, masses: mx.array) -> None:
        if ctx.final and ctx.rows[1] == ctx.length:
            ctx.state.setdefault("masses", []).append(masses[:, :, -1])


@dataclass(frozen=True)
class Entropies(Policy):
    """Keeps each such row's entropy over the visual tokens, 0 for one token and 1 for all alike; see `entropies`."""

    name: ClassVar[str] = "entropies"
    rows: ClassVar[Rows] = "last"

    def observe(self, ctx: Context, weights: mx.array) -> None:
        if ctx.final and ctx.rows[1] == ctx.length:
            visual = mx.where(ctx.visual[:, None], weights[:, :, -1], 0.0)
            share = visual / mx.maximum(mx.sum(visual, axis=-1, keepdims=True), 1e-20)
            entropy = -mx.sum(mx.where(share > 0, share * mx.log(mx.maximum(share, 1e-30)), 0.0), axis=-1)
            count = mx.array(np.maximum(ctx.tokens.visual.sum(axis=1), 2))[:, None]
            ctx.state.setdefault("entropies", []).append(entropy / mx.log(count.astype(mx.float32)))


def masses(runtime: PolicyRuntime, policy: Masses) -> NDArray[np.float32]:
    """(layers, B, tokens, H, 3) what a `Masses` of a run saw: the row that chose each token of the answer."""
    return _kept(runtime, policy, "masses")


def entropies(runtime: PolicyRuntime, policy: Entropies) -> NDArray[np.float32]:
    """(layers, B, tokens, H) what an `Entropies` of a run saw."""
    return _kept(runtime, policy, "entropies")


def _kept(runtime: PolicyRuntime, policy: Policy, name: str) -> NDArray[np.float32]:
    """(layers, B, tokens, ...) what an observer kept in `state[name]`: in every layer a list of one array a token."""
    layers = [mx.stack(runtime.state(policy, layer)[name], axis=1) for layer in range(runtime.num_layers)]
    return np.array(mx.stack(layers))


@dataclass(frozen=True)
class Dominance:
    """How much more attention a token of the text gets than one that is not text.

    Attributes:
        mdi: modality dominance index: attention per text token over attention per other token.
        text, other: attention efficiency index: share of the attention over share of the tokens.
    """

    mdi: float
    text: float
    other: float


def dominance(text: float, other: float, text_tokens: int, other_tokens: int) -> Dominance:
    """How much a model prefers text: dominance and efficiency indices (arXiv 2508.10552).

    There, attention is the mean over heads of the generated rows, and over the first, the middle or the last two
    layers.

    Args:
        text, other: attention summed over the input's text tokens, and over its other tokens.
        text_tokens, other_tokens: how many of them there are, at least 1.
    """
    attention, tokens = text + other, text_tokens + other_tokens
    return Dominance(
        mdi=(text / text_tokens) / (other / other_tokens),
        text=(text / attention) / (text_tokens / tokens),
        other=(other / attention) / (other_tokens / tokens),
    )


def dominance_by_depth(runtime: PolicyRuntime, policy: Masses) -> dict[str, Dominance]:
    """The indices of the first, the middle and the last two layers, over what a `Masses` of a run saw."""
    seen = masses(runtime, policy).mean(axis=(1, 2, 3), dtype=np.float64)
    tokens = runtime.tokens
    image = int(tokens.visual.sum())
    text = int((tokens.valid & ~tokens.visual & (tokens.role != Role.ASSISTANT)).sum())
    middle = (len(seen) - 2) // 2
    depths = {"early": seen[:2], "middle": seen[middle : middle + 2], "late": seen[-2:]}
    return {
        depth: dominance(float(rows[:, 1].mean()), float(rows[:, 0].mean()), text, image)
        for depth, rows in depths.items()
    }
