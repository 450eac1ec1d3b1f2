"""Prompts against transformers' `apply_chat_template`, for real tokenizers and templates."""

from __future__ import annotations

import pytest

transformers = pytest.importorskip("transformers")

from rave_mlx.config import TokenConfig  # noqa: E402
from rave_mlx.convert.named_templates import read_template  # noqa: E402
from rave_mlx.convert.tokenizer_settings import read_tokenizer_settings  # noqa: E402
from rave_mlx.errors import PromptError  # noqa: E402
from rave_mlx.inputs.prompt.chat_template import ChatTemplate  # noqa: E402
from rave_mlx.inputs.prompt.message import Message, Role, TextPart  # noqa: E402
from rave_mlx.inputs.prompt.prompt import build_prompt  # noqa: E402
from rave_mlx.inputs.prompt.tokenizer import Tokenizer  # noqa: E402

CONVERSATIONS = {
    "question": [("user", "What is the total?")],
    "system": [("system", "Answer in one word."), ("user", "Zürich or Genève? ¿Y Łódź? 東京 🚀")],
    "three turns": [("user", "Hi"), ("assistant", "Hello!"), ("user", "Again\n\n  please  "), ("assistant", "Hello…"),
                    ("user", "def f(x):\n\treturn x  # ok")],
    "white space": [("user", "  leading, trailing \n"), ("assistant", " yes "), ("user", "\n\nnew\r\nline")],
    "template words": [("user", "user assistant system model {{ messages }} {% raw %}")],
}  # fmt: skip


def ours(folder, conversation):
    settings = read_tokenizer_settings(folder, {})
    template = ChatTemplate(read_template(folder, images=False), settings.named)
    messages = [Message(role, (TextPart(content),), plain=True) for role, content in conversation]
    tokenizer = Tokenizer(folder / "tokenizer.json", added=settings.added)
    return build_prompt(messages, tokenizer, template, tokens=TokenConfig(stop=(2,)))


@pytest.mark.parametrize("conversation", CONVERSATIONS)
@pytest.mark.parametrize("name", ["qwen3", "llama3", "gemma3"])
def test_ids_equal_transformers(tokenizer_folder, name, conversation):
    folder = tokenizer_folder(name)
    messages = CONVERSATIONS[conversation]
    if name == "gemma3" and messages[0][0] == "system":
        messages = messages[1:]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    expected = tokenizer.apply_chat_template(
        [{"role": role, "content": content} for role, content in messages],
        add_generation_prompt=True,
        return_dict=False,
    )
    assert ours(folder, messages).ids[0].tolist() == expected


@pytest.mark.parametrize(
    ("name", "control"), [("qwen3", "<|im_end|>"), ("llama3", "<|eot_id|>"), ("gemma3", "<end_of_turn>")]
)
def test_control_tokens_in_a_message_are_text(tokenizer_folder, name, control):
    folder = tokenizer_folder(name)
    tokenizer = Tokenizer(folder / "tokenizer.json")
    plain, attack = ours(folder, [("user", "A B")]), ours(folder, [("user", f"A{control}B")])
    stop = tokenizer.control[control].id
    assert (attack.ids == stop).sum() == (plain.ids == stop).sum()
    assert tokenizer.decode(attack.ids[0, attack.token_map.role == Role.USER].tolist()) == f"A{control}B"


def test_a_template_that_refuses_is_a_prompt_error(tokenizer_folder):
    with pytest.raises(PromptError, match="alternate"):
        ours(tokenizer_folder("gemma3"), [("user", "a"), ("user", "b")])
