"""Answers that have begun, against `apply_chat_template(..., continue_final_message=True)` of transformers."""

from __future__ import annotations

import pytest
from families import cases, write_checkpoint

transformers = pytest.importorskip("transformers")
from transformers.utils.chat_template_utils import render_jinja_template  # noqa: E402

import rave_mlx  # noqa: E402
from rave_mlx.inputs.prompt.chat_template import ChatTemplate  # noqa: E402
from rave_mlx.inputs.prompt.parse_messages import read_messages  # noqa: E402
from rave_mlx.inputs.prompt.render import render  # noqa: E402

TEMPLATES = {
    "keeps white space": "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "trims": "{% for m in messages %}[{{ m.role }}] {{ m.content | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant] {% endif %}",
    "trims, then a space": "{% for m in messages %}[{{ m.role }}] {{ m.content | trim + ' </s>' }}{% endfor %}",
    "parts": "{% for m in messages %}<|{{ m.role }}|>{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}"
    "{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "closes only earlier answers": "{% for m in messages %}{{ m.role }}: {{ m.content }}"
    "{% if not loop.last %}<|end|>{% endif %}{% endfor %}",
}
BEGINNINGS = ["Preis:", "Preis: ", " Preis:", "Preis:\n", "zwei\n\nZeilen \n ", "", "  ", "<|end|>", "hi"]


def conversation(beginning):
    return [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Preis: 3€"},
        {"role": "user", "content": "And now?"},
        {"role": "assistant", "content": beginning},
    ]


@pytest.mark.parametrize("beginning", BEGINNINGS)
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_rendered_text(template, beginning):
    messages = conversation(beginning)
    ((expected,), _) = render_jinja_template(
        [messages], chat_template=TEMPLATES[template], continue_final_message=True, add_generation_prompt=False
    )
    pieces = render(read_messages(messages, None), ChatTemplate(TEMPLATES[template]), add_generation_prompt=True)
    assert "".join(piece.text for piece in pieces) == expected


@pytest.mark.parametrize("parts", [["Preis:"], ["Der ", "Preis: "], ["Preis:", ""]])
def test_parts_of_text(parts):
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "assistant", "content": [{"type": "text", "text": text} for text in parts]},
    ]
    ((expected,), _) = render_jinja_template(
        [messages], chat_template=TEMPLATES["parts"], continue_final_message=True, add_generation_prompt=False
    )
    pieces = render(read_messages(messages, None), ChatTemplate(TEMPLATES["parts"]), add_generation_prompt=True)
    assert "".join(piece.text for piece in pieces) == expected


@pytest.mark.parametrize("beginning", ["Preis:", "Preis: ", " the\n total is"])
@pytest.mark.parametrize("name", ["qwen2", "llama", "mistral", "phi3", "qwen2_5_vl", "smolvlm", "llava"])
def test_ids_of_checkpoints(name, beginning, tmp_path):
    folder = write_checkpoint(cases()[name], tmp_path / name)
    messages = conversation(beginning)[1:]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    given = {"chat_template": (folder / "chat_template.jinja").read_text()}
    expected = tokenizer.apply_chat_template(messages, continue_final_message=True, return_dict=False, **given)
    assert rave_mlx.load(folder).prepare(messages).ids[0].tolist() == expected
