"""Experts: each token's sum over its chosen MLPs, computed one by one in float64."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten
from support import ask, picture, relative, tiny_config, tiny_model

from rave_mlx.config import ExpertsConfig, GateConfig, TextConfig
from rave_mlx.errors import ConfigError
from rave_mlx.generation.decode import step
from rave_mlx.generation.prefill import prefill
from rave_mlx.models.experts import Experts
from rave_mlx.models.mlp import MLP
from rave_mlx.models.rope import Consecutive
from rave_mlx.train.activation_checkpointing import full_checkpointing, selective_checkpointing

HIDDEN, MANY = 24, 40


def part(**fields):
    """A part with large weights, and what they are, in float64."""
    experts = ExpertsConfig(**{"count": 6, "chosen": 3, "intermediate_size": 16, **fields})
    made = Experts(TextConfig.from_dict({**tiny_config().text.to_dict(), "hidden_size": HIDDEN}), experts)
    rng = np.random.default_rng(1)
    drawn = {n: rng.normal(0, 2 * x.shape[-1] ** -0.5, x.shape) for n, x in tree_flatten(made.parameters())}
    made.load_weights([(n, mx.array(x.astype(np.float32))) for n, x in drawn.items()], strict=True)
    return made, {n: x.astype(np.float32).astype(np.float64) for n, x in drawn.items()}


def mlp(w, stem, x, index=...):
    gate, up, down = (w[f"{stem}.{name}_proj.weight"][index] for name in ("gate", "up", "down"))
    gate = gate @ x
    return down @ (gate / (1 + np.exp(-gate)) * (up @ x))


def expected(w, x, fields):
    """Of one token, in float64."""
    scores = np.exp(w["router.weight"] @ x)
    scores /= scores.sum()
    groups = scores.reshape(fields.get("groups", 1), -1).copy()
    groups[np.argsort(groups.max(axis=1))[: -fields.get("chosen_groups", 1)]] = 0
    best = np.argsort(groups.ravel())[-fields.get("chosen", 3) :]
    total = scores[best].sum() if fields.get("normalize", True) else 1.0
    out = fields.get("scale", 1.0) * sum(scores[e] / total * mlp(w, "experts", x, e) for e in best)
    if "shared_size" in fields:
        gate = 1 / (1 + np.exp(-(w["shared_gate.weight"] @ x))) if fields.get("shared_gate", True) else 1.0
        out = out + gate * mlp(w, "shared", x)
    return out


@pytest.mark.parametrize("length", [1, MANY])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"normalize": False, "shared_size": 20},
        {"chosen": 1},
        {"chosen": 6},
        {"normalize": False, "shared_size": 20, "shared_gate": False, "scale": 2.5},
        {"groups": 3, "chosen_groups": 2, "scale": 0.5},
        {"groups": 3, "chosen_groups": 1, "chosen": 2, "normalize": False},
    ],
)
def test_the_sum_over_the_chosen_experts(fields, length):
    """Of few tokens as they come, of many in the order of the experts."""
    made, w = part(**fields)
    x = np.random.default_rng(2).normal(size=(2, length, HIDDEN)).astype(np.float32)
    right = [[expected(w, token.astype(np.float64), fields) for token in row] for row in x]
    assert relative(made(mx.array(x)), np.array(right)) < 2e-6


def test_every_weight_has_a_gradient():
    """The router's comes through the shares; that of an expert nobody chose is zero."""
    made, _ = part(chosen=2, shared_size=8)
    x = mx.random.normal((1, 1, HIDDEN), key=mx.random.key(0))
    _, found = nn.value_and_grad(made, lambda x: (made(x) ** 2).sum())(x)
    found = {n: np.array(g) for n, g in tree_flatten(found)}
    assert all(np.abs(g).max() > 0 for g in found.values())
    chosen = set(np.array(made.route(x)[0]).flat)
    used = {i for i, g in enumerate(found["experts.down_proj.weight"]) if np.abs(g).max() > 0}
    assert used == chosen
    weight = made.router.weight
    at, by = (int(max(chosen)), 5), 1e-2

    def loss(shift):
        change = np.zeros(weight.shape, np.float32)
        change[at] = shift
        made.router.weight = weight + mx.array(change)
        return float((made(x) ** 2).sum())

    assert abs((loss(by) - loss(-by)) / (2 * by) - found["router.weight"][at]) < 0.02 * abs(found["router.weight"][at])


def experts(**fields):
    return ExpertsConfig(**{"count": 5, "chosen": 2, "intermediate_size": 24, **fields})


def test_layers_without_experts_have_an_mlp():
    lmm = tiny_model(num_layers=3, experts=experts(layers=(0, 2)))
    assert [type(layer.mlp) for layer in lmm.decoder.layers] == [Experts, MLP, Experts]


@pytest.mark.parametrize("shared_size", [None, 16])
def test_chunks_decode_and_joined_layers(shared_size):
    lmm = tiny_model(GateConfig(), experts=experts(shared_size=shared_size))
    prompt = lmm.prepare([ask("What?", picture())])
    whole = lmm.logits(prompt)[:, -1]
    for chunk in (1, 7):
        assert relative(prefill(lmm, prompt, lmm.make_cache(), chunk=chunk), whole) < 1e-5
    lmm.decoder.join()
    cache = lmm.make_cache()
    assert relative(prefill(lmm, prompt, cache), whole) < 1e-5
    cache.trim(len(prompt) - 1)
    last = mx.array(prompt.ids[0, -1:])
    assert relative(step(lmm, cache, last, prompt.token_map.next_position - 1), whole) < 1e-5


@pytest.mark.parametrize("call", [full_checkpointing, selective_checkpointing])
def test_checkpointed_gradients(call):
    lmm = tiny_model(experts=experts())
    decoder, x = lmm.decoder, mx.random.normal((1, 9, lmm.config.text.hidden_size), key=mx.random.key(3))

    def loss(call):
        return nn.value_and_grad(
            decoder, lambda x: (decoder.hidden(x, Consecutive((0,), 9), None, call=call) ** 2).sum()
        )(x)

    (plain, right), (value, found) = loss(None), loss(call)
    assert relative(value, plain) < 1e-6
    for (name, a), (_, b) in zip(tree_flatten(found), tree_flatten(right), strict=True):
        assert name.startswith("embed") or relative(a, b) < 1e-5, name


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"chosen": 6}, "a token cannot pass through 6 of 5 experts"),
        ({"chosen": 0}, "ExpertsConfig.chosen must be at least 1, found 0"),
        ({"shared_size": 0}, "ExpertsConfig.shared_size must be at least 1, found 0"),
        ({"groups": 2}, "1 of 2 groups cannot be chosen of 5 experts"),
        ({"count": 6, "groups": 3, "chosen": 3}, "1 of 3 groups have fewer than 3 experts"),
        ({"layers": (0, 7)}, r"text.experts.layers \[7\]"),
        ({"layers": ()}, r"text.experts.layers \[\]"),
    ],
)
def test_what_makes_no_layer_is_refused(fields, error):
    with pytest.raises(ConfigError, match=error):
        tiny_config(experts=experts(**fields))
