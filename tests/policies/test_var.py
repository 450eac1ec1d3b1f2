"""VAR against its formulas: literal examples, random attention rows, and a whole model in float64 NumPy that holds its
attention matrices and loops over layers, heads and queries; then the detectors of sinks."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from support import ask, picture, relative, tiny_config, tiny_model

from rave_mlx.chat.session import Session
from rave_mlx.errors import UsageError
from rave_mlx.generation.decode import continued, step
from rave_mlx.generation.prefill import prefill
from rave_mlx.models.rope import text_table
from rave_mlx.policies.methods.var import VAR
from rave_mlx.policies.policy import Context
from rave_mlx.policies.runtime import attach
from rave_mlx.policies.scores import ActivePolicy, RowMarks, steer
from rave_mlx.policies.sink_tokens import (
    classify_sinks,
    cosines,
    find_sink_dims,
    profile,
    received,
    sink_layers,
    sink_rate,
    sink_values,
)
from rave_mlx.policies.tokens import KeyRows, Tokens

ROW = [0.30, 0.05, 0.10, 0.20, 0.10, 0.05, 0.15, 0.05]
SINK = np.array([1, 0, 1, 0, 0, 0, 0, 0], bool)
VISUAL = np.array([0, 0, 1, 1, 1, 1, 0, 0], bool)
DIMS = {"dims": (3, 14, 30), "tau": 2.2, "rho": 0.5, "min_visual": 0.1}


# The formula, in NumPy


def redistribute(weights, sink, visual, policy):
    """VAR of rows (..., K) as the paper, or the released code, writes it."""
    target = visual & ~sink
    moved = policy.p if policy.p_is == "moved" else 1 - policy.p
    out = weights.copy()
    for index in np.ndindex(weights.shape[:-1]):
        row = weights[index]
        mass = row[visual].sum()
        if not mass:
            continue
        if policy.test == "target":
            chosen = mass >= policy.min_visual and row[target].sum() / mass >= policy.rho
        else:
            portion = row[visual & sink].sum() / (mass + 1e-6 * visual.sum())
            chosen = mass >= policy.min_visual and portion <= policy.rho
        if policy.need_visual_sink and not (visual & sink & (row > 0)).any():
            chosen = False
        if chosen and row[target].sum() > 0:
            omega = moved * row[sink].sum()
            out[index][sink] = (1 - moved) * row[sink]
            out[index][target] = row[target] + omega * row[target] / row[target].sum()
    return out


def through_attention(weights, sink, visual, policy):
    """The same rows (rows, K) through the package: queries and keys that have these weights, values that show them."""
    rows, count = weights.shape
    tokens = Tokens(
        np.where(visual, 4, 2).astype(np.int8)[None],
        np.where(visual, 0, -1).astype(np.int32)[None],
        np.zeros((1, 3, count), np.int32),
    )
    groups = KeyRows()
    groups.write(0, mx.array(np.stack([sink & visual, sink & ~visual, visual & ~sink], -1)[None].astype(np.float32)))
    context = Context(0, 2, "prefill", tokens, count - rows, mx.zeros((1, rows, 4)), {"groups": groups}, {}, keys=count)
    acting = [ActivePolicy(policy, context, RowMarks(np.ones((1, rows), bool)))]
    q = mx.array(np.eye(rows, dtype=np.float32)[None, None])
    k = mx.array(np.log(weights).T.astype(np.float32)[None, None])
    v = mx.array(np.eye(count, dtype=np.float32)[None, None])
    return np.array(steer(acting, q, k, v, scale=1.0, mask=None, gate=None, path=None))[0, 0]


# Literal examples


def test_sink_values():
    x = mx.array([[1, -1] * 4, [0.5, 0.5, 0.5, 100, 0.5, 0.5, 0.5, 0.5]], mx.float32)
    np.testing.assert_allclose(np.array(sink_values(x, mx.array([3, 6]))), [1.0, 2.82818], atol=1e-5)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (VAR(rho=0.5), [0.12, 0.05, 0.04, 0.337143, 0.168571, 0.084286, 0.15, 0.05]),
        (VAR(rho=0.8), ROW),
        (VAR(rho=0.5, min_visual=0.5), ROW),
        (VAR.preset("released"), [0.18, 0.05, 0.06, 0.291429, 0.145714, 0.072857, 0.15, 0.05]),
        (VAR.preset("released", rho=0.2), ROW),
    ],
)
def test_one_row(policy, expected):
    row = np.array([ROW])
    np.testing.assert_allclose(redistribute(row, SINK, VISUAL, policy)[0], expected, atol=1e-6)
    found = through_attention(row, SINK, VISUAL, policy)[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert found.sum() == pytest.approx(1, abs=1e-6)


def test_a_layer_without_visual_sinks_recycles_text_sinks_in_the_paper_only():
    sink = SINK & ~VISUAL
    row = np.array([ROW])
    assert through_attention(row, sink, VISUAL, VAR())[0][0] == pytest.approx(0.12, abs=1e-6)
    np.testing.assert_allclose(through_attention(row, sink, VISUAL, VAR.preset("released"))[0], ROW, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("preset", ["paper", "released"])
def test_random_rows(seed, preset):
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 1.5, (40, 30))
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    visual = (np.arange(30) >= 5) & (np.arange(30) < 22)
    sink = rng.random(30) < 0.2
    sink[7] = True
    policy = VAR.preset(preset, rho=0.7 if preset == "paper" else 0.3)
    expected = redistribute(weights, sink, visual, policy)
    changed = np.abs(expected - weights).max(-1) > 1e-6
    assert 0 < changed.sum() < 40
    np.testing.assert_allclose(through_attention(weights, sink, visual, policy), expected, atol=2e-6)


# A whole model


class Explicit:
    """The tiny model's decoder in float64, with all attention matrices; VAR as in `redistribute`."""

    def __init__(self, lmm, prompt, policy, prompt_length=None):
        self.lmm, self.policy = lmm, policy
        self.weights = {name: np.array(x, np.float64) for name, x in lmm.named_weights().items()}
        self.text = lmm.config.text
        tokens = prompt.token_map
        self.visual = tokens.visual
        self.prompt_length = prompt_length or len(prompt)
        table = text_table(self.text.rope, self.text.head_dim, mx.array(tokens.positions[None]))
        self.cos, self.sin = (np.array(x, np.float64)[0, 0] for x in (table.cos, table.sin))
        self.x = np.array(lmm.embed(prompt, 0, len(prompt))[0][0], np.float64)
        self.sinks: list[np.ndarray] = []
        self.changed = self.kept = 0

    def logits(self):
        x = self.x
        for layer in range(self.text.num_layers):
            x = self.layer(x, layer)
        return self.norm(x, "decoder.norm") @ self.weights["decoder.head.weight"].T

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.text.norm_eps) * self.weights[f"{name}.weight"]

    def linear(self, x, name):
        y = x @ self.weights[f"{name}.weight"].T
        return y + self.weights[f"{name}.bias"] if f"{name}.bias" in self.weights else y

    def turn(self, x):
        half = x.shape[-1] // 2
        first, second = x[..., :half], x[..., half:]
        return np.concatenate([first * self.cos - second * self.sin, second * self.cos + first * self.sin], -1)

    def layer(self, x, layer):
        at, text = f"decoder.layers.{layer}", self.text
        h = self.norm(x, f"{at}.input_norm")
        heads = [
            self.linear(h, f"{at}.attention.{n}_proj").reshape(len(x), -1, text.head_dim).transpose(1, 0, 2)
            for n in "qkv"
        ]
        q, k, v = self.turn(heads[0]), self.turn(heads[1]), heads[2]
        ratio = text.num_heads // text.num_kv_heads
        out = []
        for head in range(text.num_heads):
            scores = q[head] @ k[head // ratio].T / np.sqrt(text.head_dim)
            scores = np.where(np.tril(np.ones_like(scores)) > 0, scores, -np.inf)
            weights = np.exp(scores - scores.max(-1, keepdims=True))
            weights /= weights.sum(-1, keepdims=True)
            out.append(self.steer(weights, x, layer) @ v[head // ratio])
        x = x + self.linear(np.concatenate(out, -1), f"{at}.attention.o_proj")
        h = self.norm(x, f"{at}.post_attention_norm")
        gate = self.linear(h, f"{at}.mlp.gate_proj")
        return x + self.linear(gate / (1 + np.exp(-gate)) * self.linear(h, f"{at}.mlp.up_proj"), f"{at}.mlp.down_proj")

    def steer(self, weights, x, layer):
        policy, last = self.policy, layer == self.text.num_layers - 1
        if layer < policy.first_layer or (last and not policy.last_layer):
            return weights
        value = np.abs(x[:, list(policy.dims)]).max(-1) / np.sqrt((x * x).mean(-1))
        sink = value > policy.tau if policy.strict else value >= policy.tau
        if not policy.generated:
            sink = sink & (np.arange(len(x)) < self.prompt_length)
        self.sinks.append(sink)
        out = weights.copy()
        for row in np.flatnonzero(~self.visual):
            seen = np.arange(len(x)) <= row
            out[row : row + 1] = redistribute(weights[row : row + 1], sink & seen, self.visual & seen, policy)
            same = np.array_equal(out[row], weights[row])
            self.changed, self.kept = self.changed + (not same), self.kept + same
        return out


@pytest.fixture(scope="module")
def lmm():
    return tiny_model(num_layers=4)


@pytest.fixture(scope="module")
def prompt(lmm):
    return lmm.prepare([ask("Compare these: which one has the larger total?", picture(56, 40), picture(48, 24, 3))])


POLICIES = {
    "paper": VAR(**DIMS),
    "released": VAR.preset("released", **{**DIMS, "first_layer": 1, "rho": 0.4}),
    "all switches": VAR(**DIMS, p=0.9, p_is="kept", strict=True, last_layer=True, need_visual_sink=True),
}


@pytest.mark.parametrize("name", POLICIES)
def test_a_whole_model(lmm, prompt, name):
    explicit = Explicit(lmm, prompt, POLICIES[name])
    expected = explicit.logits()
    assert explicit.changed > 10
    assert explicit.kept > 10
    assert all((sink & explicit.visual).any() for sink in explicit.sinks)
    assert any((sink & ~explicit.visual).any() for sink in explicit.sinks)
    found = lmm.logits(prompt, hooks=attach(lmm, [POLICIES[name]]))[0]
    assert relative(found, expected) < 2e-5
    assert relative(lmm.logits(prompt)[0], expected) > 1e-2


@pytest.mark.parametrize("name", POLICIES)
def test_writing_under_var(lmm, prompt, name):
    """Generated tokens: sinks in the paper, never in the released code, although their states would make them so."""
    policy = POLICIES[name]
    answer = np.random.default_rng(0).integers(20, 272, 24).tolist()
    cache = lmm.make_cache(hooks=attach(lmm, [policy]))
    rows = [prefill(lmm, prompt, cache)]
    position = prompt.token_map.next_position
    rows += [step(lmm, cache, mx.array([t]), position + i) for i, t in enumerate(answer)]
    whole = continued(prompt, answer)
    explicit = Explicit(lmm, whole, policy, len(prompt))
    assert relative(mx.concatenate(rows), explicit.logits()[len(prompt) - 1 :]) < 2e-5
    as_read = Explicit(lmm, whole, policy)
    as_read.logits()
    assert any(sink[len(prompt) :].any() for sink in as_read.sinks)


def test_the_bias_form_is_the_same():
    """softmax(s + b) with b = log(1 - p) on sinks and log(1 + p A(S) / A(T)) on targets."""
    bias = np.where(SINK, -0.916291, np.where(VISUAL, 0.522189, 0.0))
    weights = np.array(ROW) * np.exp(bias)
    found = through_attention(np.array([ROW]), SINK, VISUAL, VAR(rho=0.5))[0]
    np.testing.assert_allclose(found, weights / weights.sum(), atol=1e-6)


# Refusals


def test_a_threshold_that_no_state_reaches_is_refused(lmm):
    with pytest.raises(
        UsageError, match=r"tau 20 is never reached at hidden size 48, where sink values stay below 6\.9"
    ):
        Session(lmm, policy="var:paper")
    Session(lmm, policy="var:tau=6,dims=3")


def test_dimensions_that_do_not_exist_are_refused(lmm):
    with pytest.raises(UsageError, match="dims 48: the model has dimensions 0 to 47"):
        Session(lmm, policy="var:tau=6,dims=3/48")


def test_a_text_only_model_is_refused():
    from dataclasses import replace

    config = tiny_config()
    text = replace(config, vision=None, connector=None, image=None, tokens=replace(config.tokens, image=None))
    with pytest.raises(UsageError, match="reads text only"):
        VAR.preset("cosine").check(text)


def test_a_model_without_sink_dimensions_is_refused(lmm):
    session = Session(lmm, policy="var:tau=6")
    with pytest.raises(UsageError, match="shows no sink dimensions; name them"):
        list(session.send("What?", [picture(40, 24)]))


# Finding sinks


def test_dimensions_are_found_where_they_were_planted():
    rng = np.random.default_rng(0)
    states = rng.normal(size=(12, 9, 512)).astype(np.float32)
    assert find_sink_dims(states) == ()
    states[3:11, 0, 77] += 400
    states[3:11, 0, 400] -= 700
    states[5:7, 0, 9] += 500  # in too few layers
    assert find_sink_dims(states) == (400, 77)


def test_dimensions_of_a_model_are_found():
    lmm = tiny_model(num_layers=6, hidden_size=48)
    weights = lmm.named_weights()
    table = np.array(weights["decoder.embed.weight"])
    prompt = lmm.prepare([{"role": "user", "content": "How are you?"}])
    table[int(prompt.ids[0, 0]), [5, 20]] = 3e4, -2e4
    lmm.load_weights([("decoder.embed.weight", mx.array(table))], strict=False)
    found = profile(lmm)
    assert found.dims == (5, 20)
    assert found.states.shape[0] == 7


def test_layers_between_the_rise_and_the_fall_of_the_norm():
    assert sink_layers(np.array([1, 2, 90, 91, 92, 90, 10, 9.0])) == range(2, 6)
    assert sink_layers(np.array([1.0, 2, 3, 90])) == range(3, 3)


def test_cosines():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(2, 5, 32)).astype(np.float32)
    x[1, 3] = -3 * x[1, 0]
    expected = np.abs(np.einsum("bld,bd->bl", x, x[:, 0]))
    expected /= np.linalg.norm(x, axis=-1) * np.linalg.norm(x[:, :1], axis=-1)
    found = cosines(mx.array(x), mx.array(x[:, 0]))
    np.testing.assert_allclose(np.array(found), expected, atol=1e-5)
    assert float(found[1, 3]) == pytest.approx(1, abs=1e-5)


def test_sink_scores_of_gu_et_al():
    weights = np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.6, 0.2, 0.2, 0], [0.4, 0.2, 0.2, 0.2]])
    np.testing.assert_allclose(received(weights), [0.625, 0.3, 0.2, 0.2], atol=1e-12)
    np.testing.assert_array_equal(sink_rate(np.stack([weights, weights, np.eye(4)])) * 3, [2, 1, 1, 1])


def test_sinks_are_told_apart_by_their_lifetime():
    rng = np.random.default_rng(1)
    states = rng.normal(size=(31, 6, 64))
    massive = np.zeros(64)
    massive[7] = 500
    states[3:29, 0] += massive  # the first token: 26 layers
    states[8:20, 2] += massive  # 12 layers
    states[9:12, 4] -= massive  # 3
    states[4:27, 5] += massive  # 23
    sinks = classify_sinks(states.astype(np.float32))
    assert [(s.token, s.first_layer, s.lifetime, s.kind) for s in sinks] == [
        (0, 3, 26, "bos"),
        (2, 8, 12, "secondary"),
        (4, 9, 3, "noise"),
        (5, 4, 23, "bos"),
    ]


@pytest.mark.parametrize("tau", [2.2, 6.5])
def test_layers_without_visual_sinks_take_their_usual_path_while_writing(tau, monkeypatch):
    """As released, where sinks are those of the prompt: with no sinks at all, to the bit.

    Both passes read the same keys and values: those of a prompt read under the policy and of one read without it may
    differ in the last bit, by the order in which the processor's kernels add.
    """
    lmm = tiny_model()
    prompt = lmm.prepare([ask("What is the total?", picture(56, 40))])
    policy = VAR.preset("released", **{**DIMS, "tau": tau, "first_layer": 0})
    caches = [lmm.make_cache(gate=False, hooks=attach(lmm, policies)) for policies in ((policy,), ())]
    for cache in caches:
        prefill(lmm, prompt, cache)
    for under, without in zip(*(cache.layers for cache in caches), strict=True):
        without.trim(0)
        without.append(*(x[:, :, : under.length] for x in under.arrays))
    marked, real = [], VAR.key_groups
    monkeypatch.setattr(VAR, "key_groups", lambda self, ctx: marked.append(real(self, ctx)) or marked[-1])
    steered, plain = (step(lmm, cache, mx.array([40]), prompt.token_map.next_position) for cache in caches)
    assert bool(mx.array_equal(steered, plain)) == (tau > 6)
    assert all(marks is None for marks in marked) == (tau > 6), "explicit scores only in layers that have marks"
