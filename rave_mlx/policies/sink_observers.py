"""Observers of attention sinks: they change nothing and keep figures, without attention matrices.

`VisualSinks` is the analysis behind VAR ("Visual Attention Sink", arXiv 2503.03321): which visual tokens are sinks in a
layer, how much of the attention to the image they draw, and which heads look at the image otherwise. `FirstToken` tells
active heads from dormant ones (Guo et al., arXiv 2410.13835, from memory): a head that spends its attention on the
first token does nothing on this input, all the more as that token's value is small ("value-state drain").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx.models.lmm import LMM
from rave_mlx.policies.policy import Context, Policy, Rows
from rave_mlx.policies.runtime import PolicyRuntime
from rave_mlx.policies.sink_tokens import profile, reaches
from rave_mlx.policies.tokens import KeyRows

_SUM, _COUNT = "sum", "count"


@dataclass(frozen=True)
class VisualSinks(Policy):
    """Keeps, for every layer, which visual tokens are sinks and what each head gives to them; see `visual_sinks`.

    Attributes:
        dims: dimensions in which sinks are massive; empty: those that the model shows (`sink_tokens.profile`).
        tau: largest |x[d]| / rms(x) over them from which on a token is a sink.
        rho: share of the image's attention off the sinks from which on a head is image-centric.
        min_visual: attention on the image below which a head is none.
    """

    name: ClassVar[str] = "visual-sinks"
    rows: ClassVar[Rows] = "text"

    dims: tuple[int, ...] = ()
    tau: float = 20.0
    rho: float = 0.8
    min_visual: float = 0.2

    def prepare(self, lmm: LMM) -> Mapping[str, Any]:
        return {"dims": self.dims or profile(lmm).dims}

    def on_block_input(self, ctx: Context) -> None:
        dims = ctx.plan["dims"]
        new = ctx.tokens.marks("visual")[:, ctx.start :]
        marks = new & reaches(ctx.x, mx.array(dims), self.tau) if dims else mx.zeros_like(new)
        ctx.state.setdefault("sinks", KeyRows()).write(ctx.start, marks)

    def key_groups(self, ctx: Context) -> mx.array:
        """Visual sinks, other visual tokens."""
        sinks, visual = ctx.state["sinks"].upto(len(ctx.tokens)), ctx.tokens.marks("visual")
        return mx.stack([sinks, visual & ~sinks], axis=-1)

    def observe_masses(self, ctx: Context, masses: mx.array) -> None:
        image, others = mx.sum(masses, axis=-1), masses[..., 1]
        centric = (image >= self.min_visual) & (others >= self.rho * image)
        tokens, new = ctx.tokens, _new(ctx)
        sees = np.logical_or.accumulate(tokens.visual[0])[new] & ~tokens.visual[0, new]
        _add(ctx, mx.concatenate([masses, centric[..., None].astype(mx.float32)], axis=-1), sees)


@dataclass(frozen=True)
class FirstToken(Policy):
    """Keeps, for every head, its mean attention on the first token, and how large that token's value is."""

    name: ClassVar[str] = "first-token"
    rows: ClassVar[Rows] = "all"
    needs_visual: ClassVar[bool] = False

    def key_groups(self, ctx: Context) -> mx.array:
        """The first token."""
        return mx.array(_first(ctx))[..., None]

    def observe_masses(self, ctx: Context, masses: mx.array) -> None:
        # The first token itself sees nothing else.
        _add(ctx, masses, ctx.tokens.valid[0, _new(ctx)] & ~_first(ctx)[0, _new(ctx)])

    def head_output(self, ctx: Context, output: mx.array) -> mx.array:
        if ctx.final and ctx.phase == "prefill" and ctx.v is not None:
            norms = np.array(mx.linalg.norm(ctx.v.astype(mx.float32), axis=-1))
            first, valid = _first(ctx), ctx.tokens.valid
            ctx.state["values"] = np.stack([
                row[:, one].mean(axis=1) / np.median(row[:, real & ~one], axis=1)
                for row, one, real in zip(norms, first, valid, strict=True)
            ])  # fmt: skip
        return output


@dataclass(frozen=True)
class BlockInputs(Policy):
    """Keeps what enters every layer, of the last pass, as `state["input"]`."""

    name: ClassVar[str] = "block-inputs"

    def on_block_input(self, ctx: Context) -> None:
        ctx.state["input"] = ctx.x


@dataclass(frozen=True)
class LayerSinks:
    """Visual sinks of one layer in one prompt, and what its heads do with them. H heads.

    Attributes:
        tokens: indices of the visual tokens that are sinks, in the prompt.
        sink, image: (H,) mean attention on visual sinks and on the whole image, of text rows that see the image.
        centric: (H,) share of those rows in which the head is image-centric.
    """

    tokens: tuple[int, ...]
    sink: NDArray[np.float64]
    image: NDArray[np.float64]
    centric: NDArray[np.float64]


@dataclass(frozen=True)
class LayerDormancy:
    """How dormant the heads of one layer are on one prompt.

    Attributes:
        first: (H,) mean attention on the first token, of the rows after it.
        value: (G,) norm of the first token's value, in medians of the others, by KV group.
    """

    first: NDArray[np.float64]
    value: NDArray[np.float64]

    def dormant(self, threshold: float) -> NDArray[np.bool_]:
        """(H,) the heads whose attention on the first token exceeds a threshold."""
        return self.first > threshold


def visual_sinks(runtime: PolicyRuntime, policy: VisualSinks) -> list[LayerSinks]:
    """What a `VisualSinks` of a run saw, by layer; of its first sequence."""
    found = []
    for layer in range(runtime.num_layers):
        state = runtime.state(policy, layer)
        means = _means(state)
        marks = np.array(state["sinks"].upto(state["sinks"].length))[0]
        sink, other, centric = means.T
        found.append(LayerSinks(tuple(np.flatnonzero(marks).tolist()), sink, sink + other, centric))
    return found


def dormancy(runtime: PolicyRuntime, policy: FirstToken) -> list[LayerDormancy]:
    """What a `FirstToken` of a run saw, by layer; of its first sequence."""
    states = [runtime.state(policy, layer) for layer in range(runtime.num_layers)]
    return [LayerDormancy(_means(state)[:, 0], state["values"][0]) for state in states]


def _first(ctx: Context) -> NDArray[np.bool_]:
    """(B, K) marks of the first real token of each sequence."""
    valid = ctx.tokens.valid
    marks: NDArray[np.bool_] = np.arange(valid.shape[1]) == valid.argmax(axis=1)[:, None]
    return marks


def _new(ctx: Context) -> slice:
    """The keys that the rows at hand are."""
    return slice(ctx.start + ctx.rows[0], ctx.start + ctx.rows[1])


def _add(ctx: Context, figures: mx.array, rows: NDArray[np.bool_]) -> None:
    """Add figures (B, H, rows, n) of the first sequence's marked rows to those of the layer."""
    state = ctx.state
    total = mx.sum(mx.where(mx.array(rows)[None, :, None], figures[0], 0.0), axis=1)
    state[_SUM] = total + state.get(_SUM, 0.0)
    state[_COUNT] = state.get(_COUNT, 0) + int(rows.sum())


def _means(state: Mapping[str, Any]) -> NDArray[np.float64]:
    """(H, n) means over the rows that were added up."""
    means: NDArray[np.float64] = np.array(state[_SUM], dtype=np.float64) / max(1, state[_COUNT])
    return means
