"""Visual Attention Redistribution (VAR, arXiv 2503.03321, ICLR 2025), without training and without a second pass.

Attention parked on sink tokens (the first token, line breaks, *visual* sinks) goes to the visual tokens that are no
sinks, in heads that look at the image. For every text query and head, with A the softmax weights, V the visual keys, S
the sinks, T = V minus S:

    r = A(T) / A(V);   where A(V) >= 0.2 and r >= rho:   A' = (1 - p) A on S,   A' = (1 + p A(S) / A(T)) A on T

A row still sums to 1, and only its masses on three groups of keys are needed, so no attention matrix is held. The few
numbers of a written token go through compiled functions, whose shapes never change while an answer is written.

Paper and released code (`seilk/VisAttnSink`, 98e62d6) differ; every difference is a field, and the presets `paper` and
`released` set them. `cosine` is the paper's redistribution with sinks found by direction (`sink_tokens`), which works
where the paper's threshold cannot: phi is at most sqrt(hidden size), so tau = 20 never fires below a hidden size of
400.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any, ClassVar, Literal

import mlx.core as mx
import numpy as np

from rave_mlx.config import LMMConfig
from rave_mlx.errors import UsageError
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.policy import Context, Policy
from rave_mlx.policies.sink_tokens import along, direction, profile, reaches
from rave_mlx.policies.tokens import KeyRows

_TINY = 1e-20
"""Divides in place of a target mass of 0, in rows that are not steered."""
_OTHER_SINK = (0.0, 1.0, 0.0)
"""Marks of a generated token that is a sink, in the order of `VAR.key_groups`."""


@dataclass(frozen=True)
class VAR(Policy):
    """Moves attention from sink tokens to the visual tokens that are no sinks.

    Attributes:
        p: fraction of the sink attention that is `moved`, or, as the released code has it, `kept` (see `p_is`).
        p_is: what `p` counts.
        rho: how image-centric a head must be.
        test: "target": the visual non-sinks hold at least rho of the visual mass (paper); "sink": the visual sinks
            hold at most rho of it (code). The same at rho = 0.5.
        min_visual: least visual mass of a head.
        detector: "dims": massive activations in `dims`; "cosine": direction of the first token.
        dims: sink dimensions; empty: found by `sink_tokens.find_sink_dims` in a short text.
        tau: threshold of the sink value phi.
        strict: phi > tau (code) instead of phi >= tau.
        cosine: threshold of the cosine.
        first_layer: first layer that has sinks; the code's 2.
        last_layer: whether the last layer takes part; the paper leaves it out, the code does not.
        generated: whether generated tokens can be sinks; the code finds sinks in the prompt only.
        need_visual_sink: a layer without a visual sink stays as it is (code); else its text sinks are recycled.
    """

    name: ClassVar[str] = "var"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "paper": {},
        "released": {
            "p_is": "kept",
            "rho": 0.5,
            "test": "sink",
            "strict": True,
            "first_layer": 2,
            "last_layer": True,
            "generated": False,
            "need_visual_sink": True,
        },
        "cosine": {"detector": "cosine"},
    }

    p: float = 0.6
    p_is: Literal["moved", "kept"] = "moved"
    rho: float = 0.8
    test: Literal["target", "sink"] = "target"
    min_visual: float = 0.2
    detector: Literal["dims", "cosine"] = "dims"
    dims: tuple[int, ...] = ()
    tau: float = 20.0
    strict: bool = False
    cosine: float = 0.9
    first_layer: int = 0
    last_layer: bool = False
    generated: bool = True
    need_visual_sink: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise UsageError(f"--attention var: p is {self.p}; it is a fraction from 0 to 1")

    @property
    def moved(self) -> float:
        """Fraction of the sink attention that moves."""
        return self.p if self.p_is == "moved" else 1 - self.p

    def check(self, config: LMMConfig) -> None:
        hidden = config.text.hidden_size
        if config.vision is None:
            raise UsageError("--attention var: this model reads text only; there are no visual tokens to look at")
        if self.detector == "cosine":
            return
        if self.tau > hidden**0.5:
            raise UsageError(
                f"--attention var: tau {self.tau:g} is never reached at hidden size {hidden}, where sink values stay "
                f"below {hidden**0.5:.1f}; lower tau, or use var:cosine"
            )
        outside = [d for d in self.dims if not 0 <= d < hidden]
        if outside:
            raise UsageError(f"--attention var: dims {outside[0]}: the model has dimensions 0 to {hidden - 1}")

    def layers(self, count: int) -> Collection[int]:
        return range(self.first_layer, count if self.last_layer else count - 1)

    def prepare(self, lmm: LMM) -> Mapping[str, Any]:
        if self.detector == "cosine":
            return {"layers": profile(lmm).layers}
        dims = self.dims or profile(lmm).dims
        if not dims:
            raise UsageError(
                "--attention var: this model shows no sink dimensions; name them (dims=3/14), or var:cosine"
            )
        return {"dims": mx.array(dims)}

    def on_block_input(self, ctx: Context) -> None:
        if not self._acts_in(ctx):
            return
        groups = ctx.state.setdefault("groups", KeyRows())
        if ctx.phase == "decode" and not self.generated:
            return
        reference = self._reference(ctx)
        if ctx.phase == "decode":
            marks = _compiled(VAR._marks_of_generated, self, ctx.x.shape)(ctx.x, reference)
        else:
            tokens, new = ctx.tokens, slice(ctx.start, None)
            sink = self._sinks(ctx.x, reference) & tokens.marks("valid")[:, new]
            visual = tokens.marks("visual")[:, new]
            marks = mx.stack([sink & visual, sink & ~visual, visual & ~sink], axis=-1).astype(mx.float32)
            ctx.state.pop("idle", None)
        groups.write(ctx.start, marks)

    def _acts_in(self, ctx: Context) -> bool:
        """Whether the layer can have sinks."""
        return self.detector == "dims" or ctx.layer in ctx.plan["layers"]

    def _reference(self, ctx: Context) -> mx.array:
        """What sinks are told by: the sink dimensions, or the direction (B, hidden) of the first token."""
        if self.detector == "dims":
            dims: mx.array = ctx.plan["dims"]
            return dims
        if "first" not in ctx.state or ctx.start == 0:
            index = mx.array(np.argmax(ctx.tokens.valid, axis=1))
            ctx.state["first"] = direction(mx.take_along_axis(ctx.x, index[:, None, None], axis=1)[:, 0])
        first: mx.array = ctx.state["first"]
        return first

    def _sinks(self, x: mx.array, reference: mx.array) -> mx.array:
        """(B, L) marks of the states (B, L, hidden) that are sinks."""
        if self.detector == "dims":
            return reaches(x, reference, self.tau, strict=self.strict)
        return along(x, reference) > self.cosine

    def _marks_of_generated(self, x: mx.array, reference: mx.array) -> mx.array:
        """The groups (B, L, 3) of generated tokens."""
        return self._sinks(x, reference)[..., None] * mx.array(_OTHER_SINK)

    def key_groups(self, ctx: Context) -> mx.array | None:
        """Visual sinks, other sinks, visual tokens that are no sinks; None where they change nothing."""
        if not self._acts_in(ctx):
            return None
        groups: KeyRows = ctx.state["groups"]
        marks = groups.upto(len(ctx.tokens))
        return None if self._is_idle(ctx, marks) else marks

    def _is_idle(self, ctx: Context, marks: mx.array) -> bool:
        """Whether no token of an answer is steered in the layer: its prompt had no visual sink, and one is needed."""
        if ctx.phase == "prefill" or self.generated or not self.need_visual_sink:
            return False
        if "idle" not in ctx.state:
            ctx.state["idle"] = not mx.any(marks[..., 0]).item()
        return bool(ctx.state["idle"])

    def group_weights(self, ctx: Context, masses: mx.array) -> mx.array:
        counts = [ctx.tokens.count_visual(ctx.keys)] if self.test == "sink" else []
        if ctx.phase == "decode":
            return _compiled(VAR._factors, self, masses.shape)(masses, *counts)
        return self._factors(masses, *counts)

    def _factors(self, masses: mx.array, *counts: mx.array) -> mx.array:
        """Factors of the groups (B, H, rows, 3) from their masses, and for "sink" the number of visual keys (B,)."""
        visual_sink, other_sink, target = mx.split(masses, 3, axis=-1)
        visual = visual_sink + target
        chosen = visual >= self.min_visual
        if self.test == "target":
            chosen = chosen & (target >= self.rho * visual)
        else:
            chosen = chosen & (visual_sink <= self.rho * (visual + 1e-6 * counts[0][:, None, None, None]))
        if self.need_visual_sink:
            chosen = chosen & (visual_sink > 0)
        moved = mx.where(chosen, self.moved, 0.0)
        gain = 1 + moved * (visual_sink + other_sink) / mx.maximum(target, _TINY)
        return mx.concatenate([1 - moved, 1 - moved, gain], axis=-1)


@lru_cache(maxsize=64)
def _compiled(function: Callable[..., mx.array], policy: VAR, shape: tuple[int, ...]) -> Callable[..., mx.array]:
    """A method of a policy, compiled. The shape is part of the key only: a trace is kept for each."""
    return mx.compile(partial(function, policy))
