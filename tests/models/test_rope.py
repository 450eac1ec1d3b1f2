"""Rotary frequencies of every scaling, how configurations of every era say them, and lengths that change them."""

from __future__ import annotations

import math

import mlx.core as mx
import numpy as np
import pytest
from support import picture, relative, tiny_model

from rave_mlx.chat.session import Session
from rave_mlx.config import RopeConfig, RopeScaling
from rave_mlx.convert.keys import Keys
from rave_mlx.convert.rope import context, read_rope
from rave_mlx.errors import ConfigError
from rave_mlx.generation.prefill import prefill
from rave_mlx.inputs.prompt.message import Message, TextPart
from rave_mlx.models.rope import text_table
from rave_mlx.models.rope_scaling import frequencies, kept_bucket, outgrows, rope_bucket

SHORT, LONG = (1.0, 2.0, 4.0, 5.0), (2.0, 8.0, 16.0, 32.0)
LONGROPE = RopeScaling("longrope", 16.0, original_positions=64, short_factors=SHORT, long_factors=LONG)


def rope(scaling=None, theta=10000.0):
    return RopeConfig(theta, scaling=scaling)


def turns(scaling, length=1, head_dim=8, theta=10000.0):
    """Frequencies and attention factor for a sequence of some length."""
    config = rope(scaling, theta)
    return frequencies(config, head_dim, rope_bucket(config, length))


def test_plain_frequencies():
    values, strength = turns(None)
    assert values == pytest.approx([1, 0.1, 0.01, 0.001], rel=1e-14)
    assert strength == 1


def test_linear_divides():
    assert turns(RopeScaling("linear", 4.0))[0] == pytest.approx([0.25, 0.025, 0.0025, 0.00025], rel=1e-14)


def test_dynamic_raises_the_base_beyond_the_original_context():
    scaling = RopeScaling("dynamic", 2.0, original_positions=100)
    assert turns(scaling, 100)[0] == pytest.approx([1, 0.1, 0.01, 0.001], rel=1e-14)
    # Twice the length: theta * (2 * 2 - 1) ** (8 / 6), to the power -i / 4.
    assert turns(scaling, 200)[0] == pytest.approx([1, 0.1 * 3 ** (-1 / 3), 0.01 * 3 ** (-2 / 3), 0.001 / 3], rel=1e-14)


def test_llama3_keeps_fast_pairs_and_divides_slow_ones():
    # Turns over 628.3 positions: 100, 10, 1 and 0.1; kept from 4 on, divided up to 1, half-way at 2.5.
    original = round(200 * math.pi)
    scaling = RopeScaling("llama3", 8.0, original_positions=original, low_freq_factor=1.0, high_freq_factor=19.0)
    values, _ = turns(scaling)
    kept = (original * 0.1 / (2 * math.pi) - 1) / 18
    assert values == pytest.approx([1, 0.1 * (kept + (1 - kept) / 8), 0.01 / 8, 0.001 / 8], rel=1e-12)
    assert kept == pytest.approx(0.5, abs=1e-3)


def test_yarn_ramps_between_two_pairs():
    # One turn at pair 8 * log(512 / 2 pi) / (2 * log 10000) = 1.9, 32 turns at 0.4; rounded outwards to 0 and 2.
    scaling = RopeScaling("yarn", 4.0, original_positions=512)
    values, strength = turns(scaling)
    assert values == pytest.approx([1, 0.1 * (0.5 + 0.5 / 4), 0.01 / 4, 0.001 / 4], rel=1e-14)
    assert strength == pytest.approx(0.1 * math.log(4) + 1, rel=1e-14)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"attention_factor": 1.25}, 1.25),
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, 1.0),
        ({"mscale": 0.707}, 0.1 * math.log(40) + 1),
        ({"mscale": 2.0, "mscale_all_dim": 0.5}, (0.2 * math.log(40) + 1) / (0.05 * math.log(40) + 1)),
    ],
)
def test_yarn_attention_factor(fields, expected):
    assert turns(RopeScaling("yarn", 40.0, original_positions=4096, **fields))[1] == pytest.approx(expected, rel=1e-14)


def test_longrope_chooses_factors_by_length():
    assert turns(LONGROPE, 64)[0] == pytest.approx([1, 0.05, 0.0025, 0.0002], rel=1e-14)
    values, strength = turns(LONGROPE, 65)
    assert values == pytest.approx([0.5, 0.0125, 0.000625, 0.00003125], rel=1e-14)
    assert strength == pytest.approx(math.sqrt(1 + math.log(16) / math.log(64)), rel=1e-14)


def test_which_lengths_turn_alike():
    dynamic = rope(RopeScaling("dynamic", 2.0, original_positions=10))
    assert [rope_bucket(rope(LONGROPE), n) for n in (1, 64, 65, 1000)] == [0, 0, 1, 1]
    assert [rope_bucket(dynamic, n) for n in (1, 10, 11, 12)] == [10, 10, 11, 12]
    assert [rope_bucket(rope(RopeScaling("linear", 2.0)), n) for n in (1, 1000)] == [0, 0]
    assert [n for n in range(200) if outgrows(rope(LONGROPE), n)] == [65]
    assert not any(outgrows(dynamic, n) for n in range(200))
    assert kept_bucket(rope(LONGROPE), 60, 70) == 1
    assert (kept_bucket(dynamic, 5, 10), kept_bucket(dynamic, 5, 11), kept_bucket(dynamic, 12, 12)) == (10, None, 12)


def test_a_table_turns_as_long_as_the_sequence_is():
    positions = mx.broadcast_to(mx.arange(70)[None, None], (1, 3, 70))
    config = rope(LONGROPE)
    whole = text_table(config, 8, positions)
    values, strength = turns(LONGROPE, 70)
    assert relative(whole.cos[0, 0], np.cos(np.outer(np.arange(70), values)) * strength) <= 1e-6
    assert relative(whole.sin[0, 0], np.sin(np.outer(np.arange(70), values)) * strength) <= 1e-6
    part = text_table(config, 8, positions[..., :9], longest=70)
    assert (np.array(part.cos) == np.array(whole.cos)[:, :, :9]).all()
    assert (np.array(text_table(config, 8, positions[..., :9]).cos) != np.array(part.cos)).any()


def read(**text):
    return read_rope(Keys({"max_position_embeddings": 4096, **text}, "config.json"))


YARN = {"factor": 4.0, "original_max_position_embeddings": 1024}


def test_both_eras_say_the_same():
    modern = read(rope_parameters={"rope_type": "yarn", "rope_theta": 1e6, **YARN, "attention_factor": None})
    assert modern == RopeConfig(1e6, scaling=RopeScaling("yarn", 4.0, original_positions=1024))
    for scaling in ({"type": "yarn", **YARN}, {"rope_type": "yarn", "type": "yarn", **YARN}):
        assert read(rope_theta=1000000, rope_scaling=scaling) == modern
    both = {"rope_scaling": {"type": "yarn", **YARN}, "rope_parameters": {"rope_type": "yarn", **YARN}}
    assert read(rope_theta=1e6, **both) == modern


@pytest.mark.parametrize("kind", ["longrope", "su", "yarn"])
def test_the_names_of_longrope(kind):
    scaling = {"type": kind, "short_factor": [1, 2.5], "long_factor": [3, 4]}
    found = read(rope_theta=1e4, rope_scaling=scaling, original_max_position_embeddings=512)
    assert found.scaling == RopeScaling(
        "longrope", 8.0, original_positions=512, short_factors=(1.0, 2.5), long_factors=(3.0, 4.0)
    )


def test_multimodal_sections():
    scaling = {"type": "mrope", "rope_type": "default", "mrope_section": [16, 24, 24]}
    assert read(rope_theta=1e6, rope_scaling=scaling) == RopeConfig(1e6, (16, 24, 24))
    parameters = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}
    assert read(rope_parameters=parameters) == RopeConfig(5e6, (24, 20, 20), interleaved=True)
    yarn = read(rope_theta=1e6, rope_scaling={"type": "yarn", "mrope_section": [16, 24, 24], **YARN})
    assert yarn.sections == (16, 24, 24)
    assert yarn.scaling is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({}, "neither rope_parameters.rope_theta nor rope_theta"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_theta": 1e5}}, "contradicts"),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "ntk", "factor": 2.0}}, "rope type 'ntk'"),
        ({"rope_theta": 1e4, "rope_scaling": {"type": ["yarn"]}}, "rope type"),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2.0, "alpha": 3}}, "alpha"),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "default", "factor": 2.0}}, "factor"),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}}, "contradicts"),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "linear"}}, "factor is missing"),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 0}}, "must be positive"),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": "2"}}, "factor should be float"),
        ({"rope_theta": 1e4, "partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5 is not supported"),
        ({"rope_parameters": {"rope_theta": 1e4, "partial_rotary_factor": 0.75}}, "partial_rotary_factor 0.75"),
        ({"rope_parameters": {"full_attention": {"rope_theta": 1e4}}}, "full_attention"),
        ({"rope_theta": 1e4, "rope_parameters": {"rope_type": "yarn", **YARN}, "rope_scaling": {"type": "linear",
          "factor": 4.0}}, "contradict each other"),
        ({"rope_theta": 1e4, "original_max_position_embeddings": 512, "rope_scaling": {"type": "yarn", **YARN}},
         "contradicts"),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "dynamic", **YARN}}, "has to be max_position_embeddings"),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "llama3", **YARN, "low_freq_factor": 4, "high_freq_factor": 4}},
         "must be more than"),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "su", "short_factor": [1], "long_factor": [1, 2]}}, "differ"),
        ({"rope_theta": 1e4, "rope_scaling": {"type": "su", "short_factor": [0], "long_factor": [1]}}, "positive"),
        ({"rope_theta": 1e4, "rope_scaling": {"mrope_section": ["a"]}}, "expected int"),
    ],
)  # fmt: skip
def test_what_is_not_understood_is_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        read(**text)


def test_contexts_that_a_scaling_extends():
    assert context(rope(), 100) == 100
    assert context(rope(RopeScaling("dynamic", 2.5, original_positions=100)), 100) == 250
    assert context(rope(RopeScaling("yarn", 4.0, original_positions=100)), 100) == 400
    assert context(rope(RopeScaling("yarn", 4.0, original_positions=100)), 1000) == 1000
    assert context(rope(RopeScaling("llama3", 8.0, original_positions=100)), 1000) == 1000


GROWING = {
    "longrope": RopeScaling(
        "longrope", 4.0, original_positions=120, short_factors=(1.0,) * 8, long_factors=(2.0, 3.0, 4.0, 5.0) * 2
    ),
    "dynamic": RopeScaling("dynamic", 4.0, original_positions=120),
}


@pytest.mark.parametrize("kind", GROWING)
def test_a_conversation_across_the_original_context_equals_reading_it_at_once(kind):
    """Turns before, over and after the border, with an image; then a shorter conversation again."""
    lmm = tiny_model(rope=rope(GROWING[kind]))
    session = Session(lmm, max_tokens=11)
    reused = []

    def continued():
        prompt = lmm.prompt([*session.messages, Message("user", (TextPart("And?"),))])
        cache, _ = session._reuse(prompt)
        return relative(prefill(lmm, prompt, cache), lmm.logits(prompt)[:, -1])

    for question, images in (
        ("One?", [picture(48, 48)]),
        ("Two, which is a bit longer?", []),
        ("Three?", []),
        ("4", []),
    ):
        list(session.send(question, images))
        reused.append(session.stats.reused_tokens)
    assert session.stats.prompt_tokens > 120
    assert continued() <= 1e-5
    session.resume(session.messages[:2])
    list(session.send("Two?"))
    assert session.stats.prompt_tokens < 120
    assert continued() <= 1e-5
    assert any(reused), "no turn went on from the cache"


def test_an_answer_across_the_border_is_that_of_a_whole_reading():
    """Every token that longrope's answer adds is the likeliest one of the conversation so far, read at once."""
    lmm = tiny_model(rope=rope(GROWING["longrope"]))
    session = Session(lmm, max_tokens=40)
    list(session.send("What is the total, and when?", [picture(64, 48)]))
    prompt = lmm.prompt(session.messages, add_generation_prompt=False)
    answer = session.messages[-1].parts[0].ids
    length = session.stats.prompt_tokens
    assert length < 110
    assert length + len(answer) > 125
    for end in range(length, length + len(answer)):
        if end in (length, 119, 120, 121, 122, length + len(answer) - 1):
            cut = type(prompt)(prompt.ids[:, :end], prompt.images, _cut(prompt.token_map, end))
            assert int(mx.argmax(lmm.logits(cut)[0, -1])) == answer[end - length], end


def _cut(tokens, end):
    return type(tokens)(tokens.role[:end], tokens.image[:end], tokens.positions[:, :end], tokens.message[:end])
