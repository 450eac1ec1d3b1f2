"""Found words: what they make of a finder's answers, and answers of the built-in model with a finder of one word."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from families import cases, write_checkpoint
from finders import write_pointer
from PIL import Image, ImageDraw, ImageFont
from support import ask, picture, tiny_model

import rave_mlx
from rave_mlx.chat.jobs import make_job
from rave_mlx.chat.session import Session
from rave_mlx.checkpoint.directory import BUILT_IN
from rave_mlx.errors import UsageError
from rave_mlx.generation.scheduler import Scheduler
from rave_mlx.inputs.lines.page_words import PageWord
from rave_mlx.inputs.prompt.message import Message, TextPart
from rave_mlx.models.finder.answer_spans import Span
from rave_mlx.models.finder.config import KINDS
from rave_mlx.models.finder.finder import Found
from rave_mlx.policies.parse import steering
from rave_mlx.policies.rereading import found_words
from rave_mlx.policies.rereading.found_words import FoundWords, _question, answers_of
from rave_mlx.policies.rereading.read_words import ReadWord

POLICY, QUESTION = "rave+words:sure=2", "What is the total?"


def kinds(**given):
    return {kind: given.get(kind, 0.0) for kind in KINDS}


def read(*certainties):
    return [ReadWord(PageWord(f"w{i}", 0, 0, 1, 1), certainty) for i, certainty in enumerate(certainties)]


# Answers


def test_answers_are_as_likely_as_found_and_read():
    found = Found(
        kinds(span=0.6, absent=0.2, yes=0.1, no=0.05, summary=0.05),
        (Span("w0 w2", (0, 2), 0.5), Span("w1", (1,), 0.25)), 0.125,
    )  # fmt: skip
    answers = answers_of(found, read(0.9, 0.4, 0.7), "not found")
    assert [text for text, _ in answers] == ["not found", "yes", "no", "w0 w2", "w1"]
    assert [value for _, value in answers] == pytest.approx([0.8 * 0.125, 0.1, 0.05, 0.8 * 0.5 * 0.7, 0.8 * 0.25 * 0.4])
    assert answers_of(found, read(1, 1, 1), "nicht da")[0][0] == "nicht da"


def test_answers_sum_to_1_at_most():
    rng = np.random.default_rng(0)
    for _ in range(50):
        shares, spans = rng.dirichlet(np.ones(len(KINDS))), rng.dirichlet(np.ones(4))
        found = Found(
            dict(zip(KINDS, shares, strict=True)),
            tuple(Span(f"w{i}", (i,), value) for i, value in enumerate(spans[1:])), spans[0],
        )  # fmt: skip
        certain = sum(value for _, value in answers_of(found, read(1, 1, 1), "no"))
        assert certain == pytest.approx(shares[:4].sum())
        assert sum(value for _, value in answers_of(found, read(*rng.random(3)), "no")) < certain


@pytest.mark.parametrize(
    ("messages", "expected"),
    [
        ([("user", "One?")], "One?"), ([("user", "One?"), ("assistant", "1"), ("user", " Two? ")], "Two?"),
        ([("user", "One?"), ("assistant", "The ans")], ""), ([("system", "Be kind.")], ""), ([("user", " ")], ""),
        ([("user", "One?"), ("tool", "5")], "One?"),
    ],
)  # fmt: skip
def test_the_question_is_what_the_user_asked_last(messages, expected):
    assert _question([Message(role, (TextPart(text),)) for role, text in messages]) == expected


# Refusals


@pytest.mark.parametrize("trust", ["0", "1", "1.5", "-0.1"])
def test_a_trust_that_makes_no_sense_is_refused(trust):
    with pytest.raises(UsageError, match="^--attention words: trust .* must be above 0 and below 1$"):
        steering(f"words:trust={trust}")


def test_settings_are_read():
    (policy,) = steering("words:trust=0.5,absent=nothing").policies
    assert policy == FoundWords(trust=0.5, absent="nothing")


def test_a_model_without_a_finder_is_refused(tmp_path):
    for lmm, name in ((tiny_model(), "this model"), (copy(tmp_path / "model", None, None), str(tmp_path / "model"))):
        session = Session(lmm, policy="words", max_tokens=3)
        with pytest.raises(UsageError, match="has no folder 'finder'") as caught:
            list(session.send(QUESTION, [picture()]))
        assert str(caught.value).startswith(f"--attention words: {name}")
        assert "\n" not in str(caught.value)
        assert session.messages == []
        assert list(session.send("How are you?"))  # there is no page to read


def test_a_model_that_reads_text_only_is_refused(tmp_path):
    lmm = rave_mlx.load(write_checkpoint(cases()["qwen2"], tmp_path))
    with pytest.raises(UsageError, match="^--attention words: this model reads text only"):
        Session(lmm, policy="words")


# Whole answers


def copy(folder: Path, word: str | None, kind: str | None):
    """The built-in model with a finder that points to a word."""
    shutil.copytree(BUILT_IN, folder, ignore=shutil.ignore_patterns("finder", "hub", "README.md"))
    if word is not None:
        write_pointer(folder / "finder", word, kind)
    return rave_mlx.load(folder)


@pytest.fixture(scope="module")
def harbour(tmp_path_factory):
    """A model whose finder answers every question with the word Harbour, where a page has it."""
    return copy(tmp_path_factory.mktemp("found") / "model", "harbour", "span")


def page(*rows):
    """A small page with rows of cells."""
    image = Image.new("RGB", (420, 20 + 36 * len(rows)), "white")
    for number, row in enumerate(rows):
        for x, text in zip((20, 250), row.split("|"), strict=False):
            ImageDraw.Draw(image).text((x, 12 + 36 * number), text, fill="black", font=ImageFont.load_default(18))
    return image


HARBOUR = page("Harbour Cafe", "Total|13.60")
PLAIN = page("Invoice", "Total|20.50")


def said(session, text, *images):
    return "".join(piece.text for piece in session.send(text, images))


def written(lmm, requests, policy=POLICY):
    """Answers of a scheduler to (question, images), some at a time."""
    scheduler = Scheduler(lmm)
    stores = {"features": scheduler.features, "prefixes": scheduler.prefixes}
    jobs = [make_job(lmm, [ask(q, *images)], policy=policy, max_tokens=24, **stores) for q, images in requests]
    return list(scheduler.run(jobs))


@pytest.fixture
def readings(monkeypatch):
    """The sizes of the pages that are read as words."""
    sizes = []

    def reading(lmm, picture, *rest):
        sizes.append(picture.size)
        return found_words_read(lmm, picture, *rest)

    found_words_read = found_words.read_words
    monkeypatch.setattr(found_words, "read_words", reading)
    return sizes


def test_what_is_found_is_answered(harbour):
    assert said(Session(harbour, policy="rave", max_tokens=24), QUESTION, HARBOUR) == "13.60"
    assert said(Session(harbour, policy=POLICY, max_tokens=24), QUESTION, HARBOUR) == "Harbour"


def test_a_session_and_a_scheduler_answer_alike(harbour):
    requests = [(QUESTION, [HARBOUR]), ("What is the total?", [PLAIN]), ("Where?", [PLAIN, HARBOUR])]
    answers = written(harbour, requests)
    assert [answer.error for answer in answers] == [None] * 3
    for (question, images), answer in zip(requests, answers, strict=True):
        pieces = list(Session(harbour, policy=POLICY, max_tokens=24).send(question, images))
        assert tuple(piece.token for piece in pieces) == answer.ids
        assert "".join(piece.text for piece in pieces) == answer.text
    assert [answer.text for answer in answers] == ["Harbour", "not found", "Harbour"]
    assert all(answer.ending == "stop" for answer in answers)


def test_the_probability_of_an_answer_is_that_of_the_mixture(harbour):
    """At least what the finder gives it: trust, times how surely it is found and read."""
    (answer,) = written(harbour, [(QUESTION, [HARBOUR])])
    (less,) = written(harbour, [(QUESTION, [HARBOUR])], "rave+words:sure=2,trust=0.6")
    products = [float(np.prod(each.probabilities.astype(np.float64))) for each in (answer, less)]
    assert less.text == "Harbour"
    assert products == pytest.approx([0.9, 0.6], abs=0.04)
    (doubted,) = written(harbour, [(QUESTION, [HARBOUR])], "rave+words:sure=2,trust=0.2")
    assert doubted.text == "13.60"
    assert float(np.prod(doubted.probabilities)) == pytest.approx(0.8, abs=0.1)


def test_a_page_is_read_once(harbour, readings):
    session = Session(harbour, policy=POLICY, max_tokens=24)
    assert [said(session, QUESTION, HARBOUR), said(session, "Where was that?")] == ["Harbour"] * 2
    assert readings == [HARBOUR.size]
    said(session, QUESTION, PLAIN)
    said(session, QUESTION, HARBOUR)
    assert readings == [HARBOUR.size, PLAIN.size]


def test_answers_that_are_written_together_read_a_page_once(harbour, readings):
    answers = written(harbour, [(QUESTION, [HARBOUR]), ("Where was that?", [HARBOUR]), ("Who?", [PLAIN, HARBOUR])])
    assert [answer.text for answer in answers] == ["Harbour"] * 3
    assert sorted(readings) == sorted([HARBOUR.size, PLAIN.size])


def test_two_pages_are_one_below_the_other(harbour, monkeypatch):
    seen = []
    finder = found_words.load_finder(Path(harbour.path) / "finder")
    find = finder.find
    monkeypatch.setattr(finder, "find", lambda question, words: seen.append((question, words)) or find(question, words))
    assert said(Session(harbour, policy=POLICY, max_tokens=24), "Where?", PLAIN, HARBOUR) == "Harbour"
    ((question, words),) = seen
    assert question == "Where?"
    assert [word.text for word in words] == ["Invoice", "Total", "20.50", "Harbour", "Cafe", "Total", "13.60"]
    assert max(word.bottom for word in words[:3]) <= PLAIN.height
    assert min(word.top for word in words[3:]) >= 3 * PLAIN.height
    assert max(word.bottom for word in words[3:]) <= 3 * PLAIN.height + HARBOUR.height


def test_nothing_is_read_without_a_question_or_a_page(harbour, readings):
    session = Session(harbour, policy=POLICY, max_tokens=4)
    said(session, "How are you?")
    begun = [ask(QUESTION, HARBOUR), {"role": "assistant", "content": "The"}]
    list(Session(harbour, policy=POLICY, max_tokens=4).answer(begun))
    assert readings == []


def test_an_empty_page_is_left_to_the_model(harbour):
    empty = Image.new("RGB", (300, 200), "white")
    answers = [said(Session(harbour, policy=p, max_tokens=12), QUESTION, empty) for p in ("rave", POLICY)]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(("kind", "expected"), [("yes", "yes"), ("no", "no"), ("summary", "13.60")])
def test_other_kinds_of_questions(tmp_path, kind, expected):
    """Yes and no are answers; what is not for a finder is left to the model."""
    lmm = copy(tmp_path / "model", "harbour", kind)
    assert said(Session(lmm, policy=POLICY, max_tokens=24), QUESTION, HARBOUR) == expected
    plain = said(Session(lmm, policy=f"{POLICY}:absent=there is none", max_tokens=24), QUESTION, HARBOUR)
    assert plain == expected


def test_what_is_not_found_is_said_in_the_words_of_the_policy(harbour):
    session = Session(harbour, policy="rave+words:sure=2,absent=there is none", max_tokens=24)
    assert said(session, QUESTION, PLAIN) == "there is none"
