"""Which prompt is for which model: by what the model is called, and else by its family.

A fine-tuned model has the configuration of the one it was made from, so only its name tells that it was taught a prompt
of its own: the name of its folder or Hub id, the one that its configuration remembers, and the one in the card of a
converted model.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

from rave_mlx.checkpoint import directory
from rave_mlx.documents.transcription.prompt_file import GENERAL, PagePrompt, page_prompts
from rave_mlx.errors import ConfigError
from rave_mlx.models.lmm import LMM

_CONVERTED = re.compile(r"^- converted from: `([^`\n]+)`", re.MULTILINE)
_BASE_MODEL = re.compile(r"^base_model: *[\"']?([^\s\"']+)", re.MULTILINE)
_CARD_SIZE = 100_000
"""Characters of a card that are looked at."""


def choose_prompt(lmm: LMM) -> PagePrompt:
    """How a model is asked to transcribe a page."""
    return prompt_for(lmm.config.family, list(names_of(lmm.path)))


def prompt_for(family: str, names: list[str]) -> PagePrompt:
    """The prompt for a family and the names a model has, the nearest name first.

    Args:
        family: of the model's configuration.
        names: folder, Hub id and others; may be empty.
    """
    prompts = page_prompts()
    of_family = [p for p in prompts.values() if family in p.families]
    for name in names:
        for prompt in of_family:
            if any(re.search(pattern, name, re.IGNORECASE) for pattern in prompt.names):
                return prompt
    return next((p for p in of_family if not p.names), prompts[GENERAL])


def names_of(path: Path | None) -> Iterator[str]:
    """What a model is called: its folder or file, Hub id, what its configuration and its card remember.

    Args:
        path: of the model; None for one that is in memory only.
    """
    if path is None:
        return
    where = path.resolve()
    yield where.stem if where.is_file() else where.name
    repository = where.parent.parent.name
    if repository.startswith("models--"):  # a snapshot in the Hub's cache
        yield repository.removeprefix("models--").replace("--", "/", 1)
    if where.is_file():
        return
    for file in (where / directory.CONFIG, where / directory.HUB / directory.CONFIG):
        with contextlib.suppress(ConfigError):
            remembered = directory.read_json(file).get("_name_or_path")
            if isinstance(remembered, str) and remembered:
                yield remembered
    with contextlib.suppress(OSError):
        card = (where / directory.CARD).read_text(encoding="utf-8", errors="replace")[:_CARD_SIZE]
        yield from _CONVERTED.findall(card)
        yield from _BASE_MODEL.findall(card)
