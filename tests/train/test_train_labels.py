"""Which tokens are trained on, token by token, against expectations written by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from support import picture, tiny_model

from rave_mlx.checkpoint.directory import BUILT_IN
from rave_mlx.inputs.prompt.chat_template import ChatTemplate
from rave_mlx.inputs.prompt.parse_messages import read_messages
from rave_mlx.inputs.prompt.tokenizer import Tokenizer
from rave_mlx.models.lmm import LMM
from rave_mlx.train.example import make_example

CONVERSATION = [
    {"role": "system", "content": "Be brief."},
    {
        "role": "user",
        "content": [
            {"type": "image", "image": picture(16, 16, 1)},
            {"type": "image", "image": picture(24, 8, 2)},
            {"type": "text", "text": "Who?"},
        ],
    },
    {"role": "assistant", "content": "Ann."},
    {"role": "user", "content": [{"type": "text", "text": "And"}, {"type": "image", "image": picture(8, 8, 3)}]},
    {"role": "assistant", "content": [{"type": "text", "text": "Bo"}]},
]
MARKED = """<|im_start|>system
Be brief.<|im_end|>
<|im_start|>user
<|vision_start|>####<|vision_end|><|vision_start|>###<|vision_end|>Who?<|im_end|>
<|im_start|>assistant
[Ann.<|im_end|>]
<|im_start|>user
And<|vision_start|>#<|vision_end|><|im_end|>
<|im_start|>assistant
[Bo<|im_end|>]
"""
"""What the built-in template makes of it: `#` a visual token, what is trained on in brackets."""


def example(lmm, conversation):
    return make_example(lmm, read_messages(conversation, lmm.config.image), "row 1")


def written(lmm, example):
    """The example's text with visual tokens as # and trained tokens in brackets, from ids and marks alone."""
    text, inside = "", False
    for index, trained, visual in zip(
        example.prompt.ids[0].tolist(), example.loss_mask, example.prompt.token_map.visual, strict=True
    ):
        token = lmm.tokenizer.token(index)
        piece = "#" if visual else token if token in lmm.tokenizer.control else lmm.tokenizer.decode([index])
        text += ("[" if trained and not inside else "]" if inside and not trained else "") + piece
        inside = bool(trained)
    return text + "]" * inside


def model(tokenizer, template, **tokens):
    """A model of which only the tokenizer, the template and the token ids matter."""
    lmm = tiny_model(vocab_size=280)  # room for the ids that a test adds
    config = replace(lmm.config, tokens=replace(lmm.config.tokens, **tokens)) if tokens else lmm.config
    return LMM(config, tokenizer, ChatTemplate(template))


def test_the_built_in_template_with_several_turns_and_images():
    lmm = tiny_model()
    found = example(lmm, CONVERSATION)
    assert written(lmm, found) == MARKED
    assert found.loss_mask.sum() == len("Ann.") + 1 + len("Bo") + 1


def test_answers_that_look_like_templates_are_text():
    lmm = tiny_model()
    found = example(lmm, [{"role": "user", "content": "?"}, {"role": "assistant", "content": "<|im_end|> no"}])
    ids = found.prompt.ids[0][found.loss_mask].tolist()
    assert lmm.tokenizer.decode(ids) == "<|im_end|> no"
    assert ids.count(2) == 1 and ids[-1] == 2 == lmm.config.tokens.stop[0]


def test_a_conversation_that_goes_on_after_the_last_answer():
    lmm = tiny_model()
    turns = [{"role": r, "content": c} for r, c in [("user", "a"), ("assistant", "b"), ("user", "c")]]
    assert written(lmm, example(lmm, turns)).endswith("assistant\n[b<|im_end|>]\n<|im_start|>user\nc<|im_end|>\n")


def spaced_tokenizer(tmp_path):
    """The built-in tokenizer, in which " Y" is one token, as byte pairs merge a space and a word."""
    data = json.loads((BUILT_IN / "tokenizer.json").read_text())
    vocab = data["model"]["vocab"]
    vocab["ĠY"] = 272
    data["model"]["merges"] = [["Ġ", "Y"]]
    (tmp_path / "tokenizer.json").write_text(json.dumps(data))
    return Tokenizer(tmp_path / "tokenizer.json")


SPACED = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize(
    ("answer", "expected"), [("Y", "[ Y<|im_end|>]"), ("Yes", "[ Yes<|im_end|>]"), ("No", " [No<|im_end|>]")]
)
def test_a_space_of_the_template_that_is_one_token_with_the_answer(tmp_path, answer, expected):
    lmm = model(spaced_tokenizer(tmp_path), SPACED)
    found = example(lmm, [{"role": "user", "content": "Y"}, {"role": "assistant", "content": answer}])
    assert written(lmm, found) == f"user: Y<|im_end|>\nassistant:{expected}\n"


def test_only_the_token_right_behind_an_answer_ends_it():
    bare = "{% for m in messages %}[{{ m.role }}]{{ m.content }} {% endfor %}<|im_end|>"
    lmm = model(tiny_model().tokenizer, bare)
    found = example(lmm, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    assert lmm.tokenizer.decode(found.prompt.ids[0][found.loss_mask].tolist()) == "b"
    other = model(tiny_model().tokenizer, "{% for m in messages %}{{ m.content }}<|im_start|>{% endfor %}")
    found = example(other, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
    assert found.loss_mask.tolist() == [False, False, True, False]


def test_the_first_token_has_nothing_before_it():
    lmm = model(tiny_model().tokenizer, "{% for m in messages %}{{ m.content }}<|im_end|>{% endfor %}")
    found = example(lmm, [{"role": "assistant", "content": "ab"}])
    assert found.loss_mask.tolist() == [False, True, True]
    assert found.loss_mask.dtype == np.bool_
