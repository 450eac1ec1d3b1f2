"""A pile of jobs: in order, as they are needed, with bounded memory, and without a thread that stays behind."""

from __future__ import annotations

import gc
import threading
import time

import mlx.core as mx
import numpy as np
import pytest
from generation.writing import alone
from support import ask, picture, tiny_model

from rave_mlx.config import GateConfig
from rave_mlx.errors import ImageError
from rave_mlx.generation.job import Failed, Job
from rave_mlx.generation.job_feed import JobFeed
from rave_mlx.generation.scheduler import Scheduler
from rave_mlx.generation.turns import Turns


@pytest.fixture(scope="module")
def lmm():
    return tiny_model(GateConfig(rank=4, kv_groups=0.5))


@pytest.fixture(scope="module")
def prompt(lmm):
    return lmm.prepare([{"role": "user", "content": "Hello?"}])


def workers():
    return [thread for thread in threading.enumerate() if thread.name == "jobs"]


def test_answers_come_in_the_order_of_the_jobs(lmm, prompt):
    """Long and short answers, and jobs that could not be made, which take no row."""
    rng = np.random.default_rng(0)
    jobs = [
        Failed(ImageError("no page"), n) if n % 7 == 3 else Job(prompt, max_tokens=int(rng.integers(1, 30)), key=n)
        for n in range(30)
    ]
    whole = alone(lmm, Job(prompt, max_tokens=30))
    answers = list(Scheduler(lmm, rows=4).run(iter(jobs)))
    assert [answer.key for answer in answers] == list(range(30))
    for job, answer in zip(jobs, answers, strict=True):
        if isinstance(job, Failed):
            assert (answer.ending, str(answer.error)) == ("error", "no page")
        else:
            assert list(answer.ids) == whole[: job.max_tokens]
    assert not workers()


def test_jobs_are_made_as_they_are_needed_in_another_thread(lmm, prompt):
    made = []

    def jobs():
        for n in range(50):
            made.append((n, threading.current_thread().name))
            yield Job(prompt, max_tokens=3, key=n)

    answers = Scheduler(lmm, rows=2).run(jobs())
    for n in range(20):
        assert next(answers).key == n
        # Rows, the queue, and the one that waits for room in it.
        assert len(made) <= n + 1 + 2 + 4 + 1 + 2
    answers.close()
    assert not workers()
    assert len(made) < 35
    assert {name for _, name in made} == {"jobs"}


def test_an_error_of_the_iterable_comes_after_the_answers_before_it(lmm, prompt):
    def jobs():
        for n in range(5):
            yield Job(prompt, max_tokens=8, key=n)
        raise RuntimeError("the folder is gone")

    seen = []
    with pytest.raises(RuntimeError, match="the folder is gone"):
        seen.extend(answer.key for answer in Scheduler(lmm, rows=2).run(jobs()))
    assert not workers()
    found = Scheduler(lmm, rows=2).run(jobs())
    assert [next(found).key for _ in range(5)] == list(range(5))
    with pytest.raises(RuntimeError):
        next(found)


def test_whoever_stops_early_ends_the_iterable_and_the_answers(lmm, prompt):
    ended = []

    def jobs():
        try:
            while True:
                yield Job(prompt, max_tokens=2000)
        finally:
            ended.append(threading.current_thread().name)

    scheduler = Scheduler(lmm, rows=3)
    answers = scheduler.run(jobs())
    came = threading.Event()

    def cancel():
        # Again and again: a slow machine may take its time until there are answers to cancel.
        while not came.wait(0.1):
            for ticket in range(3):
                scheduler.cancel(ticket)

    thread = threading.Thread(target=cancel)
    thread.start()
    assert next(answers).ending == "cancelled"
    came.set()
    thread.join()
    answers.close()
    assert ended == ["jobs"]
    assert not workers()
    scheduler.step()
    assert not scheduler.is_busy


def test_nothing_comes_of_nothing(lmm):
    assert list(Scheduler(lmm).run([])) == []


def test_a_hundred_jobs_take_the_memory_of_a_few(lmm):
    """Arrays of MLX and pixels of pages: as many after a hundred pages as after twenty."""

    def jobs():
        for n in range(100):
            yield Job(lmm.prepare([ask("Read.", picture(72, 56, n))]), max_tokens=4, key=n)

    scheduler, live = Scheduler(lmm, rows=4, prefix_bytes=1 << 20), []
    for answer in scheduler.run(jobs()):
        if answer.key in (20, 99):
            gc.collect()
            live.append((mx.get_active_memory(), sum(isinstance(x, Job) for x in gc.get_objects())))
    (first, _), (last, held) = live
    assert last <= first + (1 << 20)
    assert held <= 4 + 4 + 2
    assert scheduler.prefixes.nbytes <= 1 << 20
    assert sum(x.nbytes for x in scheduler.features.values()) <= 1 << 20


def test_a_feed_waits_for_room_and_gives_back_what_it_took():
    taken = []

    def items():
        for n in range(100):
            taken.append(n)
            yield n

    with JobFeed(items(), 3) as feed:
        deadline = time.monotonic() + 10
        while len(taken) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.2)
        assert taken == [0, 1, 2, 3]
        assert [feed.take(wait=True) for _ in range(10)] == list(range(10))
        assert not feed.is_over
    with JobFeed([1], 3) as feed:
        assert (feed.take(wait=True), feed.take(wait=True), feed.is_over, feed.take(wait=True)) == (1, None, True, None)


def test_turns_go_in_the_order_of_asking():
    """A thread that gives its turn back and asks again comes after one that has waited."""
    turns, order = Turns(), []

    def ask_often(name, times):
        for _ in range(times):
            with turns, turns:
                order.append(name)
                time.sleep(0.01)

    threads = [threading.Thread(target=ask_often, args=(name, 8)) for name in "ab"]
    with turns:
        for thread in threads:
            thread.start()
        time.sleep(0.1)
        assert order == []
    for thread in threads:
        thread.join()
    assert "".join(order).count("aa") + "".join(order).count("bb") <= 1
    assert sorted(order) == ["a"] * 8 + ["b"] * 8
