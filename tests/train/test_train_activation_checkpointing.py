"""Layers that keep less for their gradient: the same numbers, less memory."""

from __future__ import annotations

import gc

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from mlx.utils import tree_flatten, tree_map
from support import tiny_model

from rave_mlx import backend
from rave_mlx.checkpoint import adapters
from rave_mlx.checkpoint.adapters import AdapterConfig
from rave_mlx.config import GateConfig
from rave_mlx.train.activation_checkpointing import full_checkpointing, recomputed, selective_checkpointing
from rave_mlx.train.parameters import projections

GATE = GateConfig(rank=3)
LENGTH = 96
"""Tokens, enough of them for rows to be dealt out over the streams."""


@pytest.fixture(autouse=True)
def one_blas_thread_a_lane():
    with backend.row_parallel():
        yield


def plain(index, layer, x, step):
    return layer(x, step, None)


def model(kind, dropout=0.0, gate=GATE, **text):
    """A tiny model of which updates of this kind, or the whole decoder, and the gates train."""
    lmm = tiny_model(gate, **text)
    lmm.freeze()
    if kind == "full":
        lmm.decoder.unfreeze()
    else:
        adapters.attach(lmm, AdapterConfig(2, 2.0, projections(lmm, ("all",)), kind=kind, dropout=dropout))
        rng = np.random.default_rng(3)
        lmm.load_weights(
            [(n, mx.array(rng.normal(0, 0.2, x.shape), mx.float32)) for n, x in lmm.named_weights().items()
             if n.endswith(("lora_a", "lora_b"))],
            strict=False,
        )  # fmt: skip
        lmm.unfreeze(keys=["lora_a", "lora_b", "m", "U", "W", "a", "c", "beta"], strict=False)
    lmm.train()
    return lmm


def objective(lmm, call, length=LENGTH, batch=2):
    """A scalar of the hidden states of random embeddings, a third of them visual."""
    rng = np.random.default_rng(4)
    x = mx.array(rng.normal(size=(batch, length, lmm.config.text.hidden_size)), mx.float32)
    weights = mx.array(rng.normal(size=x.shape), mx.float32)
    positions = mx.broadcast_to(mx.arange(length), (batch, 3, length))
    visual = mx.broadcast_to(mx.arange(length) % 3 == 1, (batch, length))

    def function(lmm):
        hidden = lmm.decoder.hidden(
            x, positions, visual, gate_span=(0, length) if lmm.decoder.gates else None, path="train", call=call
        )
        return mx.sum(hidden * weights)

    return function


@pytest.mark.parametrize("call", [selective_checkpointing, full_checkpointing])
@pytest.mark.parametrize(
    ("kind", "text"), [("lora", {}), ("dora", {}), ("full", {}), ("lora", {"qk_norm": True})]
)  # fmt: skip
def test_gradients_are_those_of_the_layers_as_they_are(call, kind, text):
    lmm = model(kind, **text)
    (value, grads), (right, others) = (nn.value_and_grad(lmm, objective(lmm, c))(lmm) for c in (call, plain))
    grads, others = dict(tree_flatten(grads)), dict(tree_flatten(others))
    assert abs(float(value) - float(right)) < 1e-5 * abs(float(right))
    assert grads.keys() == others.keys() == dict(tree_flatten(lmm.trainable_parameters())).keys()
    for name, expected in others.items():
        furthest = float(mx.abs(grads[name] - expected).max())
        assert furthest <= 1e-4 * float(mx.abs(expected).max()) + 1e-5, name


def test_dropout_leaves_out_the_same_both_times():
    """The slope of the loss along its gradient is the gradient's length squared."""
    lmm = model("lora", dropout=0.4)
    function = objective(lmm, selective_checkpointing)

    def run(parameters):
        lmm.update(parameters)
        mx.random.seed(5)
        return function(lmm)

    start = lmm.trainable_parameters()
    value, grads = mx.value_and_grad(run)(start)
    lmm.eval()
    assert abs(float(function(lmm)) / float(value) - 1) > 1e-3, "dropout does something"
    lmm.train()
    size = sum(float(mx.sum(mx.square(g))) for _, g in tree_flatten(grads))
    step = 0.003 / size**0.5
    moved = [float(run(tree_map(lambda p, g, s=s: p + s * step * g, start, grads))) for s in (1, -1)]
    assert abs((moved[0] - moved[1]) / (2 * step) / size - 1) < 0.02


def test_what_is_left_out_takes_no_memory(monkeypatch):
    # With rows cut over streams the peak depends on which thread comes first.
    monkeypatch.setattr(backend, "streams", lambda: [])
    lmm = model("lora", gate=None, intermediate_size=512, num_layers=8)
    length = 512

    def peak(call):
        step = nn.value_and_grad(lmm, objective(lmm, call, length))
        mx.eval(step(lmm))
        gc.collect()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        mx.eval(step(lmm))
        return mx.get_peak_memory() - before

    kept, selective, full = peak(plain), peak(selective_checkpointing), peak(full_checkpointing)
    assert selective < 0.92 * kept and full < 0.6 * kept, (kept, selective, full)


def test_modules_without_trained_parameters_and_single_inputs():
    layer = nn.Linear(8, 8)
    layer.freeze()
    x = mx.random.normal((5, 8))
    found = mx.grad(lambda x: recomputed([layer], x, function=lambda x: [mx.square(layer(x))])[0].sum())(x)
    assert mx.allclose(found, 2 * layer(x) @ layer.weight, atol=1e-5)
