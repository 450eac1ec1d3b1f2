"""VisionDrop: visual tokens dropped and merged in stages, by attention among themselves (arXiv 2506.22283, AAAI 2026),
without training. Experimental: the stages in the decoder without the one in the vision tower.

Before chosen layers, with that layer's queries q and keys k of the states at hand, rotated, under a causal mask:

    score_j = mean over heads and visual tokens i of softmax(q_i k / sqrt(d))_j,  over visual keys j

The tokens with the highest scores stay ("dominant"). Of the others every n-th becomes a target ("contextual"); each
of the rest joins the target whose key (mean over heads) has the largest cosine with its own, and a target's state
grows by the mean of the states that joined it. Dominant tokens keep their order, contextual ones follow them, and
positions are packed again (`Ruixxxx/VisionDrop`, f7a9444).

The code first drops tokens in a CLIP tower, by the class token's attention; its budgets (the default: 32 tokens on
average) are meant to follow that. Models with two-dimensional positions keep them. One image a prompt, as in the code.
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
from rave_mlx.models.lmm import LMM
from rave_mlx.models.rope import text_table
from rave_mlx.models.self_attention import Attention
from rave_mlx.policies.methods.debias import best, one_prompt, refuse_borrowed
from rave_mlx.policies.policy import Context, Policy

_ROWS = 128
"""Queries scored at a time."""


@dataclass(frozen=True)
class VisionDrop(Policy):
    """Drops visual tokens before several layers, and merges part of them into tokens that stay.

    Attributes:
        before: layers before which tokens are dropped, counted in a model of `of` layers and taken at the same relative
            depth in another; where two fall together, the later one counts.
        dominant, contextual: how many tokens stay at each stage, and how many merged ones are added.
        of: see `before`.
    """

    name: ClassVar[str] = "visiondrop"
    prefix_reusable: ClassVar[bool] = False
    chunkable: ClassVar[bool] = False

    before: tuple[int, ...] = (8, 16, 24)
    dominant: tuple[int, ...] = (30, 22, 16)
    contextual: tuple[int, ...] = (5, 4, 3)
    of: int = 32

    def __post_init__(self) -> None:
        if not len(self.before) == len(self.dominant) == len(self.contextual):
            raise UsageError("--attention visiondrop: before, dominant and contextual must be lists of one length")
        if not all(0 < layer < self.of for layer in self.before):
            raise UsageError(f"--attention visiondrop: before {self.before}: give layers from 1 to {self.of - 1}")
        if min((*self.dominant, *self.contextual), default=1) < 1:
            raise UsageError("--attention visiondrop: each stage keeps at least 1 dominant and 1 contextual token")

    def check(self, config: LMMConfig) -> None:
        if config.vision is None:
            raise UsageError("--attention visiondrop: this model reads text only; there are no visual tokens to drop")
        if len(config.text.attention_layers) < 2:
            raise UsageError("--attention visiondrop: this model has one layer; none is left for fewer tokens")
        refuse_borrowed(self.name, config)
        if config.sink_gate is not None:
            raise UsageError("--attention visiondrop: this model has sink gates, which scale the keys it scores by")

    def layers(self, count: int) -> Collection[int]:
        return sorted(self._stages(count))

    def prepare(self, lmm: LMM) -> Mapping[str, Any]:
        return {"lmm": lmm}

    def after_block(self, ctx: Context, x: mx.array) -> KeptTokens | None:
        visual = np.flatnonzero(ctx.tokens.visual[0])
        dominant, contextual = self._stages(ctx.num_layers)[ctx.layer]
        if ctx.phase == "decode" or ctx.start > 0 or visual.size <= dominant + contextual:
            return None
        one_prompt(self, x)
        if ctx.tokens.image[0].max() > 0:
            raise UsageError("--attention visiondrop reads one image a prompt")
        lmm: LMM = ctx.plan["lmm"]
        scores, metric = _score_tokens(lmm, ctx, x, visual)
        stay = best(scores, dominant)
        rest = np.setdiff1d(np.arange(visual.size), stay)
        targets, joined = merge_plan(metric[rest], contextual)
        merged = visual[rest[targets]]
        x = x.at[:, mx.array(merged)].add(_joined(x, visual[rest], targets, joined))
        places = np.concatenate([visual[stay], merged])
        text = np.flatnonzero(~ctx.tokens.visual[0])
        index = np.concatenate([text[text < visual[0]], places, text[text > visual[0]]])
        packed = lmm.config.text.rope.sections is None
        positions = mx.array(np.tile(np.arange(index.size, dtype=np.int32), (1, 3, 1))) if packed else None
        shift = x.shape[1] - index.size if packed else 0
        return KeptTokens(mx.array(index.astype(np.int32)[None]), x[:, mx.array(index)], positions, shift)

    def _stages(self, count: int) -> dict[int, tuple[int, int]]:
        """Dominant and contextual tokens, by the layer after which the others are dropped."""
        layers = [max(1, layer * count // self.of) - 1 for layer in self.before]
        return dict(zip(layers, zip(self.dominant, self.contextual, strict=True), strict=True))


def merge_plan(metric: NDArray[np.float64], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Targets among tokens with keys `metric` (n, d), and for each token the place of its target among them.

    A target's own entry is -1.
    """
    n = len(metric)
    targets = np.arange(0, n, max(1, n // count))[:count]
    unit = metric / np.maximum(np.linalg.norm(metric, axis=1, keepdims=True), 1e-20)
    joined = (unit @ unit[targets].T).argmax(axis=1)
    joined[targets] = -1
    return targets, joined


def _joined(x: mx.array, rest: NDArray[np.int64], targets: NDArray[np.int64], joined: NDArray[np.int64]) -> mx.array:
    """(1, targets, hidden): the mean of the states that join each target; 0 where none does."""
    marks = joined == np.arange(len(targets))[:, None]
    means = marks / np.maximum(marks.sum(axis=1, keepdims=True), 1)
    return (mx.array(means.astype(np.float32)) @ x[:, mx.array(rest)].astype(mx.float32)).astype(x.dtype)


def _score_tokens(
    lmm: LMM, ctx: Context, x: mx.array, visual: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Scores (V,) of the visual tokens, and their keys' mean over heads (V, d), in the layer that comes next.

    Of layers with linear attention between the two, nothing is computed.
    """
    text, positions = lmm.config.text, mx.array(ctx.tokens.positions)
    following = text.attention_layers[ctx.layer + 1]
    block = lmm.decoder.layers[following]
    rope, longest = text.rope_of(following), int(ctx.tokens.positions.max()) + 1
    table = text_table(rope, text.head_dim_of(following), positions, longest)
    attention = block.attention
    assert isinstance(attention, Attention)
    q, k, *_ = attention.project(block.input_norm(x))
    rotated = attention.rotate(table, q.swapaxes(1, 2), k.swapaxes(1, 2))
    q, k = (part[0].astype(mx.float32) for part in rotated)
    heads, keys = q.shape[0], mx.repeat(k, q.shape[0] // k.shape[0], axis=0).swapaxes(-1, -2)
    total = mx.zeros((visual.size,))
    for start in range(0, visual.size, _ROWS):
        rows = mx.array(visual[start : start + _ROWS])
        scores = q[:, rows] @ keys * attention.score_scale
        scores = mx.where(rows[:, None] >= mx.arange(keys.shape[-1]), scores, -mx.inf)
        total = total + mx.sum(mx.softmax(scores, axis=-1), axis=(0, 1))[mx.array(visual)]
    metric = mx.mean(k, axis=0)[mx.array(visual)]
    mx.eval(total, metric)
    return np.array(total).astype(np.float64) / (heads * visual.size), np.array(metric).astype(np.float64)
