"""Attention sinks: tokens that receive attention whatever they say, and how to find them in any checkpoint.

Two detectors. By dimension (VAR, arXiv 2503.03321): sink tokens have massive activations in a few fixed dimensions of
the residual stream, so a token is one where its largest |x[d]| / rms(x) over those dimensions reaches a threshold. By
cosine (Wong et al., arXiv 2512.22213): sink tokens point where the first token points, in the layers between the rise
and the fall of that token's norm; this needs neither a table of dimensions nor a threshold per model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx.inputs.prompt.message import Message, TextPart
from rave_mlx.models.hooks import KeptTokens
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.policy import Context, Policy
from rave_mlx.policies.runtime import PolicyRuntime

EPS = 1e-6
_TEXT = "Describe everything that stands on this page."
"""Any text will do: which dimensions sinks use is a property of the model (arXiv 2503.03321)."""


def sink_values(x: mx.array, dims: mx.array) -> mx.array:
    """max over `dims` of |x[d]| / rms(x) for states (..., hidden), float32; at most sqrt(hidden)."""
    x = x.astype(mx.float32)
    largest = mx.max(mx.abs(mx.take(x, dims, axis=-1)), axis=-1)
    return largest * mx.rsqrt(mx.mean(x * x, axis=-1) + EPS)


def reaches(x: mx.array, dims: mx.array, tau: float, *, strict: bool = False) -> mx.array:
    """Which states are sinks: those whose `sink_values` reach a threshold, told without a square root or division.

    Args:
        x: states (..., hidden).
        dims: (n,) the sink dimensions.
        tau: the threshold.
        strict: whether the value has to exceed tau.

    Returns:
        Marks (...).
    """
    squares = mx.square(x.astype(mx.float32))
    largest = mx.max(mx.take(squares, dims, axis=-1), axis=-1)
    least = tau * tau * (mx.mean(squares, axis=-1) + EPS)
    return largest > least if strict else largest >= least


def direction(x: mx.array) -> mx.array:
    """Unit vectors along states (..., hidden), float32."""
    x = x.astype(mx.float32)
    return x * mx.rsqrt(mx.sum(x * x, axis=-1, keepdims=True) + EPS)


def cosines(x: mx.array, first: mx.array) -> mx.array:
    """|cos| (B, L) of states (B, L, hidden) with a state (B, hidden), float32."""
    return along(x, direction(first))


def along(x: mx.array, unit: mx.array) -> mx.array:
    """|cos| (B, L) of states (B, L, hidden) with a unit vector (B, hidden), float32."""
    x = x.astype(mx.float32)
    products = mx.abs(mx.sum(x * unit[:, None], axis=-1))
    return products * mx.rsqrt(mx.sum(x * x, axis=-1) + EPS)


def find_sink_dims(states: NDArray[np.float32], *, factor: float = 20.0) -> tuple[int, ...]:
    """Dimensions with massive activations in a model's sink tokens.

    For every block input from layer 2 on, |x[d]| / rms(x) is averaged over the first token and the one with the
    largest value; dimensions above `factor` times the layer's median in more than half of those layers are returned.
    Normally distributed states reach about 6 times the median, sink tokens of trained models hundreds.

    Args:
        states: (layers, tokens, hidden) block inputs of one text, first to last layer.
        factor: see above.

    Returns:
        The dimensions, the strongest first; empty where the model has none.
    """
    later = states[2:].astype(np.float64)
    if not later.size:
        return ()
    values = np.abs(later) / np.sqrt((later**2).mean(axis=-1, keepdims=True) + EPS)
    strongest = values.max(axis=-1).argmax(axis=1)
    profile = (values[:, 0] + values[np.arange(len(values)), strongest]) / 2
    above = profile > factor * np.median(profile, axis=1, keepdims=True)
    found = np.flatnonzero(above.sum(axis=0) * 2 > len(later))
    return tuple(int(d) for d in found[np.argsort(-profile[:, found].mean(axis=0), kind="stable")])


def sink_layers(norms: NDArray[np.float64]) -> range:
    """Layers at whose input the first token is a sink, from its norms (layers + 1,): block inputs, last output.

    From the layer after the largest rise to the one after the largest fall that follows it.
    """
    steps = np.diff(norms)
    start = int(steps.argmax()) + 1
    after = steps[start:]
    return range(start, start + int(after.argmin()) + 1 if after.size else len(steps))


@dataclass(frozen=True)
class _Recorder(Policy):
    """Keeps every block input and output."""

    def on_block_input(self, ctx: Context) -> None:
        ctx.state["input"] = ctx.x

    def after_block(self, ctx: Context, x: mx.array) -> KeptTokens | None:
        ctx.state["output"] = x
        return None


@dataclass(frozen=True)
class Profile:
    """What a short text shows about a model's sinks.

    Attributes:
        states: (layers + 1, tokens, hidden) float32, block inputs and the last block's output.
    """

    states: NDArray[np.float32]

    TEXT: ClassVar[str] = _TEXT

    @property
    def dims(self) -> tuple[int, ...]:
        """See `find_sink_dims`."""
        return find_sink_dims(self.states[:-1])

    @property
    def layers(self) -> range:
        """See `sink_layers`."""
        return sink_layers(np.linalg.norm(self.states[:, 0].astype(np.float64), axis=-1))


def profile(lmm: LMM) -> Profile:
    """Let a model read a short text, without gates, and keep what its layers see."""
    prompt = lmm.prompt([Message("user", (TextPart(_TEXT),), plain=True)])
    recorder = _Recorder()
    runtime = PolicyRuntime(lmm, (recorder,))
    lmm.read(prompt, lmm.make_cache(gate=False, hooks=runtime), len(prompt))
    count = len(lmm.config.text.attention_layers)
    states = [runtime.state(recorder, i)["input"] for i in range(count)]
    states.append(runtime.state(recorder, count - 1)["output"])
    return Profile(np.array(mx.concatenate(states).astype(mx.float32)))


# Sink scores of attention (Gu et al., ICLR 2025)


def received(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean weight (..., K) that each key receives from the rows that see it, of causal weights (..., K, K)."""
    means: NDArray[np.float64] = weights.sum(axis=-2) / np.arange(weights.shape[-1], 0, -1)
    return means


def sink_rate(weights: NDArray[np.float64], *, threshold: float = 0.3) -> NDArray[np.float64]:
    """Share (K,) of layers and heads in which a key receives more than `threshold`, of weights (..., K, K).

    Gu et al. report it in percent, over texts of 64 tokens, with threshold 0.3.
    """
    above: NDArray[np.float64] = (received(weights) > threshold).reshape(-1, weights.shape[-1]).mean(axis=0)
    return above


# Secondary sinks (Wong et al.)


@dataclass(frozen=True)
class Sink:
    """A token that points where the first one does.

    Attributes:
        token: its index.
        first_layer, lifetime: first layer at whose input it does, and in how many it does: its "level".
        kind: "bos" when it lasts as long as the first token's do, "secondary" when shorter, "noise" when very short.
    """

    token: int
    first_layer: int
    lifetime: int
    kind: str


def classify_sinks(
    states: NDArray[np.float32], *, threshold: float = 0.9, brief: int = 4, short: int = 15
) -> list[Sink]:
    """Find and sort the sinks of one sequence (Wong et al., arXiv 2512.22213).

    "secondary" where |cos| with the first token exceeds `threshold` in more than `brief` and fewer than layers -
    `short` layers, "bos" from there on, "noise" below; layers counts the model's.

    Args:
        states: (layers + 1, tokens, hidden) block inputs and the last block's output.
        threshold: of |cos|.
        brief: most layers of noise.
        short: how many layers fewer than the model has a "bos" sink may last.
    """
    count = len(states) - 1
    alive = sink_layers(np.linalg.norm(states[:, 0].astype(np.float64), axis=-1))
    span = states[alive.start : alive.stop].astype(np.float64)
    if not span.size:
        return []
    norms = np.linalg.norm(span, axis=-1)
    cosine = np.abs(np.einsum("ltd,ld->lt", span, span[:, 0])) / np.maximum(norms * norms[:, :1], EPS)
    found = []
    for token in np.flatnonzero((cosine > threshold).any(axis=0)):
        marks = cosine[:, token] > threshold
        lifetime = int(marks.sum())
        kind = "bos" if lifetime >= count - short else "secondary" if lifetime > brief else "noise"
        found.append(Sink(int(token), alive.start + int(marks.argmax()), lifetime, kind))
    return found
