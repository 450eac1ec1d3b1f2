"""Wordings: which role a question means, what can be a value of it, and the choice against a plain loop."""

from __future__ import annotations

import math
from pathlib import Path
from random import Random

import pytest
from support import picture, tiny_model

import rave_mlx
from rave_mlx.chat.session import Session
from rave_mlx.config import GateConfig
from rave_mlx.errors import UsageError
from rave_mlx.inputs.prompt.message import Message, TextPart
from rave_mlx.policies.parse import Steering, steering
from rave_mlx.policies.rereading.answer_kinds import fits
from rave_mlx.policies.rereading.question_roles import roles_meant
from rave_mlx.policies.rereading.tiled_crops import TiledCrops, answer
from rave_mlx.policies.rereading.wordings import Wordings
from rave_mlx.synthetic import meaning

ALWAYS = Wordings(sure=2.0)


@pytest.mark.parametrize(
    ("question", "role"),
    [
        ("How much do I have to pay in total?", "payable"),
        ("how much must i pay altogther", "payable"),
        ("By when does it have to be paid?", "due"),
        ("Please tell me the phone number", "phone"),
        ("invoice_number", "document_no"),
        ("who is the customer", "recipient"),
        ("when was he born?", "born"),
        ("which gate is it?", "gate"),
    ],
)
def test_a_question_means_the_role_that_people_ask_for_so(question, role):
    assert roles_meant(question)[0].role == role


def test_every_known_phrasing_is_its_own_role_or_one_of_the_same_words():
    for role in meaning.ROLES.values():
        for phrasing in (*role.asks[:3], *role.nouns[:2]):
            found = roles_meant(phrasing)
            sure = {each.role for each in found if each.likeness > found[0].likeness - 1e-9}
            assert found[0].likeness == pytest.approx(1) and role.name in sure


@pytest.mark.parametrize("question", ["", "???", "日本", "hello", "why is the sky blue", "sing a song about goats"])
def test_a_question_about_something_else_means_nothing(question):
    assert all(each.likeness < Wordings().like for each in roles_meant(question))


def test_values_that_the_generator_prints_are_of_their_kind():
    values = [
        (question.role, question.answer)
        for seed in range(50)
        for question in meaning.make(Random(seed)).questions
        if question.kind == "value" and question.role in meaning.ROLES
    ]
    strange = [(role, value) for role, value in values if not fits(meaning.ROLES[role].kind, value)]
    assert len(values) > 120 and len(strange) <= len(values) // 50, strange


@pytest.mark.parametrize(
    ("kind", "no"),
    [
        ("amount", ["12/03/2025", "14:05", "Anna Weber", "19 %", "3 May 2025", "not 1, not 2"]),
        ("date", ["12.50", "14:05", "Anna Weber", "$1,204.10"]),
        ("time", ["3 May 2025", "$1,204.10", "Anna Weber"]),
        ("person", ["12.50", "3 May 2025", "Elm Street 4"]),
        ("id", ["Anna Weber", "1,204.10", "14:05", "3 May 2025"]),
        ("phone", ["Anna Weber", "12.50"]),
        ("mail", ["Anna Weber", "www.example.org"]),
        ("small", ["Anna", "1Z 999 AA1 01"]),
    ],
)
def test_values_of_other_kinds_do_not_fit(kind, no):
    assert [text for text in no if fits(kind, text)] == []
    assert fits("nothing that is known", "anything")


@pytest.fixture(scope="module", params=[None, GateConfig(rank=4, kv_groups=0.5)], ids=["base", "gated"])
def lmm(request):
    return tiny_model(request.param)


def plain_choice(lmm, policy, messages, question, gate):
    """The wording with the largest score, each read anew."""
    roles = [each for each in roles_meant(question) if each.likeness >= policy.like]
    roles = [each for each in roles if each.likeness >= policy.near * roles[0].likeness]
    rows = [(question, "", 1.0)]
    for each in roles:
        labels = []
        for label in meaning.ROLES[each.role].labels:
            if label.rstrip(": ").lower() not in [known.lower() for known in labels]:
                labels.append(label.rstrip(": "))
        for label in labels[: policy.labels]:
            if f"what is the {label.lower()}?" not in [text.lower() for text, *_ in rows]:
                rows.append((f"What is the {label}?", each.role, each.likeness))
    scores, best = {}, {}
    for text, role, likeness in rows:
        asked = [Message("user", (messages[0].parts[0], TextPart(text)))]
        given = answer(lmm, asked, tokens=policy.tokens, gate=gate, features={})
        found = given.text.strip().lower() not in ("", "not found")
        kinds = [meaning.ROLES[role].kind] if role else [meaning.ROLES[each.role].kind for each in roles]
        weight = likeness
        if role and not (found and fits(kinds[0], given.text)):
            weight = likeness * policy.doubt
        elif not role and found and not any(fits(kind, given.text) for kind in kinds):
            weight = 1 - (1 - policy.doubt) * roles[0].likeness
        key = given.text.strip().lower().rstrip(".")
        if role and given.certainty < policy.least:
            continue
        scores[key] = scores.get(key, 0.0) - math.log(1 - min(0.995, weight * given.certainty))
        if key not in best or given.certainty > best[key][0]:
            best[key] = (given.certainty, text)
    return best[max(scores, key=scores.get)][1]


@pytest.mark.parametrize("question", ["how much do I owe", "When is it due?", "who is it from", "What is the gate?"])
@pytest.mark.parametrize(("seed", "least"), [(0, 0.0), (1, 0.0), (2, 0.004)])
def test_the_wording_that_is_asked_is_that_of_a_plain_loop(lmm, question, seed, least):
    policy = Wordings(sure=2.0, tokens=6, least=least)
    session = Session(lmm, policy=policy)
    messages = [Message("user", (session.read(picture(60, 44, seed)), TextPart(question)))]
    chosen = policy.revise(lmm, messages, None, {})
    assert chosen[0].parts[0] is messages[0].parts[0]
    assert chosen[0].parts[1].text == plain_choice(lmm, policy, messages, question, None)


def test_what_is_not_asked_otherwise(lmm):
    session = Session(lmm, policy=ALWAYS)
    image, features = session.read(picture(60, 44, 0)), {}

    def revised(*messages):
        return ALWAYS.revise(lmm, messages, None, features)

    stays = [
        [Message("user", (TextPart("how much do I owe"),))],
        [Message("user", (image, TextPart("Is it due today?")))],
        [Message("user", (image, TextPart("Did I pay the total?")))],
        [Message("user", (image, TextPart("sing a song about goats")))],
        [Message("user", (image, TextPart("how much do I owe " * 20)))],
        [Message("user", (image,))],
        [Message("user", (image, TextPart("how much do I owe"))), Message("assistant", (TextPart("It is"),))],
    ]
    for messages in stays:
        assert revised(*messages) == messages
    assert not features, "nothing was read"


def test_a_sure_answer_is_taken_as_it_is(lmm):
    session = Session(lmm, policy=Wordings(sure=0.0))
    messages = [Message("user", (session.read(picture(60, 44, 1)), TextPart("how much do I owe")))]
    assert Wordings(sure=0.0).revise(lmm, messages, None, {}) == messages


def test_people_ask_the_built_in_model_in_their_own_words():
    lmm = rave_mlx.load()
    page = Path(__file__).parents[2] / "examples" / "documents" / "receipt.png"
    for question in ("How much did I pay?", "how much do I owe", "what was the damage?", "What is the total?"):
        session = Session(lmm, policy="rave+panes+wordings+views")
        assert "".join(piece.text for piece in session.send(question, images=[page])) == "13.60", question
        assert session.messages[0].parts[-1].text == question, "the conversation keeps what was typed"


def test_settings_and_neighbours():
    chosen = steering("rave+wordings:labels=2,sure=0.5+panes")
    assert chosen == Steering(True, (Wordings(labels=2, sure=0.5), TiledCrops()))
    for wrong in ("wordings:labels=0", "wordings:like=0", "wordings:near=2", "wordings:doubt=-1", "wordings:tokens=0"):
        with pytest.raises(UsageError, match="wordings"):
            steering(wrong)
    with pytest.raises(UsageError, match="both choose what is read"):
        steering("wordings+panes+carve")
