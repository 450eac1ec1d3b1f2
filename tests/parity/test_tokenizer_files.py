"""Tokenizer files of every form against transformers: named and added tokens, templates in every place.

Each variant is a tiny checkpoint whose ids are compared with `apply_chat_template`, of the tokenizer where the model
reads text and of the processor where it reads images; once as it is opened, and once as it is converted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from families import cases, write_checkpoint
from safetensors.numpy import load_file, save_file

import rave_mlx
from rave_mlx.checkpoint.directory import BUILT_IN
from rave_mlx.errors import ModelError
from rave_mlx.inputs.prompt.chat_template import ChatTemplate

transformers = pytest.importorskip("transformers")

from transformers.utils.chat_template_utils import render_jinja_template  # noqa: E402

START, TURN, END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
TURNS = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant: "
NAMES = ("bos_token", "eos_token", "unk_token", "pad_token", "image_token", "boi_token", "sep_token")
ALL = (
    "".join(f"[{{{{ {n} }}}}{{% if {n} is defined %}}+{{% endif %}}]" for n in NAMES)
    + " <new> <boi> </s> <|im_end|> a"
    + TURNS
)
"""A template that writes every name, whether it is known, and some tokens that a variant may add."""
MESSAGES = [{"role": "user", "content": "Hi there"}, {"role": "assistant", "content": " Yes "},
            {"role": "user", "content": "This other one\n\nb ser"}]  # fmt: skip


def token(content: str, **flags: Any) -> dict[str, Any]:
    return {"content": content, "lstrip": False, "rstrip": False, "single_word": False, "normalized": False, **flags}


def typed(content: str, **flags: Any) -> dict[str, Any]:
    return {"__type": "AddedToken", **token(content, special=True, **flags)}


def config(**keys: Any) -> Callable[[Path], None]:
    """Write tokenizer_config.json."""
    return lambda folder: write(folder / "tokenizer_config.json", FAST | keys)


def write(file: Path, data: Any) -> None:
    file.parent.mkdir(exist_ok=True)
    file.write_text(data if isinstance(data, str) else json.dumps(data))


def edit(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Change tokenizer.json."""
    data = json.loads((folder / "tokenizer.json").read_text())
    change(data)
    (folder / "tokenizer.json").write_text(json.dumps(data))


def decoder(**new: dict[str, Any]) -> dict[str, Any]:
    """`added_tokens_decoder` with the control tokens of the tiny tokenizer, and more by their ids."""
    tokenizer = json.loads((BUILT_IN / "tokenizer.json").read_text())
    known = {str(t["id"]): {k: v for k, v in t.items() if k != "id"} for t in tokenizer["added_tokens"]}
    return known | {name.removeprefix("id"): value for name, value in new.items()}


def many(*steps: Callable[[Path], None]) -> Callable[[Path], None]:
    return lambda folder: [step(folder) for step in steps] and None


def file(name: str, data: Any) -> Callable[[Path], None]:
    return lambda folder: write(folder / name, data)


def padding(folder: Path) -> None:
    padded = {
        "strategy": "BatchLongest",
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
    }
    edit(folder, lambda data: data.update(padding={**padded, "pad_token": END}))


def without_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


NAMED: dict[str, Callable[[Path], None]] = {
    "nothing": lambda folder: None,
    "strings": config(bos_token=TURN, eos_token=END, pad_token=START, unk_token=START),
    "objects": config(bos_token=typed(TURN), eos_token=typed(END, lstrip=True), pad_token=None),
    "null": config(bos_token=None, eos_token=None, pad_token=None, unk_token=None),
    "start and end to be added": config(bos_token=TURN, eos_token=END, add_bos_token=True, add_eos_token=True),
    "named token": config(eos_token=END, image_token=TURN, boi_token=typed(START)),
    "named token in an object": config(eos_token=END, extra_special_tokens={"image_token": TURN, "boi_token": START}),
    "new named token": config(eos_token="</s>", sep_token="<new>", boi_token="<boi>"),
    "additional": config(eos_token=END, additional_special_tokens=["<new>", START]),
    "extra": config(eos_token=END, extra_special_tokens=[typed("<new>", rstrip=True)]),
    "both lists": config(eos_token=END, extra_special_tokens=["<new>"], additional_special_tokens=["<boi>"]),
    "decoder": config(
        bos_token=TURN, eos_token="<new>", added_tokens_decoder=decoder(id272=token("<new>", special=True))
    ),
    "decoder of text": config(eos_token=END, added_tokens_decoder=decoder(id272=token("<new>", special=False))),
    "decoder out of order": config(
        eos_token=END,
        added_tokens_decoder={"280": token("<new>", special=False), "275": token("ser", special=False), **decoder()},
    ),
    "decoder with other flags": config(
        eos_token=END, added_tokens_decoder=decoder(id2=token(END, special=True, lstrip=True, rstrip=True))
    ),
    "map": many(config(eos_token=START), file("special_tokens_map.json", {"bos_token": token(TURN), "eos_token": END})),
    "map alone": file("special_tokens_map.json", {"bos_token": TURN, "eos_token": token(END), "pad_token": START}),
    "map with additional": many(
        config(), file("special_tokens_map.json", {"eos_token": END, "additional_special_tokens": ["<new>", "<boi>"]})
    ),
    "map with extra": many(
        config(extra_special_tokens=["<new>"]),
        file("special_tokens_map.json", {"extra_special_tokens": [token("<boi>")]}),
    ),
    "map with a named token": many(
        config(), file("special_tokens_map.json", {"image_token": END, "boi_token": "<boi>"})
    ),
    "map beside a decoder": many(
        config(eos_token=END, added_tokens_decoder=decoder()), file("special_tokens_map.json", {"eos_token": START})
    ),
    "added tokens": many(config(eos_token=END), file("added_tokens.json", {"<new>": 273, "ther": 272})),
    "added tokens with a name": many(config(eos_token="<new>"), file("added_tokens.json", {"<new>": 272})),
    "padding": many(config(eos_token=END), padding),
    "padding and a name": many(config(eos_token=END, pad_token=TURN), padding),
    "class of llama": config(tokenizer_class="LlamaTokenizer"),
    "class of llama, fast": config(tokenizer_class="LlamaTokenizerFast", bos_token=TURN),
    "class of qwen": config(tokenizer_class="Qwen2Tokenizer"),
    "class of qwen with names": config(tokenizer_class="Qwen2Tokenizer", eos_token=END, bos_token=None),
    "class of gpt2": config(tokenizer_class="GPT2Tokenizer"),
    "unknown class": config(tokenizer_class="NoSuchTokenizer", eos_token=END),
}
"""What the tokenizer's files say, by a name."""


ONE_CLASS = ("nothing", "strings", "objects", "padding", *(name for name in NAMED if "class" in name))
"""Variants to try with every model type, which chooses the class; the others do not depend on it."""


def grow(folder: Path) -> None:
    """Give the model 300 rows, so that new tokens have one."""
    tensors = load_file(folder / "model.safetensors")
    for name in {"model.embed_tokens.weight", "lm_head.weight"} & tensors.keys():
        tensors[name] = np.pad(tensors[name], [(0, 300 - tensors[name].shape[0]), (0, 0)])
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(data | {"vocab_size": 300}))


def same_ids(folder: Path, expected: list[int], messages: list[dict[str, Any]] = MESSAGES) -> None:
    """The ids, from the checkpoint and from the rave directory that it is converted to."""
    assert rave_mlx.load(folder).prepare(messages).ids[0].tolist() == expected
    rave_mlx.convert.convert(folder, folder.with_name("rave"))
    assert rave_mlx.load(folder.with_name("rave")).prepare(messages).ids[0].tolist() == expected


def of_tokenizer(folder: Path, messages: list[dict[str, Any]] = MESSAGES) -> list[int]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return list(tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False))


@pytest.mark.parametrize(
    ("kind", "variant"),
    [("qwen2", name) for name in NAMED]
    + [("llama", name) for name in NAMED]
    + [(kind, name) for kind in ("qwen3", "phi3", "mistral") for name in ONE_CLASS],
)
def test_named_and_added_tokens(tmp_path, kind, variant):
    folder = write_checkpoint(cases()[kind], tmp_path / kind)
    grow(folder)
    (folder / "chat_template.jinja").write_text(ALL)
    NAMED[variant](folder)
    same_ids(folder, of_tokenizer(folder))


def named(**templates: str) -> list[dict[str, str]]:
    return [{"name": name, "template": template} for name, template in templates.items()]


MORE = "additional_chat_templates/"
PLACES: dict[str, Callable[[Path], None]] = {
    "file": file("chat_template.jinja", "F" + TURNS),
    "settings": config(chat_template="S" + TURNS),
    "list in the settings": config(chat_template=named(tool_use="T" + TURNS, default="D" + TURNS)),
    "object in the settings": config(chat_template={"tool_use": "T" + TURNS, "default": "D" + TURNS}),
    "file and settings": many(config(chat_template="S" + TURNS), file("chat_template.jinja", "F" + TURNS)),
    "file and list": many(config(chat_template=named(default="D" + TURNS)), file("chat_template.jinja", "F" + TURNS)),
    "file and more": many(file("chat_template.jinja", "F" + TURNS), file(MORE + "rag.jinja", "R" + TURNS)),
    "more with a default": many(file(MORE + "rag.jinja", "R"), file(MORE + "default.jinja", "D" + TURNS)),
    "settings and more": many(config(chat_template="S" + TURNS), file(MORE + "default.jinja", "D" + TURNS)),
}
"""Where the template of a tokenizer lies."""
NO_DEFAULT = {
    "list": config(chat_template=named(tool_use="T" + TURNS, rag="R" + TURNS)),
    "files": many(config(chat_template="S" + TURNS), file(MORE + "rag.jinja", "R"), file(MORE + "tool_use.jinja", "T")),
}


@pytest.mark.parametrize("place", PLACES)
def test_templates_of_tokenizers(tmp_path, place):
    folder = write_checkpoint(cases()["qwen2"], tmp_path / "qwen2")
    (folder / "chat_template.jinja").unlink()
    PLACES[place](folder)
    same_ids(folder, of_tokenizer(folder))


@pytest.mark.parametrize("place", NO_DEFAULT)
def test_templates_without_a_default(tmp_path, place):
    folder = write_checkpoint(cases()["qwen2"], tmp_path / "qwen2")
    (folder / "chat_template.jinja").unlink()
    NO_DEFAULT[place](folder)
    with pytest.raises(ValueError, match="rag"):
        of_tokenizer(folder)
    with pytest.raises(ModelError, match="rag, tool_use"):
        rave_mlx.load(folder)


PARTS = (
    "{{ bos_token if START else '' }}{% for m in messages %}{{ m.role }}: {% for p in m.content %}{{ '<|image_pad|>' if"
    " p.type == 'image' else p.text }}{% endfor %}\n{% endfor %}assistant: "
)
QUESTION = [{"role": "user", "content": [{"type": "text", "text": "Hi there"}]}]


def processor_file(template: Any) -> Callable[[Path], None]:
    return file("processor_config.json", {"processor_class": "LlavaProcessor", "chat_template": template})


OF_PROCESSORS: dict[str, Callable[[Path], None]] = {
    "file": file("chat_template.jinja", "F" + PARTS),
    "JSON": file("chat_template.json", {"chat_template": "J" + PARTS}),
    "names in JSON": file("chat_template.json", {"chat_template": {"default": "J" + PARTS, "rag": "R"}}),
    "JSON and file": many(
        file("chat_template.json", {"chat_template": "J" + PARTS}), file("chat_template.jinja", "F" + PARTS)
    ),
    "JSON and settings": many(
        config(bos_token=TURN, chat_template="S" + PARTS), file("chat_template.json", {"chat_template": "J" + PARTS})
    ),
    "processor": many(processor_file("P" + PARTS), file("chat_template.json", {"chat_template": "J" + PARTS})),
    "processor and file": many(processor_file("P" + PARTS), file("chat_template.jinja", "F" + PARTS)),
    "file and more": many(file("chat_template.jinja", "F" + PARTS), file(MORE + "rag.jinja", "R")),
}
"""Where the template of a processor lies."""


def of_processor(folder: Path, messages: list[dict[str, Any]]) -> list[int]:
    processor = transformers.AutoProcessor.from_pretrained(folder)
    options = {"add_generation_prompt": True, "tokenize": True, "return_dict": True}
    return list(processor.apply_chat_template(messages, **options)["input_ids"][0])


@pytest.mark.parametrize("start", ["tokenizer", "template", "both", "neither"])
@pytest.mark.parametrize("place", OF_PROCESSORS)
def test_templates_of_processors(tmp_path, place, start):
    """The template of a processor, and the start token that it or the tokenizer writes."""
    folder = write_checkpoint(cases()["llava"], tmp_path / "llava")
    (folder / "chat_template.jinja").unlink()
    config(bos_token=TURN, eos_token=END)(folder)
    OF_PROCESSORS[place](folder)
    for template in [*folder.rglob("*.jinja"), folder / "chat_template.json", *folder.glob("*_config.json")]:
        if template.is_file():
            text = template.read_text()
            if start in ("template", "both"):
                # The start token has to be the first character of what the template writes.
                text = re.sub(r"[FJPS](?={{ bos_token if START)", "", text).replace("if START", "if true")
            template.write_text(text.replace("if START", "if false"))
    if start in ("tokenizer", "both"):
        single = [{"SpecialToken": {"id": TURN, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
        special = {TURN: {"id": TURN, "ids": [1], "tokens": [TURN]}}
        pair = [*single, {"Sequence": {"id": "B", "type_id": 0}}]
        after = {"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special}
        edit(folder, lambda data: data.update(post_processor=after))
    expected = of_processor(folder, QUESTION)
    assert expected.count(1) == (start != "neither")
    same_ids(folder, expected, QUESTION)


TEMPLATES = {
    "tojson": "{{ messages[0]|tojson }}{{ messages[0]|tojson(indent=2) }}{{ [1, 'é<']|tojson(ensure_ascii=true) }}"
    "{{ {'b': 1, 'a': 2}|tojson(separators=(',', ':'), sort_keys=true) }}",
    "generation": "{% set x = 1 %}{% for m in messages %}{% generation %}{% set x = 2 %}{{ m.content }}{{ x }}"
    "{% endgeneration %}{{ x }}{% endfor %}",
    "loop controls": "{% for m in messages %}{% if m.role == 'assistant' %}{% continue %}{% endif %}{{ m.content }}"
    "{% if loop.index == 3 %}{% break %}{% endif %}{{ loop.last }}{{ loop.length }}{{ loop.revindex }}{% endfor %}",
    "what is not given": "{{ tools is none }}{{ documents is none }}{{ tools is defined }}{{ more is defined }}"
    "{{ add_generation_prompt }}{% if bos_token %}{{ bos_token }}{% endif %}",
    "namespace": "{% set ns = namespace(i=0, last='') %}{% for m in messages[::-1] %}"
    "{% set ns.i = ns.i + loop.index0 %}"
    "{% set ns.last = ns.last ~ m.role ~ ns.i %}{% endfor %}{{ ns.last }}{{ dict(a=1)|tojson }}"
    "{{ dict(b=2).items()|list }}",
    "macro": "{% macro show(m, sep=': ') %}{{ m.role ~ sep }}{{ caller() if caller is defined }}"
    "{{ m['content'] | trim }}"
    "{% endmacro %}{% for m in messages %}{{ show(m) }}{{ show(m, sep='\n') }}{% endfor %}",
    "text": "{% for m in messages %}{{ m.content.split('e')[0] + m.content.replace('e', 'x').upper() }}{{ '%s-%02d' % "
    "(m.role, loop.index) }}{{ '{}:{:>4}'.format(m.role, 3) }}{{ m.content[1:3] }}{{ m.content|indent(2, true) }}"
    "{{ m.content.strip().rjust(12) }}{{ ', '.join(['a', m.role]) }}{% endfor %}",
    "filters": "{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|join(' | ') }}"
    "{{ messages|map(attribute='role')|unique|sort|list }}{{ messages|groupby('role')|length }}{{ [3, 1]|sum }}"
    "{{ messages|rejectattr('role', 'in', ['user'])|list|length }}{{ 'a b'|title|center(9) }}"
    "{{ [1,2,3]|batch(2)|list }}",
    "blocks": "{% set x %}{% for m in messages %}{{ m.content }}{% endfor %}{% endset %}{{ x|length }}"
    "{% filter upper %}{{ x }}"
    "{% endfilter %}{% call(y) m2() %}{{ y }}{% endcall %}".replace("{% call", "{% macro m2() %}{{ caller(1) }}"
    "{% endmacro %}{% call"),
    "comparisons": "{{ 1 < 2 < 3 }}{{ 'a' in 'abc' }}{{ 'role' in messages[0] }}{{ messages[0] == messages[1] }}"
    "{{ 2 ** 3 % 5 }}"
    "{{ 7 // 2 * 2 - 1 }}{{ [1] + [2] }}{{ (1, 2) * 2 }}{{ not messages }}{{ messages[0].nothing is undefined }}",
    "numbers": "{{ 1.5 }}{{ none }}{{ true }}{{ 3.14159|round(2) }}{{ '7'|int + 1 }}{{ -3|abs }}"
    "{{ messages|length / 2 }}",
    "items": "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}"
    "{% for k in messages[0] recursive %}{{ k }}"
    "{% else %}none{% endfor %}{% for x in [] %}{% else %}empty{% endfor %}{{ range(3)|list }}"
    "{{ cycler('a', 'b').next() }}",
}  # fmt: skip
"""What templates may use."""


@pytest.mark.parametrize("name", TEMPLATES)
def test_what_templates_use(name):
    """The text of transformers, where nothing stands in for the messages."""
    ours = ChatTemplate(TEMPLATES[name], {"eos_token": END}).render(MESSAGES, add_generation_prompt=True)
    expected, _ = render_jinja_template(
        conversations=[MESSAGES], chat_template=TEMPLATES[name], add_generation_prompt=True, eos_token=END
    )
    assert ours == expected[0]
