"""Drafts, constraints, seeds, cancelled and failed answers, and pages that are read once: among other answers."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from generation.writing import alone, ids_of, together
from support import ask, picture, tiny_model

from rave_mlx.config import GateConfig
from rave_mlx.errors import MemoryLimitError, ModelError, PromptError, UsageError
from rave_mlx.generation import scheduler as scheduler_module
from rave_mlx.generation.job import Failed, Job
from rave_mlx.generation.sampling import Sampling
from rave_mlx.generation.scheduler import Scheduler
from rave_mlx.models.lmm import LMM


@pytest.fixture(scope="module")
def lmm():
    return tiny_model(GateConfig(rank=4, kv_groups=0.5))


@pytest.fixture(scope="module")
def prompts(lmm):
    messages = [[ask("word " * n, picture(8 * n + 16, 40, n))] for n in range(1, 5)]
    return [lmm.prepare(each) for each in (*messages, [{"role": "user", "content": "Hello?"}])]


class Guesses:
    """Drafts that are right for `right` tokens, then wrong."""

    def __init__(self, answer, right, start=0):
        self.answer, self.right, self.start = answer, right, start

    def draft(self, answer, most):
        assert list(answer) == self.answer[: len(answer)]
        if len(answer) < self.start:
            return []
        known = self.answer[len(answer) : len(answer) + self.right]
        wrong = [(token + 1) % 250 for token in self.answer[len(answer) + len(known) :]]
        return (known + wrong)[:most]


class Words:
    """Token by token one of the sets; a set of one is forced."""

    def __init__(self, *sets, vocabulary=272, force=True):
        self.sets, self.vocabulary, self.force, self.seen = sets, vocabulary, force, []

    def mask(self):
        marks = np.zeros(self.vocabulary, bool)
        marks[list(self.sets[len(self.seen)])] = True
        return marks

    def forced(self):
        found = []
        for allowed in self.sets[len(self.seen) :]:
            if len(allowed) > 1 or not self.force:
                break
            found += allowed
        return found

    def accept(self, token):
        if token not in self.sets[len(self.seen)]:
            raise ValueError(token)
        self.seen.append(token)


STOP = 2
SETS = [[60, 61], [70], [71], [72], [80, 81, 82], [90], [100, 101], [STOP]]


def constrained(lmm, prompt, sets=SETS):
    """The ids and probabilities of the answer that `Words` allows, each from a whole pass."""
    ids, chances = [], []
    from rave_mlx.generation.decode import continued

    for allowed in sets:
        logits = np.array(lmm.logits(continued(prompt, ids) if ids else prompt))[0, -1].astype(np.float64)
        ids.append(max(allowed, key=lambda token: logits[token]))
        chances.append(np.exp(logits[ids[-1]] - logits.max()) / np.exp(logits - logits.max()).sum())
    return ids, chances


@pytest.mark.parametrize("right", [0, 1, 3, 100])
def test_drafts_change_nothing(lmm, prompts, right):
    """Every row drafts, and is wrong, at other places; a row without drafts and a sampled one are among them."""
    jobs = [Job(prompt, max_tokens=17, ends_loops=False) for prompt in prompts]
    expected = [alone(lmm, job) for job in jobs]
    drafted = [
        replace(job, drafts=Guesses(ids, right, start=i))
        for i, (job, ids) in enumerate(zip(jobs, expected, strict=True))
    ]
    drafted[3] = jobs[3]
    sampled = Job(prompts[0], max_tokens=17, sampling=Sampling(temperature=1.0, seed=1), ends_loops=False)
    plain = together(lmm, [sampled])[0]
    never = replace(sampled, drafts=Guesses([], 5))
    answers = together(lmm, [*drafted, never])
    assert ids_of(answers) == [*expected, list(plain.ids)]
    for answer in answers[:3]:
        assert answer.accepted == 0 if right == 0 else answer.accepted > 0
        assert answer.drafted >= answer.accepted
        assert answer.steps < 17 if right > 1 else answer.steps <= 17
    assert answers[0].steps == {0: 17, 100: 2}.get(right, answers[0].steps)
    assert (answers[3].drafted, answers[3].steps, answers[-1].drafted) == (0, 17, 0)
    chances = together(lmm, [jobs[0]])[0].probabilities
    assert answers[0].probabilities == pytest.approx(chances, rel=1e-4)


@pytest.mark.parametrize("seed", range(2))
def test_random_drafts_change_nothing(lmm, prompts, seed):
    rng = np.random.default_rng(seed)

    class Random:
        def __init__(self, answer):
            self.answer = answer

        def draft(self, answer, most):
            count = int(rng.integers(0, most + 1))
            guess = self.answer[len(answer) : len(answer) + count]
            return [token if rng.random() < 0.8 else int(rng.integers(250)) for token in guess]

    jobs = [Job(prompt, max_tokens=int(rng.integers(1, 40)), ends_loops=False) for prompt in prompts * 2]
    expected = [alone(lmm, job) for job in jobs]
    drafted = [replace(job, drafts=Random(ids)) for job, ids in zip(jobs, expected, strict=True)]
    answers = together(lmm, drafted, rows=4)
    assert ids_of(answers) == expected
    assert sum(a.accepted for a in answers) > 40


def test_drafts_end_at_the_stop_token_and_at_the_limit(prompts):
    lmm = tiny_model(GateConfig(rank=4, kv_groups=0.5))
    ids = alone(lmm, Job(prompts[0], max_tokens=20))
    lmm.config = replace(lmm.config, tokens=replace(lmm.config.tokens, stop=(ids[9],)))
    first = ids.index(ids[9]) + 1
    answer = together(lmm, [Job(prompts[0], max_tokens=20, drafts=Guesses(ids, 100))])[0]
    assert (list(answer.ids), answer.ending) == (ids[:first], "stop")
    answer = together(lmm, [Job(prompts[0], max_tokens=3, drafts=Guesses(ids, 100))])[0]
    assert (list(answer.ids), answer.ending) == (ids[:3], "length")


@pytest.mark.parametrize("force", [True, False])
def test_a_constraint_is_kept_and_what_it_forces_is_read_together(lmm, prompts, force):
    jobs = [Job(prompt, constraint=Words(*SETS, force=force)) for prompt in prompts[:3]]
    free = Job(prompts[4], max_tokens=11, ends_loops=False)
    answers = together(lmm, [*jobs, free])
    for job, answer in zip(jobs, answers[:3], strict=True):
        ids, chances = constrained(lmm, job.prompt)
        assert list(answer.ids) == ids
        assert answer.ending == "stop"
        assert answer.probabilities == pytest.approx(chances, rel=1e-3)
        assert answer.steps == (4 if force else 8)
        assert job.constraint.seen == ids[: len(job.constraint.seen)]
    assert list(answers[3].ids) == alone(lmm, free)


def test_constraint_and_drafts_together(lmm, prompts):
    ids, _ = constrained(lmm, prompts[0])
    for right in (0, 2, 100):
        job = Job(prompts[0], constraint=Words(*SETS, force=right != 100), drafts=Guesses(ids, right))
        answer = together(lmm, [job])[0]
        assert list(answer.ids) == ids
    assert (answer.steps, answer.accepted) == (2, 7)


def test_a_sampled_answer_keeps_to_the_constraint(lmm, prompts):
    sampling = Sampling(temperature=3.0, top_k=2, seed=5)
    answers = together(
        lmm, [Job(prompts[0], sampling=replace(sampling, seed=s), constraint=Words(*SETS)) for s in range(6)]
    )
    for answer in answers:
        assert answer.ending == "stop"
        assert all(token in allowed for token, allowed in zip(answer.ids, SETS, strict=True))
    assert len({answer.ids for answer in answers}) > 1


def test_a_constraint_is_cut_by_the_limit(lmm, prompts):
    answer = together(lmm, [Job(prompts[0], max_tokens=3, constraint=Words(*SETS))])[0]
    assert list(answer.ids) == constrained(lmm, prompts[0])[0][:3]
    assert answer.ending == "length"


def test_a_constraint_that_allows_nothing_is_an_error_of_its_answer(lmm, prompts):
    jobs = [Job(prompts[0], constraint=Words([60, 61], []), key=1), Job(prompts[1], max_tokens=4, key=2)]
    answers = together(lmm, jobs)
    assert isinstance(answers[0].error, ModelError)
    assert "allows no token" in str(answers[0].error)
    assert (answers[0].ending, len(answers[0].ids), answers[1].error) == ("error", 1, None)


def test_a_seed_gives_the_same_answer_in_any_company(lmm, prompts):
    sampling = Sampling(temperature=1.3, top_p=0.95, min_p=0.01, top_k=100, repetition_penalty=1.2, seed=7)
    jobs = [
        Job(prompt, max_tokens=12, sampling=replace(sampling, seed=n), ends_loops=False)
        for n, prompt in enumerate(prompts)
    ]
    expected = [alone(lmm, job) for job in jobs]
    assert ids_of(together(lmm, jobs)) == expected
    assert ids_of(together(lmm, [*reversed(jobs), Job(prompts[0], max_tokens=5)], rows=2))[:5] == expected[::-1]


def test_without_a_seed_answers_differ_and_follow_mlxs_random_state(lmm, prompts):
    jobs = [Job(prompts[4], max_tokens=12, sampling=Sampling(temperature=2.0)) for _ in range(4)]
    mx.random.seed(3)
    first = ids_of(together(lmm, jobs))
    assert len({tuple(ids) for ids in first}) == 4
    mx.random.seed(3)
    assert ids_of(together(lmm, jobs)) == first


def test_pieces_come_while_the_others_are_read_and_written(lmm, prompts, monkeypatch):
    monkeypatch.setattr(scheduler_module, "CHUNK", 8)
    scheduler = Scheduler(lmm, rows=3)
    tickets = [scheduler.add(Job(prompts[4], max_tokens=60, ends_loops=False))]
    events = [event for _ in range(10) for event in scheduler.step()]
    assert any(event.text for event in events)
    tickets += [scheduler.add(Job(prompt, max_tokens=9, ends_loops=False)) for prompt in prompts[:3]]
    first, grown = scheduler._open[tickets[0]], []
    while scheduler.is_busy:
        before, was_reading = len(first.ids), scheduler._read is not None
        events += scheduler.step()
        if was_reading and first.ending is None:
            grown.append(len(first.ids) - before)
    # The first answer goes on while prompts are read in chunks of 8 tokens: a token a step, but where a row joins.
    assert len(grown) >= 12
    assert set(grown) <= {0, 1}
    assert sum(grown) >= len(grown) - 6
    for ticket, prompt, most in zip(tickets, [prompts[4], *prompts[:3]], [60, 9, 9, 9], strict=True):
        mine = [event for event in events if event.ticket == ticket]
        answer = mine[-1].answer
        assert answer is not None
        assert "".join(event.text for event in mine) == answer.text
        assert list(answer.ids) == alone(lmm, Job(prompt, max_tokens=most))
        assert sum(event.answer is not None for event in mine) == 1
    assert scheduler.step() == []


def test_a_cancelled_answer_ends_and_the_others_go_on(lmm, prompts):
    scheduler = Scheduler(lmm, rows=2)
    tickets = [scheduler.add(Job(prompt, max_tokens=20, key=i, ends_loops=False)) for i, prompt in enumerate(prompts)]
    scheduler.cancel(tickets[3])
    answers = {}
    for number in range(200):
        if number == 12:
            scheduler.cancel(tickets[0])
        for event in scheduler.step():
            if event.answer is not None:
                answers[event.answer.key] = event.answer
    scheduler.cancel(tickets[0])
    assert not scheduler.is_busy
    assert [answers[i].ending for i in range(5)] == ["cancelled", "length", "length", "cancelled", "length"]
    assert answers[3].ids == ()
    ids = list(answers[0].ids)
    assert 0 < len(ids) < 20
    assert ids == alone(lmm, Job(prompts[0], max_tokens=20))[: len(ids)]
    assert [list(answers[i].ids) for i in (1, 2, 4)] == [alone(lmm, Job(prompts[i], max_tokens=20)) for i in (1, 2, 4)]


def test_an_error_is_in_its_answer_and_the_others_go_on(lmm, prompts, monkeypatch):
    def too_much(tokens, logits):
        if len(tokens) == len(prompts[1]) + 2:
            raise MemoryLimitError("no room for that")
        return logits

    monkeypatch.setattr(scheduler_module.backend, "memory", lambda: replace(MEMORY, available=300_000))
    jobs = [
        Job(prompts[0], max_tokens=5, key="good"),
        Failed(PromptError("no page"), "not made"),
        Job(prompts[1], max_tokens=5, processors=(too_much,), key="processor"),
        Job(lmm.prepare([ask("x " * 1900)]), max_tokens=2, key="too long"),
        Job(prompts[2], max_tokens=5, key="good too"),
    ]
    answers = {answer.key: answer for answer in together(lmm, jobs)}
    assert list(answers) == [job.key for job in jobs]
    assert [a.ending for a in answers.values()] == ["length", "error", "error", "error", "length"]
    assert str(answers["not made"].error) == "no page"
    assert list(answers["processor"].ids) == alone(lmm, Job(prompts[1], max_tokens=5))[:2]
    assert isinstance(answers["too long"].error, MemoryLimitError)
    assert list(answers["good too"].ids) == alone(lmm, Job(prompts[2], max_tokens=5))


MEMORY = scheduler_module.backend.system.Memory(1 << 33, 1 << 33)


def test_few_rows_are_written_where_there_is_little_memory(lmm, prompts, monkeypatch):
    """Room for two of them: as with two rows; all are answered."""
    need = 3 * 2 * lmm.config.text.num_layers * 2 * 16 * 4 * (len(prompts[3]) + 10)
    monkeypatch.setattr(scheduler_module.backend, "memory", lambda: replace(MEMORY, available=3 * need))
    scheduler = Scheduler(lmm, rows=5)
    for prompt in prompts:
        scheduler.add(Job(prompt, max_tokens=10, ends_loops=False))
    most, ended = 0, 0
    while scheduler.is_busy:
        ended += sum(event.answer is not None for event in scheduler.step())
        most = max(most, scheduler._writing)
    assert ended == 5
    assert 1 <= most < 5


def test_scores_that_are_no_numbers_end_one_answer(prompts):
    lmm = tiny_model()
    lmm.decoder.embed.weight = mx.where(mx.arange(272)[:, None] == 77, mx.nan, lmm.decoder.embed.weight)
    jobs = [Job(prompts[4], max_tokens=6, constraint=Words([77, 78], *[[60, 61]] * 5)), Job(prompts[4], max_tokens=6)]
    scores = Words([77], *[[60, 61]] * 5)
    answers = together(lmm, [replace(jobs[0], constraint=scores), jobs[1]])
    assert isinstance(answers[0].error, ModelError)
    assert "not numbers" in str(answers[0].error)
    assert answers[0].ids == (77,)
    assert list(answers[1].ids) == alone(lmm, jobs[1])


def test_a_page_is_read_once_for_many_questions(lmm, monkeypatch):
    encoded = []
    real = LMM.features
    monkeypatch.setattr(LMM, "features", lambda self, image: encoded.append(image.digest) or real(self, image))
    page, other = picture(160, 96, 1), picture(160, 96, 2)
    messages = [[ask(f"Question {n}?", page if n % 4 else other)] for n in range(20)]
    jobs = [Job(lmm.prepare(each), max_tokens=6, ends_loops=False) for each in messages]
    expected = [alone(lmm, job) for job in jobs]
    encoded.clear()
    scheduler = Scheduler(lmm, rows=4)
    assert ids_of(list(scheduler.run(jobs))) == expected
    assert len(encoded) == 2
    visual = jobs[0].prompt.visual_tokens
    most = sum(len(job.prompt) - visual for job in jobs) + 2 * visual
    assert 2 * visual < scheduler.prompt_tokens <= most
    unshared = Scheduler(lmm, rows=4, prefix_bytes=0)
    assert ids_of(list(unshared.run(jobs))) == expected
    assert unshared.prompt_tokens == sum(len(job.prompt) for job in jobs)


def test_what_there_is_none_of_is_refused(lmm, prompts):
    with pytest.raises(UsageError, match="rows is 0"):
        Scheduler(lmm, rows=0)
    answer, other = together(lmm, [Job(prompts[0], max_tokens=0), Job(prompts[0], max_tokens=1)])
    assert isinstance(answer.error, UsageError)
    assert (answer.ids, answer.certainty, len(other.ids)) == ((), 0.0, 1)
