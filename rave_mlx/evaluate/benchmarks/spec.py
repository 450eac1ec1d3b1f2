"""What a benchmark is: where its data lie, how it asks, how it is scored. One TOML file each, beside this one."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from typing import Any

from rave_mlx.evaluate.item import Tags, tag_values

_ENDING = ".toml"


@dataclass(frozen=True)
class Prompt:
    """How a question is put.

    Attributes:
        question: what is done to the published question: "keep" it, "strip" white space around it, "capitalize" it.
        remove: words that are taken out of it.
        after: what is put behind it.
        text: the whole prompt, where all rows are asked the same.
    """

    question: str = "keep"
    remove: str = ""
    after: str = ""
    text: str = ""

    def put(self, question: str) -> str:
        """The words that a model is asked, without options."""
        if self.question == "strip":
            question = question.strip()
        elif self.question == "capitalize":
            question = question.capitalize()
        return question.replace(self.remove, "") if self.remove else question


@dataclass(frozen=True)
class Group:
    """A tag that follows from another one.

    Attributes:
        of: the tag that it follows from.
        lists: values that belong to a group, by its name.
        ends: what values of a group end with, by its name.
        other: the group of all other values; "": each is a group of its own.
    """

    of: str
    lists: Mapping[str, list[str]] = field(default_factory=dict)
    ends: Mapping[str, str] = field(default_factory=dict)
    other: str = ""

    def find(self, value: str) -> str:
        """The group that a value belongs to."""
        names = [name for name, values in self.lists.items() if value in values]
        names += [name for name, ending in self.ends.items() if value.endswith(ending)]
        return names[0] if names else self.other or value


@dataclass(frozen=True)
class Benchmark:
    """A published benchmark.

    Attributes:
        name: what it is called on the command line.
        title, measure: what it and its score are called.
        score: its measure in `scores.SCORES`.
        rows: how a row becomes questions, in `questions.ROWS`.
        repo, files: its data set on the Hub, and which files of it hold the split that is asked; `*` for any text.
        questions: how many it has.
        max_tokens: tokens that an answer may take.
        source: whose prompt and measure these are.
        note: what to know when figures are compared.
        columns: columns of the data set that questions and scores need.
        prompt: how a question is put.
        tags: by name, the column that holds it.
        groups: further tags.
        breakdowns: tags by which figures are broken down.
        extra: further figures, in `benchmark_score.COLUMNS`; "" for none.
    """

    name: str
    title: str
    measure: str
    score: str
    rows: str
    repo: str
    files: str
    questions: int
    max_tokens: int
    source: str
    note: str
    columns: Mapping[str, str]
    prompt: Prompt
    tags: Mapping[str, str]
    groups: Mapping[str, Group]
    breakdowns: tuple[tuple[str, ...], ...]
    extra: str = ""

    def tags_of(self, row: Mapping[str, Any]) -> Tags:
        """The tags of a row; several values of one column are several groups."""
        tags = {name: _text_or_texts(row.get(column)) for name, column in self.tags.items()}
        known = tags | {role: _text_or_texts(row.get(column)) for role, column in self.columns.items()}
        for name, group in self.groups.items():
            tags[name] = tuple(group.find(value) for value in tag_values(known, group.of))
        return {name: value[0] if len(value) == 1 else value for name, value in tags.items() if value}


def _text_or_texts(value: Any) -> tuple[str, ...]:
    """A column as values of a tag; an empty one has none."""
    values = value if isinstance(value, (list, tuple)) else (value,)
    return tuple(dict.fromkeys(str(each) for each in values if each is not None and str(each)))


@cache
def names() -> tuple[str, ...]:
    """All benchmarks by their names on the command line."""
    found = (entry.name for entry in files(__package__).iterdir())
    return tuple(sorted(name.removesuffix(_ENDING) for name in found if name.endswith(_ENDING)))


@cache
def benchmark(name: str) -> Benchmark:
    """The benchmark of a name, one of `names`."""
    data = tomllib.loads((files(__package__) / f"{name}{_ENDING}").read_text(encoding="utf-8"))
    data["prompt"] = Prompt(**data["prompt"])
    data["groups"] = {tag: Group(**group) for tag, group in data.get("groups", {}).items()}
    data["breakdowns"] = tuple(tuple(tags) for tags in data["breakdowns"])
    return Benchmark(name=name, columns=data.pop("columns", {}), tags=data.pop("tags", {}), **data)
