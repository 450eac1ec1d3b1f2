"""The chat template of a GGUF file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rave_mlx.checkpoint import directory
from rave_mlx.errors import ModelError

KEY = "tokenizer.chat_template"
_AS_TEXT = (
    "{%- set told = namespace(messages=[]) -%}{%- for message in messages -%}{%- set said = namespace(text='') -%}"
    "{%- if message.content is string -%}{%- set said.text = message.content -%}{%- else -%}"
    "{%- for part in message.content -%}"
    "{%- set said.text = said.text ~ (IMAGE if part.type == 'image' else part.text) -%}{%- endfor -%}{%- endif -%}"
    "{%- set told.messages = told.messages + [{'role': message.role, 'content': said.text}] -%}{%- endfor -%}"
    "{%- set messages = told.messages -%}"
)
"""Makes each message one text, with a placeholder for every image, as llama.cpp's mtmd does; a template follows."""


def read_template(path: Path, settings: Mapping[str, Any]) -> str:
    """The template that the file names its default; else the one in a file beside it.

    Raises:
        ModelError: when there is none.
    """
    for key in (KEY, f"{KEY}.default"):
        template = settings.get(key)
        if isinstance(template, str) and template:
            return template
    beside = path.with_name(directory.TEMPLATE)
    if beside.is_file():
        return beside.read_text(encoding="utf-8")
    named = sorted(name.removeprefix(f"{KEY}.") for name in settings if name.startswith(f"{KEY}."))
    others = f", only {', '.join(named)}" if named else ""
    raise ModelError(
        f"{path}: has no default chat template ({KEY}){others}; a base model does not answer: take its chat or "
        f"instruct version, or put a {directory.TEMPLATE} beside the file"
    )


def with_images(template: str, placeholder: str, written: str) -> str:
    """A template that places images: the template itself where it does so, else one that is told of them in words.

    Args:
        template: of a text model.
        placeholder: the token that stands for an image.
        written: what is written for an image.
    """
    if placeholder in template:
        return template
    return _AS_TEXT.replace("IMAGE", repr(written)) + template
