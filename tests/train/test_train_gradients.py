"""Gradients of gates, LoRA and DoRA under the training loss against central differences in float64.

The reference is a decoder of its own, in NumPy: RMS norms, projections with their updates, multimodal rotary positions,
the pair gate's equations as `attention.gate` states them, SwiGLU, cross-entropy over the trained tokens.
"""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from support import ask, picture, tiny_model

from rave_mlx.checkpoint import adapters
from rave_mlx.checkpoint.adapters import AdapterConfig
from rave_mlx.config import GateConfig
from rave_mlx.inputs.prompt.parse_messages import read_messages
from rave_mlx.train.batch import collate
from rave_mlx.train.example import make_example
from rave_mlx.train.loss import loss

GATE = GateConfig(rank=2, kv_groups=(1,), limit=2.0)
ROW = [ask("Who?", picture(24, 16, 1)), {"role": "assistant", "content": "Ann"}]
MODULES = (
    "decoder.layers.0.attention.q_proj",
    "decoder.layers.1.attention.k_proj",
    "decoder.layers.1.attention.o_proj",
    "decoder.layers.2.mlp.down_proj",
)
SCALE = 1.5
STEP = 1e-5


def model(kind):
    lmm = tiny_model(GATE)
    lmm.freeze()
    adapters.attach(lmm, AdapterConfig(rank=2, scale=SCALE, modules=MODULES, kind=kind))
    rng = np.random.default_rng(1)
    weights = lmm.named_weights()
    drawn = {n: rng.normal(0, 0.3, x.shape) for n, x in weights.items() if n.endswith(("lora_a", "lora_b"))}
    drawn |= {n: np.array(x) * rng.uniform(0.7, 1.3, x.shape) for n, x in weights.items() if n.endswith(".m")}
    lmm.load_weights([(n, mx.array(x.astype(np.float32))) for n, x in drawn.items()], strict=False)
    lmm.unfreeze(keys=["lora_a", "lora_b", "m", "U", "W", "a", "c", "beta"], strict=False)
    return lmm


def rms_norm(x, weight=1.0):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + 1e-6) * weight


class Reference:
    """The loss of one row in float64 from named weights."""

    def __init__(self, lmm, example):
        self.text, self.example = lmm.config.text, example
        self.weights = {n: np.array(x, np.float64) for n, x in lmm.named_weights().items() if n.startswith("decoder.")}
        tokens = example.prompt.token_map
        self.visual = tokens.visual
        self.x = self.weights["decoder.embed.weight"][example.prompt.ids[0]]
        self.x[self.visual] = np.concatenate([np.array(lmm.features(i), np.float64) for i in example.prompt.images])
        rope, half = self.text.rope, self.text.head_dim // 2
        axis = np.repeat([0, 1, 2], rope.sections)
        self.angles = tokens.positions[axis].T * rope.theta ** (-np.arange(half) / half)
        self.norms = {m: self.magnitudes(m) for m in MODULES if f"{m}.m" in self.weights}

    def magnitudes(self, module):
        w = self.weights
        return np.linalg.norm(
            w[f"{module}.linear.weight"] + SCALE * (w[f"{module}.lora_a"] @ w[f"{module}.lora_b"]).T, axis=1
        )

    def project(self, x, module):
        w = self.weights
        if f"{module}.lora_a" not in w:
            return x @ w[f"{module}.weight"].T + w.get(f"{module}.bias", 0.0)
        y = x @ w[f"{module}.linear.weight"].T + SCALE * (x @ w[f"{module}.lora_a"]) @ w[f"{module}.lora_b"]
        if module in self.norms:
            # The norm counts as a constant (arXiv 2402.09353, section 4.3), so it is that of the unmoved weights.
            y = w[f"{module}.m"] / self.norms[module] * y
        return y + w.get(f"{module}.linear.bias", 0.0)

    def rotate(self, x):
        first, second = np.split(x, 2, axis=-1)
        cos, sin = np.cos(self.angles), np.sin(self.angles)
        return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

    def bias(self, q, k, head, layer):
        """The pair gate's bias (L, L) of one head from its pre-rotary queries and keys."""
        group = head // 2
        if group not in GATE.kv_groups:
            return 0.0
        name = f"decoder.layers.{layer}.attention.gate"
        U, W, a, c, beta = (self.weights[f"{name}.{p}"] for p in ("U", "W", "a", "c", "beta"))
        slot, h = GATE.kv_groups.index(group), GATE.kv_groups.index(group) * 2 + head % 2
        q, k = rms_norm(q), rms_norm(k)
        x = (q @ U[h].T) @ (k @ W[slot].T).T / np.sqrt(GATE.rank) + (q @ a[h])[:, None] + (k @ c[slot]) + beta[h]
        return self.visual * GATE.limit * np.tanh(x / GATE.limit)

    def attention(self, x, layer):
        name, width = f"decoder.layers.{layer}.attention", self.text.head_dim
        q, k, v = (
            self.project(x, f"{name}.{p}_proj").reshape(len(x), -1, width).transpose(1, 0, 2) for p in ("q", "k", "v")
        )
        heads = []
        for head in range(self.text.num_heads):
            group = head // 2
            scores = self.rotate(q[head]) @ self.rotate(k[group]).T / np.sqrt(width)
            scores = scores + self.bias(q[head], k[group], head, layer)
            scores = np.where(np.tril(np.ones_like(scores)) > 0, scores, -np.inf)
            weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
            heads.append(weights / weights.sum(axis=-1, keepdims=True) @ v[group])
        return self.project(np.concatenate(heads, axis=-1), f"{name}.o_proj")

    def states(self):
        """What enters each layer, and what leaves the last."""
        x, w = self.x, self.weights
        yield x
        for layer in range(self.text.num_layers):
            name = f"decoder.layers.{layer}"
            x = x + self.attention(rms_norm(x, w[f"{name}.input_norm.weight"]), layer)
            y = rms_norm(x, w[f"{name}.post_attention_norm.weight"])
            gate = self.project(y, f"{name}.mlp.gate_proj")
            x = x + self.project(
                gate / (1 + np.exp(-gate)) * self.project(y, f"{name}.mlp.up_proj"), f"{name}.mlp.down_proj"
            )
            yield x

    def loss(self):
        *_, x = self.states()
        w = self.weights
        scores = rms_norm(x, w["decoder.norm.weight"]) @ w["decoder.head.weight"].T
        at = np.flatnonzero(self.example.loss_mask)
        right = scores[at - 1, self.example.prompt.ids[0, at]]
        return (np.log(np.exp(scores[at - 1]).sum(axis=-1)) - right).sum()

    def gradient(self, name, most=12):
        """Indices of some entries of a tensor, and the central differences along them."""
        tensor = self.weights[name].reshape(-1)
        chosen = np.random.default_rng(2).permutation(tensor.size)[:most]
        slopes = []
        for index in chosen:
            before = tensor[index]
            values = []
            for sign in (1, -1):
                tensor[index] = before + sign * STEP
                values.append(self.loss())
            tensor[index] = before
            slopes.append((values[0] - values[1]) / (2 * STEP))
        return chosen, np.array(slopes)


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_against_float64_differences(kind):
    lmm = model(kind)
    example = make_example(lmm, read_messages(ROW, lmm.config.image), "")
    reference = Reference(lmm, example)
    batch = collate([example])
    value, grads = nn.value_and_grad(lmm, lambda m: loss(m, batch)[0])(lmm)
    _, again = nn.value_and_grad(lmm, lambda m: loss(m, batch, checkpoint=True)[0])(lmm)
    assert abs(float(value) / reference.loss() - 1) < 1e-6
    trained, recomputed = dict(tree_flatten(grads)), dict(tree_flatten(again))
    assert len(trained) == 3 * 5 + len(MODULES) * (2 if kind == "lora" else 3)
    for name, kept in trained.items():
        chosen, slopes = reference.gradient(name)
        assert np.linalg.norm(slopes) > 1e-6, name
        for grad in (kept, recomputed[name]):
            found = np.array(grad, np.float64).reshape(-1)[chosen]
            assert np.linalg.norm(found - slopes) <= 1e-4 * np.linalg.norm(slopes), name
