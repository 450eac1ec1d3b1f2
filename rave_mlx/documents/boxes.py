"""Boxes that models write into their answers, as fractions of the image.

Families write them in different ways and units: Qwen2.5-VL as JSON in pixels of the image as it was resized for the
model (arXiv 2502.13923), Qwen3-VL as the same JSON in thousandths of the image, Qwen2-VL between `<|box_start|>` and
`<|box_end|>` in thousandths, InternVL between `<box>` and `</box>` in thousandths, SmolDocling and granite-docling as
four `<loc_...>` in 500ths (arXiv 2503.11576).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from rave_mlx.config import ImageConfig, LMMConfig
from rave_mlx.inputs.images.patches import ImagePatches

Box = tuple[float, float, float, float]

_NUMBER = r"\s*(-?\d+(?:\.\d+)?)\s*"
_FOUR = r",".join([_NUMBER] * 4)
_JSON_BOX = re.compile(rf'"(?:bbox_2d|bbox|box_2d)"\s*:\s*\[{_FOUR}\]')
_JSON_TEXTS = tuple(
    re.compile(rf'"{key}"\s*:\s*("(?:[^"\\]|\\.)*")') for key in ("text_content", "text", "content", "label")
)
_LOCATION = re.compile(r"<loc_(\d+)>\s*<loc_(\d+)>\s*<loc_(\d+)>\s*<loc_(\d+)>")
_PAIRS = re.compile(rf"<\|box_start\|>\s*\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)\s*<\|box_end\|>")
_REFERENCE = re.compile(r"<\|object_ref_start\|>(.*?)<\|object_ref_end\|>\s*$", re.DOTALL)
_LISTS = re.compile(rf"<box>\s*\[\s*\[{_FOUR}\]\s*\]\s*</box>")
_NAMED = re.compile(r"<ref>(.*?)</ref>\s*$", re.DOTALL)


@dataclass(frozen=True)
class WrittenBox:
    """A box that a model wrote.

    Attributes:
        box: left, top, right, bottom as fractions of the image, from 0 to 1.
        start, stop: where it stands in the answer, in characters.
        text: what the model says is in it; empty where it does not say.
    """

    box: Box
    start: int
    stop: int
    text: str = ""


def box_units(config: LMMConfig, image: ImagePatches) -> tuple[float, float]:
    """What width and height of an image count as in the boxes that a model writes.

    Args:
        config: of the model.
        image: as the model read it.
    """
    if config.family == "qwen2_5_vl" and isinstance(config.image, ImageConfig):
        rows, columns = (side * config.image.patch_size for side in image.grid[1:])
        return float(columns), float(rows)
    return 1000.0, 1000.0


def find_boxes(answer: str, units: tuple[float, float] = (1000.0, 1000.0)) -> list[WrittenBox]:
    """The boxes in an answer, in their order; boxes without an area are left out.

    Args:
        answer: the text, control tokens included where boxes are made of them.
        units: as of `box_units`; `<loc_...>` always counts in 500ths.
    """
    found = [*_of_json(answer, units), *_of_tags(answer, units)]
    kept = [box for box in found if box.box[0] < box.box[2] and box.box[1] < box.box[3]]
    return sorted(kept, key=lambda box: box.start)


def _of_json(answer: str, units: tuple[float, float]) -> Iterator[WrittenBox]:
    """Boxes of JSON objects, also where the answer was cut or is no valid JSON."""
    for match in _JSON_BOX.finditer(answer):
        opened = answer.rfind("{", 0, match.start())
        closed = answer.find("}", match.end())
        inside = answer[opened + 1 : closed if closed >= 0 else len(answer)]
        text = next((found for pattern in _JSON_TEXTS if (found := pattern.search(inside))), None)
        yield WrittenBox(_scaled(match.groups(), units), *match.span(), _string(text.group(1)) if text else "")


def _of_tags(answer: str, units: tuple[float, float]) -> Iterator[WrittenBox]:
    """Boxes that are made of control tokens."""
    for match in _LOCATION.finditer(answer):
        text = re.match(r"[^<]*", answer[match.end() :])
        yield WrittenBox(_scaled(match.groups(), (500.0, 500.0)), *match.span(), text.group().strip() if text else "")
    for pattern, named in ((_PAIRS, _REFERENCE), (_LISTS, _NAMED)):
        for match in pattern.finditer(answer):
            name = named.search(answer[: match.start()])
            yield WrittenBox(_scaled(match.groups(), units), *match.span(), name.group(1).strip() if name else "")


def _scaled(numbers: tuple[str, ...], units: tuple[float, float]) -> Box:
    """Four numbers as fractions, within the image."""
    left, top, right, bottom = (min(1.0, max(0.0, float(number) / units[i % 2])) for i, number in enumerate(numbers))
    return left, top, right, bottom


def _string(quoted: str) -> str:
    """A string of JSON; as it stands where its escapes are broken."""
    try:
        return str(json.loads(quoted, strict=False))
    except ValueError:
        return quoted[1:-1]
