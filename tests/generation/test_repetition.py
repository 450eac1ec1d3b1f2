"""Loops are noticed and cut after the first time; what real pages repeat is not."""

from __future__ import annotations

from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from generation.writing import together
from support import tiny_model

from rave_mlx.generation.job import Job
from rave_mlx.generation.repetition import Repeats, loop_in

HEAD = "Invoice 2024-118\n\n| Item | Price |\n|---|---|\n| Paper | 4.20 |\n"
SENTENCE = "The amount is due within thirty days of the date of this invoice. "
PARAGRAPH = "".join(f"{word} is one of the words that this paragraph is about. " for word in "abcdefghijklmnop")

LOOPS = {
    "a word": (HEAD, "very ", 200),
    "a sentence": (HEAD, SENTENCE, 40),
    "a paragraph longer than what is looked at by symbols": (HEAD, PARAGRAPH + "\n", 14),
    "a line": (HEAD, "Total amount: see below for details\n", 60),
    "a table row": (HEAD, "| Paper | 4.20 | EUR |\n", 80),
    "empty table rows": (HEAD, "| | | |\n", 150),
    "rows in HTML": ("<table>", "<tr><td>Paper</td><td>4.20</td></tr>\n", 90),
    "equal items of an array": ('{"items": [', '{"name": "Paper", "amount": 1}, ', 80),
    "null items": ('{"items": [', '{"name": null, "amount": null}, ', 80),
    "line breaks": (HEAD, "\n", 700),
    "dots without end": ("Chapter 1 ", ".", 900),
    "Japanese": ("請求書\n", "合計金額は以下の通りです。", 90),
}
COUNTING = {
    "numbered empty rows": (HEAD, "| {n} | |\n"),
    "numbered items": ('{"items": [', '{{"number": {n}, "text": ""}}, '),
    "numbered lines": ("", "Line {n}\n"),
    "years": ("", "In {n} the company made a profit and paid a dividend. "),
}
REAL = {
    "thirty equal cells": HEAD + "| x " * 30 + "|\n" + "End of the table.",
    "a table of zeros": HEAD + ("| 0.00 " * 12 + "|\n") * 45,
    "a column of zeros": "Amount\n" + "0\n" * 60,
    "a column of equal words": "\n".join(["Yes"] * 60),
    "an empty form": ("| | | | | |\n" * 45) + "Signature",
    "numbered blank rows": "".join(f"| {n} | | |\n" for n in range(1, 61)),
    "dots of a table of contents": "".join(f"Chapter {n} {'.' * 120} {7 * n}\n" for n in range(1, 40)),
    "ruled lines": ("_" * 90 + "\n") * 35,
    "a rule": "=" * 400,
    "labels": "Ms Anna Smith\nMain Street 5\n12345 Springfield\nUnited States\n\n" * 30,
    "a list of years": "".join(f"{n}\n" for n in range(1930, 2025)),
    "prices": "".join(f"Paper {n * 37 % 100}.{n * 53 % 90 + 10}\n" for n in range(200)),
    "dates": "".join(f"2024-{m:02}-{d:02} 8.00 h\n" for m in range(1, 7) for d in range(1, 29)),
    "JSON of a statement": "".join(f'{{"day": {n}, "amount": {n * 91 % 77}}}, ' for n in range(150)),
    "a times table": "".join(f"{a} x {b} = {a * b}\n" for a in range(1, 11) for b in range(1, 11)),
    "a long number": "3.14159265358979323846264338327950288419716939937510" * 2,
    "answers of a survey": "".join(f"{n}. Do you agree? Yes No\n" for n in range(1, 50)),
    "half a loop": HEAD + SENTENCE * 20,
}


def pieces(text, seed=0):
    """The text cut into tokens of 1 to 6 characters; the same text has the same id."""
    rng = np.random.default_rng(seed)
    found, ids = [], {}
    while text:
        size = int(rng.integers(1, 7))
        found.append(text[:size])
        text = text[size:]
    return [ids.setdefault(piece, len(ids)) for piece in found], found


def kept_text(text, cut=pieces):
    ids, texts = cut(text)
    kept = loop_in(ids, texts)
    return None if kept is None else "".join(texts[:kept])


def characters(text):
    return [ord(c) for c in text], list(text)


@pytest.mark.parametrize("cut", [pieces, characters])
@pytest.mark.parametrize("name", LOOPS)
def test_loops_are_cut_after_the_first_time(name, cut):
    head, unit, times = LOOPS[name]
    kept = kept_text(head + unit * times, cut)
    assert kept is not None
    # A token that reaches into the second unit is left out with it.
    assert (head + unit).startswith(kept)
    assert len(kept) > len(head + unit) - 7 - len(unit) * (len(unit) < 7)


@pytest.mark.parametrize("name", COUNTING)
def test_loops_that_count_are_cut_too(name):
    head, unit = COUNTING[name]
    text = head + "".join(unit.format(n=n) for n in range(1, 300))
    kept = kept_text(text)
    assert kept is not None
    assert len(head) + len(unit) - 10 <= len(kept) <= len(head) + len(unit) + 4


@pytest.mark.parametrize("cut", [pieces, characters])
@pytest.mark.parametrize("name", REAL)
def test_what_real_pages_repeat_is_left(name, cut):
    assert kept_text(REAL[name] + "\nThe end of the page, with thanks.", cut) is None


def test_tokens_without_text_loop_as_well():
    assert loop_in([7] * 600, [""] * 600) == 1
    assert loop_in([5, 6, 7] * 300, [""] * 900) == 3
    assert loop_in(list(range(600)), [""] * 600) is None
    assert loop_in([1, *[2] * 600], ["4", *["0"] * 600]) == 2


@pytest.mark.parametrize("seed", range(3))
def test_repeats_are_those_that_are_there(seed):
    rng = np.random.default_rng(seed)
    unit = rng.integers(0, 3, rng.integers(1, 12))
    sequence = np.concatenate(
        [rng.integers(0, 3, rng.integers(0, 40)), np.tile(unit, 9), unit[: rng.integers(len(unit))]]
    )
    repeats = Repeats(30)
    for symbol in sequence.tolist():
        repeats.add(symbol)
    found = dict(repeats.candidates(4))
    for lag in range(1, 31):
        same = sequence[lag:] == sequence[:-lag]
        run = len(same) if same.all() else int(np.argmin(same[::-1]))
        if run < 3 * lag:
            assert lag not in found
        elif not any(lag % shorter == 0 and shorter < lag for shorter in found):
            assert found[lag] == len(sequence) - run
    assert found


def test_an_answer_is_cut_and_says_so():
    """A model that writes the same words for ever."""
    lmm = tiny_model()
    prompt = lmm.prepare([{"role": "user", "content": "Hello?"}])
    unit = lmm.tokenizer.encode("a b c d e ", first=False)[0]

    def forever(tokens, logits):
        return mx.where(mx.arange(272) == unit[(len(tokens) - len(prompt)) % len(unit)], 50.0, logits)

    job = Job(prompt, max_tokens=400, processors=(forever,))
    cut, whole = together(lmm, [job, replace(job, ends_loops=False)])
    assert (cut.ending, cut.ids, cut.text) == ("repetition", tuple(unit), "a b c d e ")
    assert len(cut.probabilities) == len(unit)
    assert 320 <= cut.steps < 350
    assert (whole.ending, len(whole.ids)) == ("length", 400)
