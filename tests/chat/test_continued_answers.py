"""An answer that has begun is continued: what is streamed is the rest, what is remembered is the whole."""

from __future__ import annotations

import mlx.core as mx
import pytest
import tokenizers
from support import ask, form, picture, relative, tiny_model

import rave_mlx
from rave_mlx.chat.session import Session
from rave_mlx.checkpoint.directory import BUILT_IN
from rave_mlx.generation.decode import continued
from rave_mlx.generation.prefill import prefill
from rave_mlx.inputs.prompt.message import Message, TextPart
from rave_mlx.inputs.prompt.tokenizer import Tokenizer


def begun(text="The total", image=True):
    return [ask("What is the total?", *([picture()] if image else [])), {"role": "assistant", "content": text}]


def test_the_continuation_is_what_the_model_says_after_those_words():
    lmm = tiny_model()
    prompt = lmm.prepare(begun())
    expected: list[int] = []
    for _ in range(5):
        logits = lmm.logits(continued(prompt, expected) if expected else prompt)[0, -1]
        expected.append(int(mx.argmax(logits).item()))
    assert [piece.token for piece in rave_mlx.stream(lmm, begun(), max_tokens=5)] == expected


@pytest.mark.parametrize("text", ["The total", "The total ", "", "A 5€\n"])
def test_the_conversation_goes_on_after_it(text):
    lmm = tiny_model()
    session = Session(lmm, max_tokens=6)
    said = "".join(piece.text for piece in session.answer(begun(text)))
    first = session.stats
    answer = session.messages[-1]
    assert [m.role for m in session.messages] == ["user", "assistant"]
    assert [p.text for p in answer.parts] == [text, said]
    prompt = lmm.prompt([*session.messages, Message("user", (TextPart("And now?"),))])
    cache, reused = session._reuse(prompt)
    assert reused >= first.prompt_tokens + len(answer.parts[-1].ids) - 1 - (text != text.strip())
    assert relative(prefill(lmm, prompt, cache), lmm.logits(prompt)[:, -1]) <= 1e-5


def test_the_built_in_model_goes_on_with_a_number():
    """It reads the last turn only: the question, its image and the words with which the answer has begun."""
    lmm = rave_mlx.load()
    page = form(["Order No: A-1729", "Total: $48.20"])
    question = ask("What is the Total?", page)
    whole = rave_mlx.generate(lmm, [question])
    assert whole == "$48.20"
    assert rave_mlx.generate(lmm, [question, {"role": "assistant", "content": "$48"}]) == ".20"
    earlier = [ask("What is the Order No?", page), {"role": "assistant", "content": "A-1729"}]
    later = [ask("What is the Total?"), {"role": "assistant", "content": "$48"}]
    assert rave_mlx.generate(lmm, [*earlier, *later]) == ".20"


def test_a_space_at_the_beginning_of_the_rest_is_kept(tmp_path):
    """Decoders of SentencePiece tokenizers take the first space off a text; the rest of an answer is none."""
    core = tokenizers.Tokenizer.from_file(str(BUILT_IN / "tokenizer.json"))
    core.decoder = tokenizers.decoders.Metaspace(prepend_scheme="always")
    core.add_tokens(["▁is"])
    core.save(str(tmp_path / "tokenizer.json"))
    lmm = tiny_model()
    lmm.tokenizer = Tokenizer(tmp_path / "tokenizer.json")
    messages = [Message("user", (TextPart("Total?"),)), Message("assistant", (TextPart("The total"),))]
    for shown, text in ((messages[:1], "is"), (messages, " is")):
        assert Session(lmm)._text_stream(lmm.prompt(shown), shown).add(core.token_to_id("▁is")) == text
