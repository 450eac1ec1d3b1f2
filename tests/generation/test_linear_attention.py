"""Answers of a model with linear attention: the same in chunks, with drafts, in batches and after what was read."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from generation.writing import alone, ids_of, together
from support import HYBRID, ask, picture, relative, tiny_model

from rave_mlx.chat.session import Session
from rave_mlx.config import GateConfig
from rave_mlx.errors import ConfigError
from rave_mlx.generation.job import Job
from rave_mlx.generation.prefill import kept_bytes, prefill
from rave_mlx.generation.scheduler import Scheduler
from rave_mlx.look.answer_maps import collect
from rave_mlx.look.picture import describe


@pytest.fixture(scope="module")
def lmm():
    """Two layers of each kind, gates in those with attention."""
    return tiny_model(GateConfig(rank=4, kv_groups=0.5), **HYBRID)


@pytest.fixture(scope="module")
def prompts(lmm):
    messages = [[ask("word " * n, picture(8 * n + 16, 40, n))] for n in range(1, 4)]
    return [lmm.prepare(each) for each in (*messages, [{"role": "user", "content": "Hello?"}])]


@pytest.fixture(scope="module")
def answers(lmm, prompts):
    """The ids of each prompt's greedy answer by itself."""
    return [alone(lmm, Job(prompt, max_tokens=17, ends_loops=False)) for prompt in prompts]


class Guesses:
    """Drafts of random lengths, most of whose tokens are right; or all of them."""

    def __init__(self, answer, rng, share):
        self.answer, self.rng, self.share = answer, rng, share

    def draft(self, answer, most):
        assert list(answer) == self.answer[: len(answer)]
        guess = self.answer[len(answer) : len(answer) + int(self.rng.integers(0, most + 1))]
        return [token if self.rng.random() < self.share else (token + 1) % 250 for token in guess]


class Forced:
    """A constraint whose every token is known: all of them are read in one pass."""

    def __init__(self, tokens):
        self.left = list(tokens)

    def mask(self):
        marks = np.zeros(272, bool)
        marks[self.left[0]] = True
        return marks

    def forced(self):
        return [self.left[0]] if len(self.left) > 1 else []

    def accept(self, token):
        assert token == self.left.pop(0)


def test_gates_are_in_the_layers_with_attention(lmm):
    assert ["gate" in layer.attention for layer in lmm.decoder.layers] == [False, True, False, True]
    assert len(lmm.decoder.gates) == 2
    with pytest.raises(ConfigError, match=r"gate.layers \[2\]: linear attention has no scores to gate; .*: 1, 3"):
        replace(lmm.config, gate=GateConfig(layers=(1, 2)))


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_chunks_of_a_prompt_change_nothing(lmm, prompts, chunk):
    """A state is kept after the image and after the question, wherever chunks end."""
    prompt, cache = prompts[2], lmm.make_cache()
    expected = lmm.logits(prompt)[:, -1]
    assert relative(prefill(lmm, prompt, cache, chunk=chunk), expected) <= 1e-5
    image, question = (int(np.flatnonzero(x)[-1]) + 1 for x in (prompt.token_map.visual, prompt.token_map.message >= 0))
    assert [cache.reach(n) for n in (len(prompt), question, question - 1, image, image - 1)][1:4:2] == [question, image]
    cache.trim(image)
    assert relative(prefill(lmm, prompt, cache), expected) <= 1e-5


def test_a_padded_batch_is_each_prompt(lmm, prompts):
    batch = lmm.logits(prompts)
    for row, prompt in enumerate(prompts):
        assert relative(batch[row, -len(prompt) :], lmm.logits(prompt)[0]) <= 1e-5


@pytest.mark.parametrize("share", [0.0, 0.7, 1.0])
def test_drafts_change_nothing(lmm, prompts, answers, share):
    rng = np.random.default_rng(3)
    jobs = [Job(prompt, max_tokens=17, ends_loops=False) for prompt in prompts]
    drafted = [replace(job, drafts=Guesses(ids, rng, share)) for job, ids in zip(jobs, answers, strict=True)]
    drafted[3] = jobs[3]
    found = together(lmm, drafted, rows=3)
    assert ids_of(found) == answers
    assert (sum(answer.accepted for answer in found) > 0) == (share > 0)


def test_many_forced_tokens_are_read_in_one_pass(lmm, prompts):
    stop = lmm.config.tokens.stop[0]
    forced = [*np.random.default_rng(0).integers(20, 200, 80).tolist(), stop]
    job = Job(prompts[0], max_tokens=100, constraint=Forced(forced), ends_loops=False)
    other = Job(prompts[1], max_tokens=6, ends_loops=False)
    found = together(lmm, [job, other])
    assert ids_of(found) == [forced, alone(lmm, other)]
    assert found[0].steps < 5


def test_questions_about_one_page_go_on_from_its_end(lmm):
    page = picture(160, 96, 1)
    jobs = [Job(lmm.prepare([ask(f"Question {n}?", page)]), max_tokens=5, ends_loops=False) for n in range(5)]
    expected = [alone(lmm, job) for job in jobs]
    scheduler = Scheduler(lmm, rows=2)
    assert ids_of(list(scheduler.run(jobs))) == expected
    visual = jobs[0].prompt.visual_tokens
    assert scheduler.prompt_tokens <= sum(len(job.prompt) - visual for job in jobs) + visual
    assert scheduler.prefixes.nbytes > 0


def test_a_conversation_reads_what_is_new(lmm):
    """Turn by turn, and after an earlier answer was rewritten, as templates do that leave out thoughts."""
    session = Session(lmm, max_tokens=6)
    first = [piece.token for piece in session.send("What is the total?", [picture(90, 60, 2)])]
    read = len(lmm.tokenize(session.messages[:1]))
    second = [piece.token for piece in session.send("And the date?")]
    assert session.stats.reused_tokens >= read + len(first) - 1
    fresh = Session(lmm, max_tokens=6)
    again = list(session.messages[:2])
    fresh.resume(again)
    assert [piece.token for piece in fresh.send("And the date?")] == second
    edited = [
        ask("What is the total?", picture(90, 60, 2)),
        {"role": "assistant", "content": "Something else."},
        {"role": "user", "content": "And the date?"},
    ]
    other = [piece.token for piece in session.answer(edited)]
    visual = int(session.stats.visual_tokens)
    assert visual < session.stats.reused_tokens < read + 2
    assert [piece.token for piece in Session(lmm, max_tokens=6).answer(edited)] == other


def test_an_answer_that_is_left_half_way_goes_on(lmm):
    session = Session(lmm, max_tokens=12)
    stream = session.send("Hello there, how are you?")
    for _ in range(4):
        next(stream)
    stream.close()
    kept = list(session.messages)
    found = [piece.token for piece in session.send("Go on.")]
    fresh = Session(lmm, max_tokens=12)
    fresh.resume(kept)
    assert [piece.token for piece in fresh.send("Go on.")] == found
    assert session.stats.reused_tokens > 15


def test_memory_is_estimated_with_states(lmm):
    linear, text = HYBRID["linear"], lmm.config.text
    prompt = lmm.prepare([ask("Read.", picture(160, 96, 1))])
    cache = lmm.make_cache(gate=False)
    prefill(lmm, prompt, cache)
    keys = 2 * 2 * text.num_kv_heads * text.head_dim * 4
    assert kept_bytes(lmm, 100) - kept_bytes(lmm, 0) == 100 * keys
    assert kept_bytes(lmm, 0) == 5 * 2 * 4 * linear.state_numbers
    states = sum(x.nbytes for state in cache.states.values() for x in state.arrays)
    assert 2 * 2 * 4 * linear.state_numbers < states


def test_look_shows_the_layers_with_attention(lmm):
    seen = collect(lmm, [ask("What?", picture(60, 40))], max_tokens=2)
    assert (seen.num_layers, seen.decoder_layers) == (2, (1, 3))
    assert np.isfinite(seen.shift).all(), "both have a gate"
    assert describe(seen, None, None) == (
        "layers 0–1 of 0–1 (of the layers with attention, which are 1, 3) · mean of 4 heads"
    )
    assert np.allclose(seen.mass.sum(axis=-1), 1, atol=1e-5)


def test_joined_projections_give_the_same(lmm, prompts):
    expected = np.array(lmm.logits(prompts[0]))
    again = tiny_model(GateConfig(rank=4, kv_groups=0.5), **HYBRID)
    again.decoder.join()
    assert again.decoder.layers[0].attention._joined is not None
    assert relative(again.logits(prompts[0]), expected) <= 1e-6
    cache = again.make_cache()
    found = prefill(again, prompts[0], cache, chunk=1)
    assert relative(found, expected[:, -1]) <= 1e-5
    mx.eval(found)
