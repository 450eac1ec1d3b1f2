"""The chat template of a checkpoint folder, from all the places where transformers looks for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rave_mlx.checkpoint import directory
from rave_mlx.errors import ConfigError, ModelError

MORE_TEMPLATES = "additional_chat_templates"
"""Folder of further templates, each named as its file."""
_LEGACY = "chat_template.json"
_DEFAULT = "default"


def read_template(folder: Path, *, images: bool) -> str:
    """The chat template called `default`, or the only one.

    Args:
        folder: the checkpoint.
        images: whether the model reads images: then a processor looks for the template before the tokenizer does, and
            knows `processor_config.json` and `chat_template.json`.

    Raises:
        ConfigError: for a file that is malformed.
        ModelError: when there is no template, or several of which none is the default; it names them.
    """
    of_tokenizer = [_from_files(folder), _from_json(folder / "tokenizer_config.json"), _from_json(folder / _LEGACY)]
    of_processor = [_from_json(folder / "processor_config.json"), _from_json(folder / _LEGACY), _from_files(folder)]
    places = of_processor + of_tokenizer if images else of_tokenizer
    templates = next((found for found in places if found), None)
    if templates is None:
        raise ModelError(
            f"{folder}: has no chat template (chat_template.jinja, chat_template.json, tokenizer_config.json); "
            f"a base model does not answer: take its chat or instruct version, or put a {directory.TEMPLATE} there"
        )
    if _DEFAULT not in templates:
        raise ModelError(
            f"{folder}: has chat templates called {', '.join(sorted(templates))}, and none called {_DEFAULT}; put the "
            f"one to use into {directory.TEMPLATE}"
        )
    return templates[_DEFAULT]


def template_files(folder: Path) -> list[Path]:
    """The files of a folder that hold nothing but a template."""
    more = sorted((folder / MORE_TEMPLATES).glob("*.jinja"))
    return [file for file in (folder / directory.TEMPLATE, folder / _LEGACY, *more) if file.is_file()]


def _from_files(folder: Path) -> dict[str, str]:
    """Templates in files of their own, by name."""
    files = {
        _DEFAULT if f.name == directory.TEMPLATE else f.stem: f for f in template_files(folder) if f.suffix != ".json"
    }
    return {name: _read(file) for name, file in files.items()}


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{file}: cannot be read as UTF-8 text ({error})") from None


def _from_json(file: Path) -> dict[str, str]:
    """Templates under `chat_template` of a JSON file: one, several by name, or a list of names and templates."""
    value: Any = directory.read_json(file).get("chat_template") if file.is_file() else None
    if value is None:
        return {}
    if isinstance(value, str):
        return {_DEFAULT: value}
    if isinstance(value, list) and all(
        isinstance(item, dict) and {"name", "template"} <= item.keys() for item in value
    ):
        value = {str(x["name"]): x["template"] for x in value}
    if not isinstance(value, dict) or not all(isinstance(template, str) for template in value.values()):
        raise ConfigError(f"{file}: chat_template should be a text, or texts by name, found {str(value)[:60]!r}")
    return value
