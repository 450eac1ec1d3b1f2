"""What every attention policy has to keep: five invariants, for each entry of the folder `policies`, with and without
gates; the state that lives and dies with a conversation; and how `--attention` is read."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import mlx.core as mx
import numpy as np
import pytest
from command import rave
from families import CONVERSATIONS, cases, write_checkpoint
from policy_subjects import subjects
from support import ask, picture, relative, tiny_config, tiny_model

import rave_mlx
from rave_mlx.chat.session import Session
from rave_mlx.config import GateConfig
from rave_mlx.errors import UsageError
from rave_mlx.generation.decode import continued, step
from rave_mlx.generation.prefill import prefill
from rave_mlx.models.hooks import KeptTokens
from rave_mlx.models.lmm import LMM
from rave_mlx.policies import scores
from rave_mlx.policies.methods.mma import MMA
from rave_mlx.policies.methods.var import VAR
from rave_mlx.policies.parse import Steering, steering
from rave_mlx.policies.policy import Context, Policy
from rave_mlx.policies.registry import POLICIES
from rave_mlx.policies.runtime import attach
from rave_mlx.policies.tokens import KeyRows, Tokens

GATE = GateConfig(rank=4, kv_groups=0.5)
EXACT = 3e-6
"""Relative difference of logits that rounding in float32 makes."""
SUBJECTS = subjects()
STEERED = next(subject.active for subject in SUBJECTS if subject.name == "var:paper")
ALL = pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)


@pytest.fixture(scope="module", params=[None, GATE], ids=["base", "gated"])
def lmm(request) -> LMM:
    return tiny_model(request.param)


@pytest.fixture(scope="module")
def prompts(lmm):
    return [
        lmm.prepare([ask("What is the total?", picture(56, 40))]),
        lmm.prepare([ask("And what is the name on the second page of these?", picture(40, 48, 1), picture(24, 64, 2))]),
    ]


def logits(lmm, prompt, *policies):
    return np.array(lmm.logits(prompt, hooks=attach(lmm, policies)))


# The invariants


@ALL
def test_neutral_settings_change_nothing_and_others_do(lmm, prompts, subject):
    plain = logits(lmm, prompts[0])
    assert relative(logits(lmm, prompts[0], subject.active), plain) > 1e-4
    if subject.neutral is not None:
        assert relative(logits(lmm, prompts[0], subject.neutral), plain) < EXACT


@dataclass(frozen=True)
class Watch(Policy):
    """Keeps the final weights of every row."""

    name: ClassVar[str] = "watch"
    rows: ClassVar = "all"
    needs_visual: ClassVar[bool] = False

    def observe(self, ctx, weights):
        padded = mx.pad(weights, [(0, 0), (0, 0), (0, 0), (0, len(ctx.tokens) - weights.shape[-1])])
        ctx.state.setdefault("rows", []).append((ctx.rows, padded))


def watched(run) -> list[np.ndarray]:
    """The weights (B, H, L, K) of every layer that a `Watch` saw."""
    states = [run.state(Watch(), layer).get("rows", []) for layer in range(3)]
    return [np.array(mx.concatenate([w for _, w in sorted(rows, key=lambda r: r[0])], axis=2)) for rows in states]


@ALL
def test_rows_sum_to_1_and_padding_gets_0(lmm, prompts, subject):
    batch = prompts if subject.batches else prompts[:1]
    run = attach(lmm, [subject.active, Watch()])
    lmm.logits(batch, hooks=run)
    pads = [max(map(len, batch)) - len(p) for p in batch]
    for weights in watched(run):
        np.testing.assert_allclose(weights.sum(-1), 1, atol=3e-6)
        assert weights.min() >= 0
        for row, pad in zip(weights, pads, strict=True):
            assert row.shape[1] > pad
            assert np.all(row[:, pad:, :pad] == 0)


@ALL
def test_reading_an_answer_gives_what_writing_it_gave(lmm, prompts, subject):
    if not subject.decodes:
        pytest.skip("not defined so")
    answer = [40, 90, 133, 41]
    for prompt in prompts:
        cache = lmm.make_cache(gate=True, hooks=attach(lmm, [subject.active]))
        prefill(lmm, prompt, cache)
        position = prompt.token_map.next_position
        for count, token in enumerate(answer):
            written = step(lmm, cache, mx.array([token]), position + count)
        run = attach(lmm, [subject.active])
        read = lmm.logits(continued(prompt, answer), gate=True, hooks=run)[:, -1]
        assert relative(written, read) < EXACT


@ALL
@pytest.mark.parametrize("chunk", [1, 7])
def test_reading_in_chunks_changes_nothing(lmm, prompts, subject, chunk):
    for prompt in prompts[:1] if chunk == 1 else prompts:  # token by token takes long
        cache = lmm.make_cache(hooks=attach(lmm, [subject.active]))
        assert relative(prefill(lmm, prompt, cache, chunk=chunk), logits(lmm, prompt, subject.active)[:, -1]) < EXACT


@ALL
def test_a_padded_batch_gives_what_each_prompt_gives(lmm, prompts, subject):
    if not subject.batches:
        pytest.skip("reads one prompt at a time")
    together = logits(lmm, prompts, subject.active)
    for row, prompt in zip(together, prompts, strict=True):
        assert relative(row[-len(prompt) :], logits(lmm, prompt, subject.active)[0]) < EXACT


@ALL
def test_grouped_heads_give_what_repeated_keys_and_values_give(subject):
    lmm, full = tiny_model(), tiny_model(num_kv_heads=4)
    weights = lmm.named_weights()
    for name in weights:
        if "attention.k_proj" in name or "attention.v_proj" in name:
            heads = weights[name].reshape(2, 16, *weights[name].shape[1:])
            weights[name] = mx.repeat(heads, 2, axis=0).reshape(64, *weights[name].shape[1:])
    full.load_weights(list(weights.items()), strict=True)
    prompt = lmm.prepare([ask("What is the total?", picture(56, 40))])
    assert relative(logits(lmm, prompt, subject.active), logits(full, prompt, subject.active)) < EXACT


@ALL
def test_rows_are_independent_of_their_block(lmm, prompts, subject, monkeypatch):
    """Blocks of three rows, dealt out over the backend's streams, give what one block gives."""
    whole = logits(lmm, prompts[1], subject.active)
    monkeypatch.setattr(scores, "_ROWS", (2, 3))
    assert relative(logits(lmm, prompts[1], subject.active), whole) < EXACT


def test_paths_of_untouched_rows_can_be_forced(lmm, prompts):
    run = attach(lmm, [STEERED])
    forced = lmm.logits(prompts[0], path="reference", hooks=run)
    assert relative(forced, logits(lmm, prompts[0], STEERED)) < EXACT


# Every family


@pytest.mark.parametrize(
    "case",
    # VAR leaves the last layer alone, and that is the only one with attention in two of the cases.
    [
        case
        for name, case in cases().items()
        if case.conversations != ("text",) and name not in ("qwen3_5", "qwen3_5_moe")
    ],
    ids=lambda case: case.name,
)
def test_every_family_is_steered(case, tmp_path):
    """Windows, tiles, DeepStack and all: the rows computed in blocks give what attention gives, and VAR reads what it
    wrote."""
    lmm = rave_mlx.load(write_checkpoint(case, tmp_path / "model"))
    prompt = lmm.prepare(CONVERSATIONS[[name for name in case.conversations if name != "text"][-1]])
    steered = VAR(dims=tuple(range(0, 30, 3)), tau=2.0, rho=0.1, min_visual=0.01)
    plain = logits(lmm, prompt)
    assert relative(logits(lmm, prompt, replace(steered, p=0.0)), plain) < 1e-5
    whole = continued(prompt, [40, 90])
    expected = lmm.logits(whole, hooks=attach(lmm, [steered]))[0]
    assert relative(expected[: len(prompt)], plain[0]) > 1e-4
    cache = lmm.make_cache(hooks=attach(lmm, [steered]))
    position = prompt.token_map.next_position
    rows = [prefill(lmm, prompt, cache, chunk=9)]
    rows += [step(lmm, cache, mx.array([t]), position + i) for i, t in enumerate((40, 90))]
    assert relative(mx.concatenate(rows), expected[len(prompt) - 1 :]) < 1e-5


# Conversations


@ALL
def test_a_second_turn_gives_what_a_fresh_reading_gives(lmm, subject):
    if not subject.decodes:
        pytest.skip("reading an answer differs from writing it")
    session = Session(lmm, policy=["rave", subject.active], max_tokens=5)
    first = [ask("What is the total?", picture(56, 40))]
    said = [piece.token for piece in session.answer(first)]
    tokens = [piece.token for piece in session.send("Why is that so?")]
    assert session.stats.reused_tokens > 0 or not subject.active.prefix_reusable
    fresh = Session(lmm, policy=["rave", subject.active], max_tokens=5)
    fresh.resume(session.messages[:-2])
    assert [piece.token for piece in fresh.send("Why is that so?")] == tokens
    assert fresh.stats.reused_tokens == 0
    assert len(said) == 5


def test_another_policy_keeps_the_conversation_and_reads_it_again(lmm):
    session = Session(lmm, policy="none", max_tokens=5)
    list(session.send("What is the total?", [picture(56, 40)]))
    session.policy = STEERED
    tokens = [piece.token for piece in session.send("Why?")]
    assert session.stats.reused_tokens == 0
    fresh = Session(lmm, policy=STEERED, max_tokens=5)
    fresh.resume(session.messages[:-2])
    assert [piece.token for piece in fresh.send("Why?")] == tokens


def test_policies_hold_no_state(lmm, prompts):
    policy = STEERED
    first = logits(lmm, prompts[0], policy)
    logits(lmm, prompts[1], policy)
    assert np.array_equal(logits(lmm, prompts[0], policy), first)


def test_without_an_image_a_visual_policy_leaves_every_bit(lmm):
    prompt = lmm.prepare([{"role": "user", "content": "How are you?"}])
    assert np.array_equal(logits(lmm, prompt, STEERED), logits(lmm, prompt))


# Pruning


@dataclass(frozen=True)
class DropImage(Policy):
    """Drops all visual tokens after a layer."""

    name: ClassVar[str] = "drop"
    prefix_reusable: ClassVar[bool] = False
    chunkable: ClassVar[bool] = False

    layer: int = 0

    def layers(self, count):
        return [self.layer]

    def after_block(self, ctx, x):
        if ctx.phase == "decode":
            return None
        return KeptTokens(mx.array(np.flatnonzero(~ctx.tokens.visual[0])[None]))


@dataclass(frozen=True)
class HideImage(Policy):
    """Hides visual keys from all other rows after a layer."""

    name: ClassVar[str] = "hide"
    layer: int = 0

    def layers(self, count):
        return range(self.layer + 1, count)

    def visible(self, ctx, allowed):
        own = mx.arange(ctx.start, len(ctx.tokens))[:, None] == mx.arange(len(ctx.tokens))
        return allowed & (~ctx.tokens.marks("visual")[:, None, None] | own)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_dropping_tokens_is_hiding_their_keys(lmm, prompts, layer):
    # The gate biases visual keys only, so hidden ones have none left to bias.
    for prompt in prompts:
        position = prompt.token_map.next_position
        results = []
        for policy in (DropImage(layer), HideImage(layer)):
            cache = lmm.make_cache(hooks=attach(lmm, [policy]))
            rows = [prefill(lmm, prompt, cache)]
            rows += [step(lmm, cache, mx.array([t]), position + i) for i, t in enumerate((40, 90, 133))]
            results.append(np.array(mx.concatenate(rows)))
        assert relative(*results) < EXACT
        cache.trim(len(prompt) + 1)
        assert relative(step(lmm, cache, mx.array([90]), position + 1), results[1][2]) < EXACT


def test_pruned_caches_forget_the_tokens_that_came_last(lmm, prompts):
    prompt = prompts[0]
    position = prompt.token_map.next_position
    cache = lmm.make_cache(hooks=attach(lmm, [DropImage(0)]))
    prefill(lmm, prompt, cache)
    first = np.array(step(lmm, cache, mx.array([40]), position))
    step(lmm, cache, mx.array([90]), position + 1)
    cache.trim(len(prompt))
    assert cache.layers[1].length == len(prompt) - prompt.visual_tokens
    assert relative(step(lmm, cache, mx.array([40]), position), first) < EXACT


def test_a_pass_that_broke_off_is_forgotten_whole(lmm, prompts):
    """Interrupted between two layers, the first holds a token that the others do not."""
    prompt = prompts[0]
    position = prompt.token_map.next_position
    for policies in ([], [STEERED], [DropImage(0)]):
        cache = lmm.make_cache(hooks=attach(lmm, policies))
        prefill(lmm, prompt, cache)
        expected = np.array(step(lmm, cache, mx.array([40]), position))
        cache.trim(len(prompt))
        lengths = [layer.length for layer in cache.layers]
        if cache.hooks is not None:
            cache.hooks.write(position)
        cache.layers[0].append(*(mx.zeros((*x.shape[:2], 1, x.shape[3])) for x in cache.layers[0].arrays))
        cache.trim(len(prompt))
        assert [layer.length for layer in cache.layers] == lengths
        assert relative(step(lmm, cache, mx.array([40]), position), expected) < EXACT


# Key rows


def test_key_rows_lag_grow_and_forget():
    rows = KeyRows()
    rows.write(0, mx.ones((1, 3, 2)))
    assert np.array(rows.upto(300)).sum() == 6
    rows.write(300, mx.ones((1, 300, 2)))
    rows.trim(310)
    rows.write(312, mx.ones((1, 1, 2)))
    marks = np.array(rows.upto(320))[0, :, 0]
    assert np.flatnonzero(marks).tolist() == [0, 1, 2, *range(300, 310), 312]


# --attention


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, Steering()),
        ("none", Steering(False)),
        ("rave", Steering(True)),
        ("var", Steering(False, (VAR(),))),
        ("var:paper", Steering(False, (VAR(),))),
        ("rave+var:paper", Steering(True, (VAR(),))),
        ("var:released,p=0.4", Steering(False, (VAR.preset("released", p=0.4),))),
        ("var:dims=458/2570,rho=0.9,strict=true", Steering(False, (VAR(dims=(458, 2570), rho=0.9, strict=True),))),
        ("var:cosine:rho=0.5", Steering(False, (VAR.preset("cosine", rho=0.5),))),
        ("mma:force=true+var", Steering(False, (MMA(force=True), VAR()))),
        (VAR(), Steering(False, (VAR(),))),
        (["rave", VAR(p=0.5)], Steering(True, (VAR(p=0.5),))),
    ],
)
def test_attention_strings(text, expected):
    assert steering(text) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("vra", "no policy is called 'vra'; there are none, rave, "),
        ("var:best", "var has no preset 'best'; there are: paper, released, cosine"),
        ("var:paper,gain=2", "var does not know 'gain=2'; it has p, p_is, rho"),
        ("var:p=much", "p is 'much'; it must be a number"),
        ("var:dims=1/x", "dims is 'x'; it must be a whole number"),
        ("var:strict=yes", "strict is 'yes'; it can be true or false"),
        ("var:test=both", "test is 'both'; it can be target, sink"),
        ("var:p=1.5", "p is 1.5; it is a fraction from 0 to 1"),
        ("var+var:released", "var is given twice"),
        ("none+rave", "none and rave exclude each other"),
        ("debias:keep=4+dyvte:exit=1", "debias and dyvte both drop visual tokens"),
    ],
)
def test_what_is_wrong_is_named(text, message):
    with pytest.raises(UsageError, match=".*") as caught:
        steering(text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_mma_is_for_models_trained_with_it(lmm):
    with pytest.raises(UsageError, match="mma:force=true"):
        Session(lmm, policy="mma")
    config = tiny_config()
    trained = replace(config, mask="mutual", tokens=replace(config.tokens, answer=1))
    MMA().check(trained)
    with pytest.raises(UsageError, match="reads text only"):
        MMA(force=True).check(replace(trained, vision=None, connector=None, image=None, mask="causal", tokens=replace(
            trained.tokens, image=None)))  # fmt: skip


def test_the_mask_of_a_model_trained_with_it_is_part_of_it():
    """On by itself, `mma` changes nothing, `none` leaves out gates only; other policies go on top."""
    trained, causal = tiny_model(), tiny_model()
    trained.config = replace(trained.config, mask="mutual", tokens=replace(trained.config.tokens, answer=1))
    question = [ask("What is the total?", picture(56, 40))]
    prompt = trained.prepare(question)
    plain = logits(trained, prompt)
    assert np.array_equal(logits(trained, prompt, MMA()), plain)
    assert relative(causal.logits(causal.prepare(question)), plain) > 1e-3
    answers = [[p.token for p in Session(trained, policy=a, max_tokens=8).answer(question)] for a in ("none", "mma")]
    assert answers[0] == answers[1]
    cache = trained.make_cache(hooks=attach(trained, [STEERED]))
    prefill(trained, prompt, cache, chunk=5)
    written = step(trained, cache, mx.array([40]), prompt.token_map.next_position)
    read = trained.logits(continued(prompt, [40]), hooks=attach(trained, [STEERED]))[:, -1]
    assert relative(written, read) < EXACT
    assert relative(written, trained.logits(continued(prompt, [40]))[:, -1]) > 1e-4


def test_forced_mma_opens_the_columns_of_the_released_code():
    """system user | image image image | word word <|assistant|> | answer answer."""
    role = np.array([[1, 2, 4, 4, 4, 2, 2, 0, 3, 3]], np.int8)
    image = np.array([[-1, -1, 0, 0, 0, -1, -1, -1, -1, -1]], np.int32)
    tokens = Tokens(role, image, np.zeros((1, 3, 10), np.int32))
    context = Context(0, 1, "prefill", tokens, 0, mx.zeros((1, 10, 4)), {}, {"trained": False})
    mask = np.array(MMA(force=True).visible(context, mx.tril(mx.ones((1, 1, 10, 10))).astype(mx.bool_)))[0, 0]
    expected = np.tril(np.ones((10, 10), bool))
    expected[2] = [1, 1, 1, 0, 0, 1, 1, 1, 0, 0]
    expected[3] = [1, 1, 1, 1, 0, 1, 1, 1, 0, 0]
    expected[4] = [1, 1, 1, 1, 1, 1, 1, 1, 0, 0]
    np.testing.assert_array_equal(mask, expected)
    assert mask.sum() == 64


# The command line


@pytest.mark.parametrize(
    ("attention", "message"),
    [
        ("var:paper", "tau 20 is never reached at hidden size 256"),
        ("mma", "was not trained with the mutual mask"),
        ("vra", "no policy is called 'vra'"),
    ],
)
@pytest.mark.parametrize("command", ["chat", "evaluate"])
def test_the_command_line_refuses_in_one_line(command, attention, message):
    file = Path(__file__).parents[2] / "examples" / "documents" / "receipt.png"
    options = ["--image", str(file), "--prompt", "Total?"] if command == "chat" else ["--pages", "1"]
    done = rave(command, *options, "--attention", attention)
    assert done.returncode == 2
    assert message in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_the_help_names_every_policy():
    words = rave("chat", "--help", COLUMNS="400").stdout.replace(";", ",").replace(":", ",").replace(" ", "").split(",")
    assert set(POLICIES) <= set(words)


def test_the_command_line_steers():
    file = Path(__file__).parents[2] / "examples" / "documents" / "receipt.png"
    done = rave("chat", "--image", file, "--prompt", "What is the total?", "--attention", "rave+var:cosine,rho=0.5")
    assert (done.returncode, done.stdout) == (0, "13.60\n")
