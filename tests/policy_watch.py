"""What tests of policies look at: weights, outputs and inputs of every layer of one pass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx
import numpy as np

from rave_mlx.generation.decode import step
from rave_mlx.generation.prefill import prefill
from rave_mlx.policies.policy import Policy
from rave_mlx.policies.runtime import attach

LAYERS = 3


@dataclass(frozen=True)
class Watch(Policy):
    """Keeps queries, keys, values and head outputs of every layer, and the weights after all policies."""

    name: ClassVar[str] = "watch"
    rows: ClassVar = "all"
    needs_visual: ClassVar[bool] = False

    def observe(self, ctx, weights):
        padded = mx.pad(weights, [(0, 0), (0, 0), (0, 0), (0, len(ctx.tokens) - weights.shape[-1])])
        ctx.state.setdefault("weights", []).append((ctx.rows, padded))

    def head_output(self, ctx, output):
        ctx.state["out"] = output
        ctx.state["qkv"] = (ctx.q, ctx.k, ctx.v)
        return output


@dataclass
class Layer:
    """One layer's pass: weights as the model used them, head outputs, and softmax(q k^T) in float64."""

    weights: np.ndarray
    out: np.ndarray
    k: np.ndarray
    v: np.ndarray
    scores: np.ndarray

    @property
    def plain(self):
        return softmax(self.scores)


def softmax(scores):
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def layers_of(run):
    """What a `Watch` saw in the last pass."""
    found = []
    for index in range(LAYERS):
        state = run.state(Watch(), index)
        q, k, v = (np.array(x).astype(np.float64)[0] for x in state["qkv"])
        k, v = (np.repeat(x, q.shape[0] // x.shape[0], axis=0) for x in (k, v))
        scores = q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5
        rows, keys = scores.shape[1:]
        scores = np.where(np.tril(np.ones((rows, keys), bool), keys - rows), scores, -np.inf)
        blocks = [w for _, w in sorted(state.pop("weights"), key=lambda item: item[0])]
        found.append(Layer(np.array(mx.concatenate(blocks, axis=2))[0], np.array(state["out"])[0], k, v, scores))
    return found


def watch(lmm, prompt, *policies):
    run = attach(lmm, [*policies, Watch()])
    mx.eval(lmm.logits(prompt, hooks=run))
    return layers_of(run)


@dataclass(frozen=True)
class Outputs(Policy):
    """Keeps what attention and MLP add at the last position, before or after IRI, by where it stands in the list."""

    name: ClassVar[str] = "outputs"
    place: str = ""

    def sublayer_output(self, ctx, kind, output):
        ctx.state[kind] = output
        return output


@dataclass(frozen=True)
class Inputs(Policy):
    """Keeps every block's input."""

    name: ClassVar[str] = "inputs"

    def on_block_input(self, ctx):
        ctx.state["x"] = ctx.x


@dataclass(frozen=True)
class Hide(Policy):
    """Hides some keys from all other rows in the layers after one."""

    name: ClassVar[str] = "hide"
    keys: tuple[int, ...] = ()
    after: int = 0

    def layers(self, count):
        return range(self.after + 1, count)

    def visible(self, ctx, allowed):
        hidden = np.zeros(len(ctx.tokens), bool)
        hidden[list(self.keys)] = True
        own = mx.arange(ctx.start, len(ctx.tokens))[:, None] == mx.arange(len(ctx.tokens))
        return allowed & (~mx.array(hidden) | own)


def answers(lmm, prompt, *policies):
    """Logits after the prompt and after three more tokens, and the cache."""
    cache = lmm.make_cache(gate=False, hooks=attach(lmm, policies))
    rows = [prefill(lmm, prompt, cache)]
    for count, token in enumerate((40, 90, 133)):
        rows.append(step(lmm, cache, mx.array([token]), prompt.token_map.next_position + count))
    return np.array(mx.concatenate(rows)), cache
