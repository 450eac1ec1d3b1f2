"""What must always hold for gated attention (the six invariants of the gate's design), with numbers."""

from __future__ import annotations

import itertools

import mlx.core as mx
import numpy as np
import pytest
from support import ask, picture, relative, rounding, tiny_model

from rave_mlx import backend
from rave_mlx.attention import GateTerms, attend, decoder_mask
from rave_mlx.attention.chunked import chunked
from rave_mlx.attention.gate import PairGate, squash
from rave_mlx.config import GateConfig, RopeConfig, TextConfig
from rave_mlx.generation.decode import step
from rave_mlx.generation.prefill import prefill

backend.prepare()
SQUASHES = ("tanh", "identity", "suppress", "boost")
BOUND = rounding(16, 16, 31, 31)
"""Of one call: a score over 16 channels, its bias over 16 features, softmax and values over 31 keys."""
PATHS = ("reference", "chunked", "blocks of 5", "fused blocks", "fold")


def run(path, *arrays, **options):
    if path == "blocks of 5":
        return chunked(*arrays, block=5, **options)
    if path == "fused blocks":
        return chunked(*arrays, block=7, fused=True, **options)
    return attend(*arrays, path=path, **options)


def draw(seed, *, batch=2, heads=4, groups=2, lq=19, lk=31, width=16, rank=14, gated=(0,), squash="tanh", scale=1.0,
         span=(3, 22)):  # fmt: skip
    """q, k, v and gate terms whose keys are visual inside `span`."""
    rng = np.random.default_rng(seed)

    def normal(*shape, by=1.0):
        return mx.array(rng.normal(0, by, shape).astype(np.float32))

    visual = (np.arange(lk) >= span[0]) & (np.arange(lk) < span[1])
    terms = GateTerms(
        u=normal(batch, len(gated) * heads // groups, lq, rank + 2, by=scale),
        v=normal(batch, len(gated), lk, rank + 2, by=scale) * mx.array(visual)[None, None, :, None],
        groups=tuple(gated), span=span, squash=squash, limit=4.0,
    )  # fmt: skip
    return normal(batch, heads, lq, width), normal(batch, groups, lk, width), normal(batch, groups, lk, width), terms


def float64(q, k, v, gate=None, *, scale, allowed=None):
    """The definition, in NumPy and float64, one head at a time."""
    q, k, v = (np.array(x.astype(mx.float32), dtype=np.float64) for x in (q, k, v))
    ratio = q.shape[1] // k.shape[1]
    out = np.zeros(q.shape[:-1] + v.shape[-1:])
    for b, h in itertools.product(range(q.shape[0]), range(q.shape[1])):
        s = scale * q[b, h] @ k[b, h // ratio].T
        if gate is not None and h // ratio in gate.groups:
            row = gate.groups.index(h // ratio)
            x = np.array(gate.u[b, row * ratio + h % ratio], np.float64) @ np.array(gate.v[b, row], np.float64).T
            s = s + {
                "tanh": lambda x: gate.limit * np.tanh(x / gate.limit),
                "identity": lambda x: x,
                "suppress": lambda x: np.log(2) - np.logaddexp(-x, 0),
                "boost": lambda x: np.logaddexp(x, 0) - np.log(2),
            }[gate.squash](x)
        if allowed is not None:
            s = np.where(np.broadcast_to(allowed, (q.shape[0], 1, *s.shape))[b, 0], s, -np.inf)
        p = np.exp(s - s.max(-1, keepdims=True))
        out[b, h] = p / p.sum(-1, keepdims=True) @ v[b, h // ratio]
    return out


def lower_right(lq, lk):
    return np.arange(lk - lq, lk)[:, None] >= np.arange(lk)


# 1 and 2: nothing to add, nothing changes


def conversation(images=1):
    return [ask("What is the total, and the date?", *(picture(96 + 16 * i, 64, i) for i in range(images)))]


def test_a_zero_gate_is_the_base_model():
    base, gated = tiny_model(), tiny_model(GateConfig(rank=6, kv_groups=1.0), gate_scale=0.0)
    prompt = base.prepare(conversation())
    expected = np.array(base.logits(prompt))
    assert not gated.make_cache().gated
    assert (np.array(gated.logits(prompt)) == expected).all()
    for path in ("chunked", "reference"):
        assert relative(gated.logits(prompt, gate=True, path=path), expected) <= 1e-5


def test_an_active_gate_changes_answers_about_images_but_not_text_only_ones():
    base, gated = tiny_model(), tiny_model(GateConfig(rank=6, kv_groups=1.0))
    with_image, text = base.prepare(conversation()), base.prepare([{"role": "user", "content": "What is 1 + 1?"}])
    assert relative(gated.logits(with_image), base.logits(with_image)) > 1e-2
    assert (np.array(gated.logits(text, gate=True)) == np.array(base.logits(text))).all()


# 3: every path computes the definition


@pytest.mark.parametrize("kind", SQUASHES)
@pytest.mark.parametrize("path", PATHS)
def test_paths_equal_float64(path, kind):
    if path == "fold" and kind != "identity":
        with pytest.raises(ValueError, match="identity"):
            q, k, v, gate = draw(0, squash=kind)
            run(path, q, k, v, scale=0.25, gate=gate)
        return
    cases = itertools.product(((0,), (1,), (0, 1), (1, 0)), ("causal", None, "boolean"), ((3, 22), (0, 31), (30, 31)))
    for seed, (gated, mask, span) in enumerate(cases):
        q, k, v, gate = draw(seed, gated=gated, squash=kind, span=span)
        allowed = None if mask is None else lower_right(19, 31)
        given = mask
        if mask == "boolean":
            valid = np.arange(31) >= np.array([[0], [9]])
            given = decoder_mask(19, 31, valid=mx.array(valid))
            allowed = (lower_right(19, 31)[None] & valid[:, None])[:, None]
        found = run(path, q, k, v, scale=0.25, mask=given, gate=gate)
        assert relative(found, float64(q, k, v, gate, scale=0.25, allowed=allowed)) <= BOUND


@pytest.mark.parametrize(("dtype", "bound"), [(mx.float16, 5e-4), (mx.bfloat16, 4e-3)])
@pytest.mark.parametrize("path", ["chunked", "fused blocks", "reference"])
def test_half_precision_stays_within_its_rounding(path, dtype, bound):
    q, k, v, gate = draw(5)
    q, k, v = (x.astype(dtype) for x in (q, k, v))
    found = run(path, q, k, v, scale=0.25, mask="causal", gate=gate)
    assert found.dtype == dtype
    expected = float64(q, k, v, gate, scale=0.25, allowed=lower_right(19, 31))
    assert relative(found.astype(mx.float32), expected) <= bound


@pytest.mark.parametrize("kind", SQUASHES)
def test_gradients_of_all_inputs_agree_between_paths(kind):
    q, k, v, gate = draw(7, gated=(1,), squash=kind)
    weight = mx.array(np.random.default_rng(1).normal(size=q.shape).astype(np.float32))

    def gradients(path):
        def loss(q, k, v, u, g):
            terms = GateTerms(u, g, gate.groups, gate.span, gate.squash, gate.limit)
            return (run(path, q, k, v, scale=0.25, mask="causal", gate=terms) * weight).sum()

        return mx.grad(loss, argnums=(0, 1, 2, 3, 4))(q, k, v, gate.u, gate.v)

    expected = gradients("reference")
    for path in ("chunked", "blocks of 5", *(["fold"] if kind == "identity" else [])):
        for name, found, wanted in zip(["q", "k", "v", "u", "g"], gradients(path), expected, strict=True):
            # Outside the span v is 0 by definition, so its gradient there is never used.
            low, high = gate.span if name == "g" else (0, found.shape[2])
            assert relative(found[:, :, low:high], wanted[:, :, low:high]) <= 5e-6, (path, name)


def test_the_reference_gradient_is_the_numerical_one():
    q, k, v, gate = draw(3, batch=1, heads=2, groups=1, lq=3, lk=5, width=4, rank=2, span=(1, 4))
    loss = lambda u: (attend(q, k, v, scale=0.5, gate=GateTerms(u, gate.v, (0,), (1, 4)), path="reference") ** 2).sum()
    found = np.array(mx.grad(loss)(gate.u))
    u = np.array(gate.u, np.float64)
    for index in np.ndindex(u.shape):
        sides = []
        for sign in (1, -1):
            moved = u.copy()
            moved[index] += sign * 1e-5
            terms = GateTerms(moved, gate.v, (0,), (1, 4))
            sides.append((float64(q, k, v, terms, scale=0.5) ** 2).sum())
        assert found[index] == pytest.approx((sides[0] - sides[1]) / 2e-5, abs=2e-5)


@pytest.mark.parametrize("queries", [1, 2])
def test_features_are_the_formula(queries):
    """x_ij = (U q^)(W k^)/sqrt(r) + a q^ + c k^ + beta, entry by entry, for visual keys; 0 for text keys."""
    rng = np.random.default_rng(queries)
    text = TextConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_layers=1, num_heads=4, num_kv_heads=2,
                      head_dim=8, rope=RopeConfig(theta=10.0), max_positions=8)  # fmt: skip
    gate = PairGate(GateConfig(rank=3, kv_groups=(1,)), text)
    values = {n: rng.normal(size=p.shape) for n, p in gate.parameters().items()}
    gate.load_weights([(n, mx.array(x.astype(np.float32))) for n, x in values.items()])
    q, k = rng.normal(size=(1, 4, queries, 8)) * 7, rng.normal(size=(1, 2, 3, 8))
    visual = np.array([[True, False, True]])
    u = gate.query_features(mx.array(q.astype(np.float32)))
    v = gate.key_features(mx.array(k.astype(np.float32)), mx.array(visual))
    found = np.array(u) @ np.array(v).transpose(0, 1, 3, 2)
    unit = lambda x: x / np.sqrt((x**2).mean(-1, keepdims=True))
    kept = gate.query_features(mx.array(q.astype(np.float32)), gate.query_map())
    np.testing.assert_array_equal(np.array(u), np.array(kept))
    for h, i, j in itertools.product(range(2), range(queries), range(3)):
        qi, kj = unit(q[0, 2 + h, i]), unit(k[0, 1, j])
        pair = (values["U"][h] @ qi) @ (values["W"][0] @ kj) / np.sqrt(3)
        x = pair + values["a"][h] @ qi + values["c"][0] @ kj + values["beta"][h]
        assert found[0, h, i, j] == pytest.approx(x * visual[0, j], abs=1e-5)


def test_a_fresh_gate_does_nothing_and_can_learn():
    lmm = tiny_model(GateConfig(rank=4, kv_groups=1.0), gate_scale=0.0)
    fresh = PairGate(lmm.config.gate, lmm.config.text)
    assert fresh.is_inert
    assert np.array(fresh.U).std() == pytest.approx(16**-0.5, rel=0.2)
    q, k = (mx.random.normal((1, h, 5, 16)) for h in (4, 2))

    def loss(weights):
        fresh.update({"W": weights})
        terms = fresh.terms(fresh.query_features(q), fresh.key_features(k, mx.ones((1, 5), mx.bool_)), (0, 5))
        return (attend(q, k, k, scale=0.25, gate=terms) ** 2).sum()

    assert np.abs(np.array(mx.grad(loss)(mx.zeros_like(fresh.W)))).max() > 1e-4


# 4: chunks, decode, batches and grouped heads are bookkeeping only


@pytest.mark.parametrize(
    "gate", [None, GateConfig(rank=6, kv_groups=0.5), GateConfig(rank=6, kv_groups=1.0, layers=(1,))]
)
@pytest.mark.parametrize("chunk", [1, 7, 64, 10_000])
def test_prefill_in_chunks_and_decode_equal_one_pass(gate, chunk):
    lmm = tiny_model(gate)
    prompt = lmm.prepare(conversation(2))
    whole = np.array(lmm.logits(prompt))[0]
    cache = lmm.make_cache()
    assert relative(prefill(lmm, prompt, cache, chunk=chunk)[0], whole[-1]) <= 1e-5
    cache.trim(len(prompt) - 6)
    position = prompt.token_map.positions[0]
    for i in range(len(prompt) - 6, len(prompt)):
        logits = step(lmm, cache, mx.array(prompt.ids[0, i : i + 1]), int(position[i]))
        assert relative(logits[0], whole[i]) <= 1e-5


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16])
def test_features_are_cached_in_the_models_type(dtype):
    """Half precision, several layers: as far from float32 as the model's own rounding is.

    A product is summed in float32 and rounded once, so what counts is how many values in turn are rounded: about 12
    in a layer, of three in the vision tower and three in the decoder. Over many tokens, because how sharply a single
    one attends decides how far its own logits move.
    """
    bound, count = rounding(6 * 12, dtype=dtype), 32
    exact, lmm = (tiny_model(GateConfig(rank=6, kv_groups=1.0)) for _ in range(2))
    lmm.set_dtype(dtype)
    prompt = lmm.prepare(conversation(1))
    whole, rounded = (np.array(model.logits(prompt).astype(mx.float32))[0] for model in (exact, lmm))
    cache = lmm.make_cache()
    prefill(lmm, prompt, cache)
    assert {array.dtype for layer in cache.layers for array in layer.arrays} == {dtype}
    start, written = len(prompt) - count, []
    cache.trim(start)
    for i in range(start, len(prompt)):
        logits = step(lmm, cache, mx.array(prompt.ids[0, i : i + 1]), int(prompt.token_map.positions[0, i]))
        written.append(np.array(logits[0].astype(mx.float32)))
    assert relative(rounded[start:], whole[start:]) <= bound
    assert relative(written, whole[start:]) <= bound


@pytest.mark.parametrize("gate", [None, GateConfig(rank=6, kv_groups=1.0)])
def test_a_left_padded_batch_equals_batches_of_one(gate):
    lmm = tiny_model(gate)
    prompts = [lmm.prepare(conversation(n)) for n in (1, 0, 2)]
    together = np.array(lmm.logits(prompts))
    for row, prompt in zip(together, prompts, strict=True):
        assert relative(row[-len(prompt) :], lmm.logits(prompt)[0]) <= 1e-5


@pytest.mark.parametrize("path", ["reference", "chunked", "fused blocks"])
def test_grouped_heads_equal_repeated_ones(path):
    q, k, v, gate = draw(11, gated=(0, 1))
    repeated = GateTerms(gate.u, mx.repeat(gate.v, 2, axis=1), (0, 1, 2, 3), gate.span)
    found = run(path, q, k, v, scale=0.25, mask="causal", gate=gate)
    expected = run(path, q, mx.repeat(k, 2, axis=1), mx.repeat(v, 2, axis=1), scale=0.25, mask="causal", gate=repeated)
    assert relative(found, expected) <= BOUND


# 5: what the bias does to the odds of looking at the image


def test_odds_identity():
    """odds' = odds * sum_j p_j exp(b_ij), with p the softmax within the visual keys."""
    q, k, _, gate = draw(13, batch=1, gated=(0, 1))
    eye = mx.broadcast_to(mx.eye(31), (1, 2, 31, 31))
    before = np.array(attend(q, k, eye, scale=0.25, path="reference"), np.float64)
    after = np.array(attend(q, k, eye, scale=0.25, gate=gate, path="chunked"), np.float64)
    visual = slice(*gate.span)
    mass = before[..., visual].sum(-1)
    p = before[..., visual] / mass[..., None]
    x = np.array(gate.u, np.float64) @ np.repeat(np.array(gate.v, np.float64), 2, axis=1)[..., visual, :].swapaxes(
        -1, -2
    )
    factor = (p * np.exp(4 * np.tanh(x / 4))).sum(-1)
    new = after[..., visual].sum(-1)
    np.testing.assert_allclose(new / (1 - new), mass / (1 - mass) * factor, rtol=2e-5)


# 6: extremes


@pytest.mark.parametrize("kind", SQUASHES)
@pytest.mark.parametrize("path", ["reference", "chunked", "fused blocks"])
def test_saturated_gates_stay_finite(path, kind):
    q, k, v, gate = draw(17, squash=kind, scale=200.0)
    found = np.array(run(path, q, k, v, scale=0.25, mask="causal", gate=gate))
    assert np.isfinite(found).all()
    expected = float64(q, k, v, gate, scale=0.25, allowed=lower_right(19, 31))
    assert relative(found, expected) <= (BOUND if kind in ("tanh",) else 1e-3)


def test_squashes_vanish_at_zero_and_keep_their_bounds():
    x = mx.array([-1e4, -200.0, 0.0, 200.0, 1e4])
    values = {kind: np.array(squash(x, kind, 4.0)) for kind in SQUASHES}
    assert all(v[2] == 0 for v in values.values())
    np.testing.assert_allclose(values["tanh"], [-4, -4, 0, 4, 4])
    np.testing.assert_allclose(values["suppress"][[3, 4]], np.log(2), rtol=1e-6)
    np.testing.assert_allclose(values["boost"][[0, 1]], -np.log(2), rtol=1e-6)
    np.testing.assert_allclose(values["identity"], np.array(x))
