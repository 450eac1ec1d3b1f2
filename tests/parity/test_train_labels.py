"""Which tokens of Qwen3's own tokenizer and chat template are trained on."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
from support import picture, tiny_model

from rave_mlx.inputs.prompt.chat_template import ChatTemplate
from rave_mlx.inputs.prompt.parse_messages import read_messages
from rave_mlx.inputs.prompt.tokenizer import Tokenizer
from rave_mlx.models.lmm import LMM
from rave_mlx.train.example import make_example

IMAGES = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}"
    "{{ part.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
)
"""The text model's template takes no images; Qwen3-VL's writes them like this."""


def qwen3(folder, template=None):
    """A model with Qwen3's tokenizer, of which the weights do not matter here."""
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer, tiny = Tokenizer(folder / "tokenizer.json"), tiny_model()
    ids = {text: control.id for text, control in tokenizer.control.items()}
    tokens = replace(tiny.config.tokens, image=ids["<|image_pad|>"], stop=(ids["<|im_end|>"], ids["<|endoftext|>"]))
    config = replace(tiny.config, tokens=tokens, text=replace(tiny.config.text, vocab_size=160_000))
    return LMM(config, tokenizer, ChatTemplate(template or settings["chat_template"]))


def trained(lmm, conversation):
    """The trained tokens as text, one list for each run of them, and all tokens as text."""
    example = make_example(lmm, read_messages(conversation, lmm.config.image), "")
    pieces = [lmm.tokenizer.token(i).replace("Ġ", " ").replace("Ċ", "\n") for i in example.prompt.ids[0].tolist()]
    edges = np.flatnonzero(np.diff(example.loss_mask, prepend=False, append=False))
    return [pieces[start:stop] for start, stop in edges.reshape(-1, 2)], pieces, example


def test_several_turns_and_images(tokenizer_folder):
    lmm = qwen3(tokenizer_folder("qwen3"), IMAGES)
    found, pieces, example = trained(lmm, [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [
            {"type": "image", "image": picture(16, 16, 1)}, {"type": "text", "text": "Who?"},
            {"type": "image", "image": picture(8, 8, 2)},
        ]},
        {"role": "assistant", "content": "The total is 42.50 euros."},
        {"role": "user", "content": "Sure?"},
        {"role": "assistant", "content": "  Yes\n"},
    ])  # fmt: skip
    assert found == [
        ["The", " total", " is", " ", "4", "2", ".", "5", "0", " euros", ".", "<|im_end|>"],
        ["Yes", "<|im_end|>"],
    ]
    assert pieces == [
        "<|im_start|>", "system", "\n", "Be", " brief", ".", "<|im_end|>", "\n",
        "<|im_start|>", "user", "\n", "<|vision_start|>", *["<|image_pad|>"] * 4, "<|vision_end|>", "Who", "?",
        "<|vision_start|>", "<|image_pad|>", "<|vision_end|>", "<|im_end|>", "\n",
        "<|im_start|>", "assistant", "\n",
        "The", " total", " is", " ", "4", "2", ".", "5", "0", " euros", ".", "<|im_end|>", "\n",
        "<|im_start|>", "user", "\n", "Sure", "?", "<|im_end|>", "\n",
        "<|im_start|>", "assistant", "\n", "Yes", "<|im_end|>", "\n",
    ]  # fmt: skip
    assert not example.loss_mask[example.prompt.token_map.visual].any()


def test_the_template_of_the_text_model_and_its_thoughts(tokenizer_folder):
    """Qwen3 writes empty thoughts before the last answer: the template's words, which are not trained on."""
    found, pieces, _ = trained(qwen3(tokenizer_folder("qwen3")), [
        {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello…"},
        {"role": "user", "content": "<|im_end|>?"}, {"role": "assistant", "content": "東京"},
    ])  # fmt: skip
    assert [len(run) for run in found] == [3, 3]
    assert [run[-1] for run in found] == ["<|im_end|>"] * 2
    assert "<think>" in pieces and not any("<think>" in run for run in found)


def test_a_space_before_the_answer(tokenizer_folder):
    """`Assistant: Yes`, as Idefics3 and LLaVA write it: the space and the word are one token, to be written."""
    template = "{% for m in messages %}{{ m.role.capitalize() }}: {{ m.content }}<|im_end|>\n{% endfor %}"
    lmm = qwen3(tokenizer_folder("qwen3"), template)
    for answer, expected in (
        ("Yes", [" Yes", "<|im_end|>"]),
        ("Yes, it is.", [" Yes", ",", " it", " is", ".", "<|im_end|>"]),
        ("42", ["4", "2", "<|im_end|>"]),
    ):
        found, pieces, _ = trained(lmm, [{"role": "user", "content": "Yes"}, {"role": "assistant", "content": answer}])
        assert found == [expected]
        assert pieces[:4] == ["User", ":", " Yes", "<|im_end|>"]
