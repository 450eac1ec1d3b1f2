"""A Mac keeps a model's memory in the GPU's reach while something computes, and only then."""

from __future__ import annotations

import gc
import threading
from dataclasses import replace

import mlx.core as mx
import pytest
from support import ask, tiny_model

from rave_mlx import backend
from rave_mlx.backend import gpu_memory
from rave_mlx.backend.gpu_memory import clear_cache, wired_memory
from rave_mlx.chat.session import Session
from rave_mlx.generation.decode import decode
from rave_mlx.generation.job import Job
from rave_mlx.generation.prefill import prefill
from rave_mlx.generation.sampling import Sampling
from rave_mlx.generation.scheduler import Scheduler

RECOMMENDED = 48 << 30


class Limits(list):
    """What MLX was told: the wired limits set, and "cleared" for a cleared cache."""

    def set(self, limit):
        before = next((x for x in reversed(self) if x != "cleared"), 0)
        self.append(limit)
        return before


@pytest.fixture
def told(monkeypatch):
    """A machine that says it has Metal to the memory functions; everything else computes as it does here."""
    limits, metal = Limits(), replace(backend.current(), kind="metal")
    monkeypatch.setattr(mx, "set_wired_limit", limits.set)
    monkeypatch.setattr(mx, "device_info", lambda: {"max_recommended_working_set_size": RECOMMENDED})
    monkeypatch.setattr(mx, "clear_cache", lambda: limits.append("cleared"))

    class Seen:
        current = staticmethod(lambda: metal)

    monkeypatch.setattr(gpu_memory, "backend", Seen)
    return limits


def test_the_limit_is_raised_once_and_put_back(told):
    with wired_memory():
        with wired_memory():
            assert told == [RECOMMENDED]
        assert told == [RECOMMENDED]
    assert told == [RECOMMENDED, 0]


def test_blocks_of_several_threads(told):
    inside, leave = threading.Barrier(4), threading.Event()

    def work():
        with wired_memory():
            inside.wait()
            leave.wait()

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    inside.wait()
    assert told == [RECOMMENDED]
    leave.set()
    for thread in threads:
        thread.join()
    assert told == [RECOMMENDED, 0]


def test_an_error_puts_it_back(told):
    with pytest.raises(KeyError), wired_memory():
        raise KeyError
    assert told == [RECOMMENDED, 0]


def test_other_machines_have_no_such_limit(monkeypatch):
    monkeypatch.setattr(mx, "set_wired_limit", lambda limit: pytest.fail("there is nothing to set"))
    if backend.current().kind != "metal":
        with wired_memory():
            clear_cache()


def limits_of(told):
    return [x for x in told if x != "cleared"]


def test_a_conversation_holds_it_for_an_answer(told):
    session = Session(tiny_model(), max_tokens=3)
    pieces = session.send("Total?")
    next(pieces)
    assert limits_of(told) == [RECOMMENDED]
    pieces.close()
    assert limits_of(told) == [RECOMMENDED, 0]


def test_a_pile_holds_it_until_its_last_answer(told):
    lmm = tiny_model()
    scheduler = Scheduler(lmm)
    for text in ("Date?", "Total?"):
        scheduler.add(Job(lmm.prepare([ask(text)]), 4))
    scheduler.step()
    assert limits_of(told) == [RECOMMENDED]
    while scheduler.is_busy:
        scheduler.step()
    assert limits_of(told) == [RECOMMENDED, 0]


def test_buffers_are_given_back_after_a_chunk_and_now_and_then(told, monkeypatch):
    monkeypatch.setattr("rave_mlx.generation.decode.CLEAR_EVERY", 4)
    lmm = tiny_model()
    prompt = lmm.prepare([ask("What is the total?")])
    cache = lmm.make_cache()
    logits = prefill(lmm, prompt, cache, chunk=-(-len(prompt) // 3))
    assert told == ["cleared"] * 3
    lmm.config = replace(lmm.config, tokens=replace(lmm.config.tokens, stop=(999,)))
    list(decode(lmm, prompt, cache, logits, Sampling(), max_tokens=10))
    assert told == ["cleared"] * 5


def test_a_pile_that_nobody_ends_lets_it_go(told):
    lmm = tiny_model()
    scheduler = Scheduler(lmm)
    scheduler.add(Job(lmm.prepare([ask("Date?")]), 40))
    scheduler.step()
    assert limits_of(told) == [RECOMMENDED]
    del scheduler
    gc.collect()
    assert limits_of(told) == [RECOMMENDED, 0]
