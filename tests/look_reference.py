"""Attention as on paper: a decoder in NumPy, float64, that keeps every row's weights."""

from __future__ import annotations

import mlx.core as mx
import numpy as np


def attention_rows(lmm, prompt, answer, *, gated):
    """Last rows (layers, heads, keys) of every layer's attention, after `answer` (ids) was written to the prompt."""
    text, gate = lmm.config.text, lmm.config.gate
    weights = {name: np.array(x.astype(mx.float32)).astype(np.float64) for name, x in lmm.named_weights().items()}
    x = np.array(lmm.embed(prompt, 0, len(prompt))[0].astype(mx.float32))[0].astype(np.float64)
    x = np.concatenate([x, weights["decoder.embed.weight"][answer].reshape(-1, x.shape[1])])
    tokens = prompt.token_map
    later = tokens.next_position + np.arange(len(answer))
    positions = np.hstack([tokens.positions, np.tile(later, (3, 1))])
    visual = np.concatenate([tokens.visual, np.zeros(len(answer), bool)])
    width, heads, groups = text.head_dim, text.num_heads, text.num_kv_heads
    rates = text.rope.theta ** (-np.arange(0, width, 2) / width)
    angles = positions[np.repeat(np.arange(3), text.rope.sections)].T * rates
    causal = np.tril(np.ones((len(x), len(x)), bool))
    rows = []
    for layer in range(text.num_layers):
        own = {
            name.removeprefix(f"decoder.layers.{layer}."): w
            for name, w in weights.items()
            if name.startswith(f"decoder.layers.{layer}.")
        }
        normed = norm(x, own["input_norm.weight"], text.norm_eps)
        q, k, v = (
            split(normed @ own[f"attention.{n}_proj.weight"].T + own[f"attention.{n}_proj.bias"], width) for n in "qkv"
        )
        scores = np.empty((heads, len(x), len(x)))
        for head in range(heads):
            group = head // (heads // groups)
            scores[head] = turn(q[head], angles) @ turn(k[group], angles).T / np.sqrt(width)
            if gated and group in gate.groups(groups):
                place = gate.groups(groups).index(group)
                slot = place * (heads // groups) + head % (heads // groups)
                bias = pair_bias(q[head], k[group], own, slot, place, gate)
                scores[head] += np.where(visual, bias, 0.0)
        scores = np.where(causal, scores, -np.inf)
        alpha = np.exp(scores - scores.max(axis=-1, keepdims=True))
        alpha /= alpha.sum(axis=-1, keepdims=True)
        rows.append(alpha[:, -1])
        mixed = np.concatenate([alpha[h] @ v[h // (heads // groups)] for h in range(heads)], axis=1)
        x = x + mixed @ own["attention.o_proj.weight"].T
        normed = norm(x, own["post_attention_norm.weight"], text.norm_eps)
        up, opened = (normed @ own[f"mlp.{n}_proj.weight"].T for n in ("up", "gate"))
        x = x + (up * opened / (1 + np.exp(-opened))) @ own["mlp.down_proj.weight"].T
    return np.stack(rows)


def pair_bias(q, k, own, head, group, gate):
    """tanh-squashed pair term of one head, (L, L): the formula of the gate's docstring, term by term."""
    q, k = (z / np.sqrt((z**2).mean(axis=-1, keepdims=True) + 1e-6) for z in (q, k))
    pair = (q @ own["attention.gate.U"][head].T) @ (k @ own["attention.gate.W"][group].T).T / np.sqrt(gate.rank)
    single = (q @ own["attention.gate.a"][head])[:, None] + k @ own["attention.gate.c"][group]
    return gate.limit * np.tanh((pair + single + own["attention.gate.beta"][head]) / gate.limit)


def norm(x, weight, eps):
    return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps) * weight


def split(x, width):
    return x.reshape(len(x), -1, width).swapaxes(0, 1)


def turn(x, angles):
    first, second = np.split(x, 2, axis=-1)
    return np.concatenate(
        [first * np.cos(angles) - second * np.sin(angles), second * np.cos(angles) + first * np.sin(angles)], axis=-1
    )
