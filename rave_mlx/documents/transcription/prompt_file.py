"""How each model is asked to transcribe a page: data, one small file in prompts/ a model or family.

A file has the keys of `PagePrompt`: `name`, the `families` it is for and patterns for `names` of models (without:
any model of these families), and the tables [page] (what is asked, and what comes back), [with_boxes] (the same where
boxes are wanted), [limits] (of the answer, and of the picture where they are published), [again] (how tokens are drawn
where an answer repeated itself) and [source] (the public place of the prompt).
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Literal

from rave_mlx.config.part import Part
from rave_mlx.errors import ConfigError

Format = Literal[
    "lines",
    "text",
    "markdown",
    "front_matter",
    "thinking",
    "html",
    "doctags",
    "doclang",
    "layout_json",
    "got",
    "grounded",
]
"""What an answer is written in; `answer_formats` reads each of them."""
Units = Literal["none", "read_pixels", "thousandths", "999ths", "loc500"]
"""What boxes count: pixels of the picture that the model reads; thousandths, 999ths or 500ths of the page's sides."""

GENERAL = "general"
"""The file for models of which nothing is known."""


@dataclass(frozen=True)
class Ask(Part):
    """What is asked of a page, and what comes back.

    Attributes:
        text: the question; empty where the page alone is shown. Control tokens of the model count in it.
        format: what the answer is written in.
        system: a system message; empty for none.
        image: whether the page stands before or after the text.
        boxes: what the boxes in the answer count.
        part: whether the page is shown as a whole, or line by line.
    """

    text: str
    format: Format
    system: str = ""
    image: Literal["before", "after"] = "before"
    boxes: Units = "none"
    part: Literal["page", "lines"] = "page"


@dataclass(frozen=True)
class Limits(Part):
    """Attributes:
    max_tokens: of an answer.
    image_tokens: budget of visual tokens a page; None for the package's default.
    """

    max_tokens: int = 4096
    image_tokens: int | None = None


@dataclass(frozen=True)
class Again(Part):
    """How tokens are drawn where an answer repeated itself; see `Sampling`."""

    repetition_penalty: float = 1.1
    repetition_window: int = 64
    temperature: float = 0.0


@dataclass(frozen=True)
class Origin(Part):
    """Attributes:
    address: the public place of the prompt.
    verified: whether it was read there in these words; False for a general instruction, or one read elsewhere.
    note: what a person should know.
    """

    address: str
    verified: bool = True
    note: str = ""


@dataclass(frozen=True)
class PagePrompt(Part):
    """One file of prompts/; see the top of this module."""

    name: str
    families: tuple[str, ...]
    page: Ask
    source: Origin
    names: tuple[str, ...] = ()
    with_boxes: Ask | None = None
    limits: Limits = Limits()
    again: Again = Again()

    def ask(self, boxes: bool = False) -> Ask:
        """What is asked; with boxes where the model has a way to write them."""
        return self.with_boxes if boxes and self.with_boxes is not None else self.page

    @property
    def writes_boxes(self) -> bool:
        """Whether answers can have boxes."""
        return self.ask(boxes=True).boxes != "none" or self.page.part == "lines"


@cache
def page_prompts() -> dict[str, PagePrompt]:
    """All files of prompts/ by their name without ending.

    Raises:
        ConfigError: for a file with unknown, missing or wrong keys.
    """
    folder = resources.files(__package__) / "prompts"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".toml")), key=lambda f: f.name)
    return {f.name.removesuffix(".toml"): read_prompt(f.read_text("utf-8"), f.name) for f in files}


def read_prompt(text: str, where: str) -> PagePrompt:
    """The content of a file of prompts/.

    Args:
        text: TOML.
        where: its name, for messages.

    Raises:
        ConfigError: for unknown, missing or wrong keys, or what is no TOML.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where}: not valid TOML ({error})") from None
    return PagePrompt.from_dict(data, where)
