"""The linear-memory gradient of gated attention against autograd of the explicit form in float64."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
import support
from mlx.utils import tree_flatten
from support import relative

from rave_mlx import backend
from rave_mlx.attention import GateTerms, attend, decoder_mask
from rave_mlx.attention.gate import PairGate
from rave_mlx.attention.gradient import differentiable, train
from rave_mlx.config import GateConfig

backend.prepare()
NAMES = ("q", "k", "v", "u", "w")
SCALE = 0.3
LN2 = 0.6931471805599453


def draw(seed, *, batch=2, heads=6, groups=3, lq=37, lk=53, width=16, rank=8, gated=(0, 2), squash="tanh", gain=1.0,
         dtype=mx.float32):  # fmt: skip
    """q, k, v and gate terms; keys 5 to 29 are visual."""
    rng = np.random.default_rng(seed)

    def normal(*shape, by=1.0):
        return mx.array(rng.normal(0, by, shape).astype(np.float32)).astype(dtype)

    visual = mx.array(((np.arange(lk) >= 5) & (np.arange(lk) < 30)).astype(np.float32)).astype(dtype)
    terms = GateTerms(
        normal(batch, len(gated) * heads // groups, lq, rank, by=gain),
        normal(batch, len(gated), lk, rank) * visual[:, None],
        tuple(gated), (5, min(30, lk)), squash, 3.0,
    )  # fmt: skip
    return normal(batch, heads, lq, width), normal(batch, groups, lk, width), normal(batch, groups, lk, width), terms


def explicit(q, k, v, u, w, *, like: GateTerms, mask):
    """The definition with every score in memory, in float64 (MLX's CPU arrays), differentiable by MLX. Returns
    output and log-sum-exp."""
    ratio = q.shape[1] // k.shape[1]
    scores = SCALE * q @ mx.repeat(k, ratio, 1).swapaxes(-1, -2)
    x = u @ mx.repeat(w, ratio, 1).swapaxes(-1, -2)
    bias = {
        "identity": lambda: x,
        "tanh": lambda: like.limit * mx.tanh(x / like.limit),
        "suppress": lambda: LN2 - mx.logaddexp(mx.zeros_like(x), -x),
        "boost": lambda: mx.logaddexp(mx.zeros_like(x), x) - LN2,
    }[like.squash]()
    rows = [like.groups.index(h // ratio) * ratio + h % ratio if h // ratio in like.groups else None
            for h in range(q.shape[1])]  # fmt: skip
    none = mx.zeros_like(bias[:, 0])
    scores = scores + mx.stack([none if r is None else bias[:, r] for r in rows], axis=1)
    if mask is not None:
        scores = mx.where(mask, scores, -1e30)
    return mx.softmax(scores, axis=-1) @ mx.repeat(v, ratio, 1), mx.logsumexp(scores, axis=-1)


def boolean(mask, lq, lk):
    if isinstance(mask, str):
        return mx.array(np.arange(lq)[:, None] + lk - lq >= np.arange(lk))
    return mask


def gradients(function, arrays, weight):
    return mx.grad(lambda *a: mx.sum(function(*a) * weight), tuple(range(5)))(*arrays)


def expected(q, k, v, terms, mask, weight):
    """Output and five gradients in float64; those of text keys' features outside the span are not defined."""
    with mx.stream(mx.cpu):
        arrays = [x.astype(mx.float32).astype(mx.float64) for x in (q, k, v, terms.u, terms.v)]
        allowed = boolean(mask, q.shape[2], k.shape[2])
        weight = weight.astype(mx.float32).astype(mx.float64)
        out = explicit(*arrays, like=terms, mask=allowed)[0]
        grads = gradients(lambda *a: explicit(*a, like=terms, mask=allowed)[0], arrays, weight)
        mx.eval(out, grads)
    return out, grads


def trained(terms, mask, **options):
    def run(q, k, v, u, w):
        return train(q, k, v, scale=SCALE, mask=mask, gate=replace(terms, u=u, v=w), **options)

    return run


def compare(q, k, v, terms, mask, limit, **options):
    weight = mx.array(np.random.default_rng(9).normal(size=q.shape).astype(np.float32)).astype(q.dtype)
    out, grads = expected(q, k, v, terms, mask, weight)
    run = trained(terms, mask, **options)
    assert relative(run(q, k, v, terms.u, terms.v).astype(mx.float32), out) < limit
    low, high = terms.span
    found = list(gradients(run, (q, k, v, terms.u, terms.v), weight))
    found[4], grads = found[4][:, :, low:high], [*grads[:4], grads[4][:, :, low:high]]
    for name, mine, right in zip(NAMES, found, grads, strict=True):
        assert relative(mine.astype(mx.float32), np.array(right)) < limit, name


@pytest.mark.parametrize("squash", ["identity", "tanh", "suppress", "boost"])
@pytest.mark.parametrize("mask", [None, "causal"])
def test_gradients_match_float64(squash, mask):
    compare(*draw(0, squash=squash), mask, 2e-6, block=16)


@pytest.mark.parametrize(("dtype", "limit"), [(mx.float16, 5e-4), (mx.bfloat16, 4e-3)], ids=["float16", "bfloat16"])
def test_half_precision(dtype, limit):
    compare(*draw(1, dtype=dtype), "causal", limit, block=16)


@pytest.mark.parametrize("gated", [(0,), (2, 0), (1, 0, 2)], ids=str)
def test_any_gated_groups_in_any_order(gated):
    compare(*draw(2, gated=gated), "causal", 2e-6, block=16)


@pytest.mark.parametrize(("lq", "lk"), [(1, 40), (7, 7), (40, 40), (129, 129), (5, 300)])
def test_lengths_and_ragged_blocks(lq, lk):
    q, k, v, terms = draw(3, lq=lq, lk=lk)
    compare(q, k, v, terms, "causal", 2e-6, block=32)


def test_work_that_is_dealt_out_over_streams():
    compare(*draw(4, batch=1, heads=8, groups=4, lq=400, lk=420, gated=(0, 1, 3)), "causal", 3e-6, block=128)


@pytest.mark.parametrize("kind", ["padding", "per head", "one row"])
def test_boolean_masks(kind):
    q, k, v, terms = draw(5)
    rng = np.random.default_rng(0)
    if kind == "padding":
        mask = decoder_mask(37, 53, valid=mx.array(np.arange(53) >= np.array([[0], [21]])))
    else:
        shape = (2, 6, 37, 53) if kind == "per head" else (2, 1, 1, 53)
        mask = mx.array((rng.random(shape) < 0.6) | (np.arange(53) == 7))
    compare(q, k, v, terms, mask, 2e-6, block=16)


def test_a_query_without_keys_gives_zero_and_has_no_gradient():
    q, k, v, terms = draw(6)
    mask = mx.array(np.arange(37)[:, None] >= 4) & mx.ones((37, 53), mx.bool_)
    run = trained(terms, mask, block=16)
    out = run(q, k, v, terms.u, terms.v)
    assert mx.all(out[:, :, :4] == 0).item()
    grads = gradients(run, (q, k, v, terms.u, terms.v), mx.ones_like(out))
    assert all(mx.all(mx.isfinite(g)).item() for g in grads)
    assert mx.all(grads[0][:, :, :4] == 0).item()


def test_saturated_gates_have_finite_gradients():
    for squash in ("identity", "tanh", "suppress", "boost"):
        q, k, v, terms = draw(7, squash=squash, gain=200.0)
        run = trained(terms, "causal", block=16)
        grads = gradients(run, (q, k, v, terms.u, terms.v), mx.ones_like(q))
        assert all(mx.all(mx.isfinite(g)).item() for g in grads), squash


def test_without_a_gate():
    q, k, v, terms = draw(8)
    off = replace(terms, v=mx.zeros_like(terms.v))
    weight = mx.array(np.random.default_rng(9).normal(size=q.shape).astype(np.float32))
    _, right = expected(q, k, v, off, "causal", weight)
    loss = lambda q, k, v: mx.sum(train(q, k, v, scale=SCALE, mask="causal", block=16) * weight)
    for found, r in zip(mx.grad(loss, (0, 1, 2))(q, k, v), right[:3], strict=True):
        assert relative(found, np.array(r)) < 2e-6


def test_the_gradient_of_the_log_sum_exp():
    q, k, v, terms = draw(10)
    arrays = (q, k, v, terms.u, terms.v)

    def forward(q, k, v, mask, gate):
        from rave_mlx.attention.gradient import _forward

        return _forward(q, k, v, SCALE, mask, gate, 16)

    def lse(q, k, v, u, w):
        gate = replace(terms, u=u, v=w)
        return differentiable(forward, q, k, v, scale=SCALE, mask="causal", gate=gate, block=16)[1]

    found = mx.grad(lambda *a: mx.sum(mx.sin(lse(*a))), (0, 1, 3))(*arrays)
    with mx.stream(mx.cpu):
        wide = [x.astype(mx.float64) for x in arrays]
        allowed = boolean("causal", 37, 53)
        right = mx.grad(lambda *a: mx.sum(mx.sin(explicit(*a, like=terms, mask=allowed)[1])), (0, 1, 3))(*wide)
        mx.eval(right)
    for f, r in zip(found, right, strict=True):
        assert relative(f, np.array(r)) < 5e-6


TEXT = support.TEXT  # four heads, two KV heads, head width 16


class Layer(nn.Module):
    """Gated attention from random projections, so that every gate parameter has a gradient."""

    def __init__(self, path):
        super().__init__()
        self.gate = PairGate(GateConfig(rank=6, kv_groups=0.5), TEXT)
        self.q_proj = nn.Linear(48, 64)
        self.k_proj = nn.Linear(48, 32)
        self._path = path

    def __call__(self, x):
        batch, length, _ = x.shape
        q = self.q_proj(x).reshape(batch, length, 4, 16).swapaxes(1, 2)
        k = self.k_proj(x).reshape(batch, length, 2, 16).swapaxes(1, 2)
        visual = mx.broadcast_to((mx.arange(length) >= 3) & (mx.arange(length) < 20), (batch, length))
        terms = self.gate.terms(self.gate.query_features(q), self.gate.key_features(k, visual), (3, 20))
        return attend(q, k, k, scale=16**-0.5, mask="causal", gate=terms, path=self._path)


def layers():
    rng = np.random.default_rng(0)
    made = [Layer("reference"), Layer("train")]
    weights = [(n, mx.array(rng.normal(0, 0.4, p.shape).astype(np.float32)))
               for n, p in tree_flatten(made[0].parameters())]  # fmt: skip
    for layer in made:
        layer.load_weights(weights)
    return made, mx.array(rng.normal(size=(2, 33, 48)).astype(np.float32))


def loss(layer, x):
    return mx.mean(mx.square(layer(x)))


@pytest.mark.parametrize("how", ["plain", "compiled", "checkpointed"])
def test_every_gate_parameter_gets_its_gradient(how):
    (right, ours), x = layers()
    wanted = dict(tree_flatten(nn.value_and_grad(right, loss)(right, x)[1]))
    function = loss
    if how == "checkpointed":
        run = nn.utils.checkpoint(ours)
        function = lambda layer, x: mx.mean(mx.square(run(x)))
    step = nn.value_and_grad(ours, function)
    found = mx.compile(lambda x: step(ours, x)[1])(x) if how == "compiled" else step(ours, x)[1]
    found = dict(tree_flatten(found))
    assert {n.split(".")[-1] for n in found if n.startswith("gate.")} == {"U", "W", "a", "c", "beta"}
    for name, value in wanted.items():
        assert np.linalg.norm(np.array(value)) > 1e-4, name
        assert relative(found[name], value) < 5e-6, name


def test_memory_grows_with_the_length_and_not_with_its_square():
    """Peak memory of one gradient above its inputs; the explicit form keeps every score."""

    def peak(path, length):
        mx.random.seed(0)
        q, k = mx.random.normal((1, 4, length, 32)), mx.random.normal((1, 2, length, 32))
        u, w = mx.random.normal((1, 2, length, 8)), mx.random.normal((1, 1, length, 8))
        gate = GateTerms(u, w, (0,), (0, length // 2), "tanh", 4.0)
        mx.eval(q, k, u, w)
        mx.clear_cache()
        mx.reset_peak_memory()
        before = mx.get_active_memory()
        run = lambda q, k: mx.sum(attend(q, k, k, scale=0.2, mask="causal", gate=gate, path=path))
        mx.eval(mx.grad(run, (0, 1))(q, k))
        return mx.get_peak_memory() - before

    ours = [peak("train", n) for n in (1024, 2048)]
    assert ours[1] < 2.3 * ours[0]
    assert peak("reference", 2048) > 5 * ours[1]
