"""What stands on a page: values with their roles, rows of lists, and where the characters of each stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from rave_mlx.synthetic.sheet import Run


@dataclass(frozen=True)
class Stretch:
    """Characters `start` to `end` of the run with number `run` of a sheet."""

    run: int
    start: int
    end: int


Pieces = tuple[Stretch | str, ...]
"""An answer: what is read off the page, and words that stand nowhere on it, in order."""


@dataclass(frozen=True)
class Fact:
    """A value of a page. `role` names its meaning (`roles.ROLES`), `label` is what is printed for it, "" for "
    "nothing."""

    role: str
    value: Pieces
    label: str = ""
    label_at: Pieces = ()


@dataclass(frozen=True)
class Entry:
    """A row of a list or table.

    Attributes:
        kind: what the row is, one of `entries.KINDS`.
        names: what a question may call it; the first is what is printed.
        cells: its values by what they mean; `entries` knows the questions for each.
        name_at: where its name stands.
        headers: the printed heading of a cell's column, where there is one.
        plural: of the thing that is counted, "" where nothing is.
    """

    kind: str
    names: tuple[str, ...]
    cells: Mapping[str, Pieces]
    name_at: Pieces = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    plural: str = ""


@dataclass(frozen=True)
class Switch:
    """A setting that is on or off.

    `name_at`: where its name stands; `state`: the box on the sheet in which its state is drawn or written.
    """

    name: str
    on: bool
    name_at: Pieces
    state: tuple[float, float, float, float]


def text_of(pieces: Pieces, runs: Sequence[Run]) -> str:
    """The text of an answer.

    Args:
        pieces: of the answer.
        runs: of the page's sheet.
    """
    return "".join(p if isinstance(p, str) else runs[p.run].text[p.start : p.end] for p in pieces)


def stretches(pieces: Pieces) -> list[Stretch]:
    """The parts of an answer that stand on the page."""
    return [p for p in pieces if isinstance(p, Stretch)]


def joined(parts: Sequence[Pieces], glue: str) -> Pieces:
    """Answers one after the other with words between them.

    Args:
        parts: answers.
        glue: what is said between two of them.
    """
    out: list[Stretch | str] = []
    for i, part in enumerate(parts):
        out += ([glue] if i else []) + list(part)
    return tuple(out)
