"""A session at its edges: interrupts, overlapping questions, the end of the context, wrong arguments."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support import ask, picture, tiny_model

import rave_mlx
from rave_mlx.chat import session as sessions
from rave_mlx.chat.session import Session
from rave_mlx.cli.image_arguments import ImageArgument
from rave_mlx.cli.repl import Repl
from rave_mlx.errors import ModelError, PromptError, UsageError
from rave_mlx.generation.prefill import NOT_A_NUMBER
from rave_mlx.inputs.prompt.message import ImagePart

QUESTION = [{"role": "user", "content": "hi"}]


@pytest.fixture(scope="module")
def lmm():
    return tiny_model()


def interrupt(monkeypatch, times=1):
    """The next `times` readings of a prompt are interrupted."""
    reading, left = sessions.prefill, [times]

    def prefill(*arguments, **options):
        left[0] -= 1
        if left[0] >= 0:
            raise KeyboardInterrupt
        return reading(*arguments, **options)

    monkeypatch.setattr(sessions, "prefill", prefill)


def test_an_interrupt_before_the_first_token_leaves_the_conversation_as_it_was(lmm, monkeypatch):
    session = Session(lmm, max_tokens=4)
    list(session.send("Hello.", [picture(40, 40)]))
    before, stats = list(session.messages), session.stats
    assert stats is not None
    interrupt(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        list(session.send("Again?", [picture(48, 40)]))
    assert session.messages == before
    assert session.stats is None, "statistics of the answer before would be shown for this one"
    found = [piece.token for piece in session.send("Again?", [picture(48, 40)])]
    fresh = Session(lmm, max_tokens=4)
    fresh.resume(before)
    assert found == [piece.token for piece in fresh.send("Again?", [picture(48, 40)])]


def test_an_image_waits_for_the_next_question_after_an_interrupt(lmm, monkeypatch, tmp_path, capsys):
    file = tmp_path / "page.png"
    picture(60, 44).save(file)
    repl = Repl(Session(lmm, max_tokens=3), built_in=False, json=False)
    repl.attach(ImageArgument(file, 1, "page.png"))
    interrupt(monkeypatch)
    assert repl.ask("What?") is False
    assert "what was shown is still there" in capsys.readouterr().err
    assert repl.ask("What?") is True
    assert [type(part) for part in repl._session.messages[0].parts].count(ImagePart) == 1
    assert repl.ask("And now?") is True
    assert [type(part) for part in repl._session.messages[2].parts].count(ImagePart) == 0


def test_two_answers_at_once_are_refused(lmm):
    session = Session(lmm, max_tokens=6)
    whole = [piece.token for piece in Session(lmm, max_tokens=6).send("hi")]
    first = session.send("hi")
    found = [next(first).token]
    with pytest.raises(UsageError, match="still writing an answer"):
        next(session.send("And?"))
    assert found + [piece.token for piece in first] == whole
    second = session.send("hi")
    next(second)
    second.close()
    assert next(session.send("free again")) is not None


def test_a_conversation_that_is_full_says_so_and_a_question_that_is_too_long_is_told_apart():
    most = len(tiny_model().prepare(QUESTION)) + 3
    lmm = tiny_model(max_positions=most)
    session = Session(lmm, max_tokens=64)
    list(session.send("hi"))
    full = rf"the conversation is full: .* context is {most}, answer included; begin a new one"
    with pytest.raises(PromptError, match=full):
        list(session.send("hi"))
    with pytest.raises(PromptError, match="shorten the text"):
        list(Session(lmm).send("word " * 40))


def test_an_answer_that_fills_the_context_is_whole():
    """Every length of context from one more token than the prompt: text, finish and statistics are there."""
    lmm = tiny_model()
    length = len(lmm.prepare(QUESTION))
    for spare in range(1, 6):
        small = tiny_model(max_positions=length + spare)
        session = Session(small, max_tokens=40)
        pieces = list(session.send("hi"))
        assert len(pieces) == spare or pieces[-1].finish == "stop"
        assert pieces[-1].finish is not None
        assert session.stats.answer_tokens == len(pieces)
        assert session.messages[-1].role == "assistant"


def test_wrong_arguments_are_told_in_the_words_of_the_api(lmm):
    with pytest.raises(UsageError, match="max_tokens is 0"):
        Session(lmm, max_tokens=0)
    with pytest.raises(UsageError, match="max_tokens is 0"):
        rave_mlx.generate(lmm, QUESTION, max_tokens=0)
    with pytest.raises(UsageError, match=r"images is one str; give a list"):
        Session(lmm).send("hi", images="a.png")
    with pytest.raises(UsageError, match="text is a list"):
        Session(lmm).send(["hi"])
    with pytest.raises(UsageError, match=r"no option 'temp': do you mean temperature\?"):
        rave_mlx.generate(lmm, QUESTION, temp=0.5)
    with pytest.raises(UsageError, match="max_tokens, image_tokens, policy, page_cache, temperature, top_p"):
        rave_mlx.generate(lmm, QUESTION, xyzzy=1)
    with pytest.raises(UsageError, match=r"the model is a str; open one with rave_mlx\.load"):
        rave_mlx.generate("Qwen/Qwen2.5-VL-3B-Instruct", QUESTION)


def test_text_that_is_no_unicode_is_refused(lmm):
    with pytest.raises(PromptError, match=r"'caf.udce9' has bytes that are not UTF-8 \(character 3\)"):
        list(Session(lmm).send("caf\udce9"))
    with pytest.raises(PromptError, match="not UTF-8"):
        lmm.prepare([{"role": "user", "content": "\ud800"}])


@pytest.mark.parametrize("limit", [1, 5])
def test_a_model_that_computes_no_numbers_says_so(limit):
    lmm = tiny_model()
    lmm.decoder.norm.weight = lmm.decoder.norm.weight * float("nan")
    with pytest.raises(ModelError, match="not numbers"):
        rave_mlx.generate(lmm, [ask("What?", picture(40, 40))], max_tokens=limit)


def test_numbers_that_end_in_the_middle_of_an_answer_are_noticed(lmm, monkeypatch):
    from rave_mlx.generation import decode

    step, count = decode.step, [0]

    def broken(*arguments, **options):
        count[0] += 1
        return step(*arguments, **options) * (float("nan") if count[0] == 3 else 1.0)

    monkeypatch.setattr(decode, "step", broken)
    session = Session(lmm, max_tokens=12)
    heard = []
    with pytest.raises(ModelError, match="not numbers") as error:
        heard += [piece.token for piece in session.send("hi")]
    assert str(error.value) == NOT_A_NUMBER
    assert count[0] <= 5, "the answer must end there, not at its limit"


def test_a_conversation_that_was_replaced_goes_on(lmm):
    session = Session(lmm, max_tokens=3)
    list(session.send("hi"))
    session.resume([replace(message) for message in session.messages])
    assert list(session.send("again"))
