"""Real receipts and forms in their published layouts: SROIE (keys of a receipt), FUNSD (linked fields of a form).

SROIE (Huang et al. 2019) is read as `img/NAME.jpg` with `key/NAME.json` or `entities/NAME.txt` beside it, or as
`NAME.jpg` with `NAME.txt` in one folder; FUNSD (Jaume et al. 2019) as `images/NAME.png` with `annotations/NAME.json`.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rave_mlx.errors import UsageError
from rave_mlx.evaluate.item import Item

KEYS = {
    "company": "Which company is this from?",
    "date": "What is the date?",
    "address": "What is the address?",
    "total": "What is the total?",
}
"""Keys of a SROIE receipt, and what is asked for each."""
_CURRENCY = re.compile(r"^(?:RM|MYR|\$|SGD)\s*", re.IGNORECASE)
_PICTURES = (".png", ".jpg", ".jpeg", ".tif", ".tiff")
_LONGEST = 120


@dataclass(frozen=True)
class _Page:
    """A picture and the file that says what is on it; `split` names the layout."""

    split: str
    image: Path
    truth: Path


def real(folder: Path, pages: int) -> Iterator[Item]:
    """Questions about the real documents of a folder.

    Args:
        folder: holds one or both of the layouts, at any depth.
        pages: most documents of each layout, in the order of their names.

    Raises:
        UsageError: where there is none, or a file does not hold what its layout says.
    """
    found = sorted(_pages(folder), key=lambda page: (page.split, page.truth))
    counted: Counter[str] = Counter()
    chosen = []
    for page in found:
        counted[page.split] += 1
        if counted[page.split] <= pages:
            chosen.append(page)
    if not chosen:
        raise UsageError(
            f"{folder}: no documents in a layout that is known: SROIE (img/*.jpg with key/*.json) or FUNSD "
            "(images/*.png with annotations/*.json)"
        )
    for number, page in enumerate(chosen, 1):
        asked = _receipt(page) if page.split == "sroie" else _form(page)
        for item in asked:
            yield replace(item, progress=number / len(chosen))


def _pages(folder: Path) -> Iterator[_Page]:
    for truth in folder.rglob("*"):
        above, name = truth.parent, truth.stem
        if truth.suffix == ".json" and above.name == "annotations":
            yield from _beside("funsd", above.parent / "images", name, truth)
        elif (truth.suffix, above.name) in ((".json", "key"), (".txt", "entities")):
            yield from _beside("sroie", above.parent / "img", name, truth)
        elif truth.suffix == ".txt" and truth.is_file() and truth.read_text("utf-8", "replace").lstrip()[:1] == "{":
            yield from _beside("sroie", above, name, truth)


def _beside(split: str, folder: Path, name: str, truth: Path) -> Iterator[_Page]:
    """The page of that name, where its picture is there."""
    for ending in _PICTURES:
        if (folder / f"{name}{ending}").is_file():
            yield _Page(split, folder / f"{name}{ending}", truth)
            return


def _read(page: _Page) -> Mapping[str, Any]:
    try:
        content = json.loads(page.truth.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UsageError(f"{page.truth}: not JSON ({error})") from None
    if not isinstance(content, Mapping):
        raise UsageError(f"{page.truth}: expected a JSON object")
    return content


def _receipt(page: _Page) -> Iterator[Item]:
    """The keys that a receipt has."""
    content = _read(page)
    for key, question in KEYS.items():
        value = content.get(key)
        if isinstance(value, str) and value.strip():
            tags = {"split": page.split, "kind": key}
            yield Item(page.image, question, _amounts(value) if key == "total" else (value.strip(),), tags, _LONGEST)


def _amounts(value: str) -> tuple[str, ...]:
    """An amount as published, and with and without the currency that may be printed before it."""
    plain = _CURRENCY.sub("", value.strip())
    return tuple(dict.fromkeys((value.strip(), plain, f"RM{plain}", f"RM {plain}", f"${plain}")))


def _form(page: _Page) -> Iterator[Item]:
    """Fields of a form: labels that occur once and are linked to something written."""
    entities = _read(page).get("form")
    if not isinstance(entities, list):
        raise UsageError(f"{page.truth}: no list of entities under 'form'")
    by = {entity["id"]: entity for entity in entities}
    labels = Counter(_label(entity) for entity in entities if entity["label"] == "question")
    for entity in entities:
        if entity["label"] != "question" or labels[_label(entity)] > 1 or not _label(entity):
            continue
        ends = [by[b] for a, b in entity["linking"] if a == entity["id"] and b in by]
        value = _joined([end for end in ends if end["label"] == "answer"])
        if value:
            tags = {"split": page.split, "kind": "field"}
            yield Item(page.image, f"What is the {_label(entity)}?", (value,), tags, _LONGEST)


def _label(entity: Mapping[str, Any]) -> str:
    """The printed label of a field without its colon."""
    return " ".join(str(entity["text"]).split()).rstrip(" :.")


def _joined(entities: Sequence[Mapping[str, Any]]) -> str:
    """What is written in a field: its parts from top to bottom, from left to right."""
    ordered = sorted(entities, key=lambda entity: (entity["box"][1] // 10, entity["box"][0]))
    return " ".join(" ".join(str(entity["text"]).split()) for entity in ordered).strip()
