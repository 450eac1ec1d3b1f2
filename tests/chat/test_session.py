"""A conversation reads every token and every image once, and answers as if it had read everything at once."""

from __future__ import annotations

import json

import numpy as np
import pytest
from support import ask, form, picture, relative, tiny_model, write_image

import rave_mlx
from rave_mlx.api import stream
from rave_mlx.chat.session import Session
from rave_mlx.chat.transcript import load_transcript, save_transcript, to_image
from rave_mlx.config import GateConfig
from rave_mlx.errors import ImageError, PromptError, RaveError, UsageError
from rave_mlx.generation.sampling import Sampling
from rave_mlx.models.lmm import LMM


@pytest.fixture
def lmm():
    return tiny_model(GateConfig(rank=4, kv_groups=0.5))


@pytest.fixture
def encoded(monkeypatch):
    """Counts how often the vision tower runs."""
    digests = []
    real = LMM.features
    monkeypatch.setattr(LMM, "features", lambda self, image: digests.append(image.digest) or real(self, image))
    return digests


def say(session, text, *images):
    return "".join(piece.text for piece in session.send(text, images))


def logits_after(session):
    """What the model predicts next from the session's cache, against the whole conversation in one pass."""
    from rave_mlx.generation.prefill import prefill
    from rave_mlx.inputs.prompt.message import Message

    messages = [*session.messages, Message("user", (rave_mlx.chat.session.TextPart("And now?"),))]
    prompt = session.lmm.prompt(messages)
    cache, reused = session._reuse(prompt)
    return reused, prefill(session.lmm, prompt, cache), session.lmm.logits(prompt)[:, -1]


def test_a_second_question_reads_only_itself(lmm, encoded):
    session = Session(lmm, max_tokens=12)
    say(session, "What is the total?", picture())
    first = session.stats
    assert first is not None
    assert (first.images_encoded, first.reused_tokens, first.visual_tokens) == (1, 0, 96)
    say(session, "And the date?")
    second = session.stats
    assert second.images_encoded == 0
    assert len(encoded) == 1
    answer = len(session.messages[1].parts[0].ids)
    # The limit cut the answer off, so its last token was never fed back.
    assert second.reused_tokens == first.prompt_tokens + answer - 1


def test_several_turns_equal_one_prompt(lmm):
    session = Session(lmm, max_tokens=9)
    for number, images in enumerate(([picture(seed=1)], [], [picture(64, 96, 2), picture(80, 80, 3)])):
        say(session, f"Question {number}?", *images)
    reused, continued, whole = logits_after(session)
    assert reused > 300
    assert relative(continued, whole) <= 1e-5


def test_turns_of_a_real_conversation_equal_fresh_prompts():
    """Greedy answers of the built-in model in one session equal answers to the whole conversation from scratch."""
    lmm = rave_mlx.load()
    page = form(["Order No: A-1729", "Date: 2024-05-17", "Total: $48.20"])
    session = Session(lmm)
    messages = []
    for question in ("What is the Order No?", "What is the Date?"):
        messages.append(ask(question, *([page] if not messages else [])))
        answer = say(session, question, *([page] if len(messages) == 1 else []))
        assert answer == rave_mlx.generate(lmm, messages)
        messages.append({"role": "assistant", "content": answer})


def test_a_single_turn_model_sees_the_latest_images_and_question_only():
    """The built-in model knows no earlier turns: a follow-up answers like a first question, and reads only itself."""
    lmm = rave_mlx.load()
    assert lmm.config.turns == "last"
    first, second = form(["Order No: A-1729", "Total: $48.20"]), form(["Room: B-204", "Name: Ann Hill"])
    session = Session(lmm)
    for page, questions in ((first, ("What is the Total?", "What is the Order No?")), (second, ("Room?", "Name?"))):
        for number, question in enumerate(questions):
            answer = say(session, question, *([page] if number == 0 else []))
            assert answer == rave_mlx.generate(lmm, [ask(question, page)])
            assert session.stats.images_encoded == (1 if number == 0 else 0)
            assert number == 0 or session.stats.reused_tokens > session.stats.visual_tokens
    assert len(session.messages) == 8


def test_a_changed_file_is_noticed(lmm, encoded, tmp_path):
    path = write_image(picture(seed=1), tmp_path / "page.png")
    session = Session(lmm, max_tokens=4)
    say(session, "Read.", path)
    write_image(picture(seed=2), path)
    say(session, "Read.", path)
    assert len(set(encoded)) == 2


def test_the_same_image_under_another_name_is_not_encoded_again(lmm, encoded, tmp_path):
    paths = [write_image(picture(seed=1), tmp_path / name) for name in ("a.png", "b.bmp")]
    session = Session(lmm, max_tokens=4)
    say(session, "Read.", paths[0])
    say(session, "Read.", paths[1])
    assert len(encoded) == 1


def test_another_image_at_the_same_place_is_not_confused_with_the_first(lmm):
    """Same ids, different picture: only the tokens before it may be reused."""
    session = Session(lmm, max_tokens=4)
    answers = {}
    for seed in (1, 2, 1):
        message = [ask("Read.", picture(seed=seed))]
        pieces = [p.token for p in session.answer(message)]
        assert pieces == [p.token for p in stream(lmm, message, max_tokens=4)]
        answers[seed] = pieces
        assert session.stats.reused_tokens < 10


def test_reset_forgets_the_conversation_but_not_the_images(lmm, encoded):
    session = Session(lmm, max_tokens=4, system="Be brief.")
    say(session, "Read.", picture())
    session.reset()
    assert [m.role for m in session.messages] == ["system"]
    say(session, "Read.", picture())
    assert len(encoded) == 1


def test_stopping_early_keeps_what_was_said(lmm):
    session = Session(lmm, max_tokens=20)
    pieces = session.send("Tell me.", [picture()])
    said = [next(pieces) for _ in range(3)]
    pieces.close()
    assert session.messages[-1].parts[0].ids == tuple(p.token for p in said)
    reused, continued, whole = logits_after(session)
    assert reused >= session.stats.prompt_tokens + 3
    assert relative(continued, whole) <= 1e-5


def test_a_failed_question_leaves_the_conversation_as_it_was(lmm, tmp_path):
    session = Session(lmm, max_tokens=4)
    say(session, "Hello.")
    before = list(session.messages)
    with pytest.raises(ImageError, match="missing.png"):
        session.send("Read.", [tmp_path / "missing.png"])
    with pytest.raises(PromptError, match="context is 4096"):
        say(session, "x " * 5000)
    assert session.messages == before
    say(session, "Again.")


def test_policy_none_switches_gates_off(lmm):
    base = tiny_model()
    message = [ask("Read.", picture())]
    tokens = {
        p: [x.token for x in Session(lmm, policy=p, max_tokens=12).answer(message)] for p in ("none", "rave", None)
    }
    assert tokens["none"] == [x.token for x in Session(base, max_tokens=12).answer(message)]
    assert tokens["rave"] == tokens[None]


def test_a_saved_conversation_goes_on_where_it_was(lmm, tmp_path):
    session = Session(lmm, max_tokens=6)
    say(session, 'Größe? "x"', picture(200, 120))
    say(session, "And?")
    save_transcript(session, tmp_path / "talk.json")
    data = json.loads((tmp_path / "talk.json").read_text())
    assert [m["role"] for m in data["messages"]] == ["user", "assistant"] * 2
    other = Session(lmm, max_tokens=6)
    load_transcript(other, tmp_path / "talk.json")
    images = [
        [p.patches.digest for m in s.messages for p in m.parts if hasattr(p, "patches")] for s in (session, other)
    ]
    assert images[0] == images[1]
    assert [m.role for m in other.messages] == [m.role for m in session.messages]
    say(other, "Next?")


@pytest.mark.parametrize(
    "content", ["", "{}", "[1]", '{"format": 9, "messages": [1]}', "\x00", '{"format": 1, "messages": [3]}']
)
def test_a_file_that_is_no_conversation_is_refused(lmm, tmp_path, content):
    (tmp_path / "x.json").write_text(content)
    session = Session(lmm)
    with pytest.raises(RaveError, match=r"not a saved conversation|message 1"):
        load_transcript(session, tmp_path / "x.json")
    assert session.messages == []


def test_patches_turn_back_into_the_image():
    from support import IMAGE

    from rave_mlx.inputs.images.preprocess import cut_patches

    image = picture(64, 96, 5)
    patches = cut_patches(image, IMAGE)
    assert patches.grid == (1, 24, 16)
    assert (np.asarray(to_image(patches, IMAGE)) == np.asarray(image)).all()


def test_sampling_is_reproducible_and_varied(lmm):
    def answer(**options):
        return [p.token for p in stream(lmm, [ask("Go.", picture())], max_tokens=10, **options)]

    assert answer(temperature=1.0, seed=3) == answer(temperature=1.0, seed=3)
    assert len({tuple(answer(temperature=2.0, seed=s)) for s in range(5)}) > 1
    assert answer(temperature=5.0, seed=1, top_k=1) == answer()
    assert answer(temperature=5.0, seed=1, min_p=1.0) == answer()
    assert answer(temperature=5.0, seed=1, top_p=1e-6) == answer()


def test_a_repetition_penalty_forbids_repeats(lmm):
    options = {"max_tokens": 30, "repetition_penalty": 1e9}
    tokens = [p.token for p in stream(lmm, [ask("Go.", picture())], **options)]
    assert len(set(tokens)) == len(tokens)


@pytest.mark.parametrize("bad", [{"temperature": -1}, {"top_p": 0}, {"top_p": 1.5}, {"top_k": -1}, {"min_p": 2},
                                 {"repetition_penalty": 0}])  # fmt: skip
def test_impossible_sampling_is_refused(bad):
    with pytest.raises(UsageError, match=next(iter(bad))):
        Sampling(**bad)


def test_the_answer_ends_at_any_stop_token_and_at_the_limit(lmm):
    from dataclasses import replace

    message = [ask("Go.", picture())]
    tokens = [p.token for p in stream(lmm, message, max_tokens=12)]
    pieces = list(stream(lmm, message, max_tokens=5))
    assert ([p.token for p in pieces], pieces[-1].finish) == (tokens[:5], "length")
    stop = tokens[4]
    first = tokens.index(stop)
    lmm.config = replace(lmm.config, tokens=replace(lmm.config.tokens, stop=(999, stop)))
    pieces = list(stream(lmm, message, max_tokens=12))
    assert ([p.token for p in pieces], pieces[-1].finish) == (tokens[: first + 1], "stop")
