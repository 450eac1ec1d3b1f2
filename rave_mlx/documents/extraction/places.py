"""On which page, and where on it, the values of an answer stand.

The text layer of a digital page knows to a hair where a text stands, but not which of two equal ones is meant, and a
scan has none. The model's attention knows which one it read, to about a line. So what stands once is taken from the
text layer; for what stands several times or not at all the model reads its answer once more and is watched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import mlx.core as mx
import numpy as np
from PIL import Image

from rave_mlx.documents.extraction.attention_box import find_region, trim
from rave_mlx.documents.extraction.attention_rows import Span, TokenMaps, look_up
from rave_mlx.documents.extraction.text_places import around, occurrences, pick
from rave_mlx.inputs.images.pdf_text import Box, PageText
from rave_mlx.inputs.images.token_boxes import locate_tokens
from rave_mlx.inputs.lines.ink import Ink, find_ink
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.lmm import LMM

Source = Literal["text layer", "attention", "grounding"]


@dataclass(frozen=True)
class Place:
    """Where a value stands.

    Attributes:
        page: its number, from 1.
        box: left, top, right, bottom as fractions of the upright page, from 0 to 1.
        source: who says so.
    """

    page: int
    box: Box
    source: Source


@dataclass(frozen=True)
class Sought:
    """A value of an answer.

    Attributes:
        value: as text: as the model wrote it, without quotes.
        tokens: of the answer that write it, [start, stop).
        label: words that are likely to stand beside it: the name of the field, its description.
    """

    value: str
    tokens: Span
    label: str = ""


@dataclass(frozen=True, eq=False)
class ShownPage:
    """What one image of the prompt shows.

    Attributes:
        number: of the page, from 1.
        image: as it was given to the model, upright.
        part: which part of the page that is, in fractions of it.
        text: the page's text layer, where it has one.
    """

    number: int
    image: Image.Image
    part: Box = (0.0, 0.0, 1.0, 1.0)
    text: PageText | None = None


def find_places(
    lmm: LMM,
    prompt: Prompt,
    answer: Sequence[int],
    sought: Sequence[Sought],
    pages: Sequence[ShownPage],
    *,
    watch: bool = True,
    gate: bool | None = None,
    features: Mapping[str, mx.array] | None = None,
) -> list[Place | None]:
    """Where each value of an answer stands; None where nothing is known.

    Args:
        lmm: the model that gave the answer.
        prompt: what it was asked.
        answer: ids of the answer.
        sought: the values in it.
        pages: what the images of the prompt show, in their order.
        watch: whether the model may read its answer once more, which takes as long as reading the prompt; a model that
            is split over processes cannot be watched.
        gate: whether the pair gates were used, as of `Job.gate`.
        features: of the prompt's images by digest, where they are known.
    """
    known = [_in_text(value, pages) for value in sought]
    unsure = [i for i, found in enumerate(known) if len(found) != 1]
    seen: list[Place | None] = [None] * len(sought)
    if watch and unsure and prompt.images and lmm.has_all_heads:
        spans = [sought[i].tokens for i in unsure]
        maps = look_up(lmm, prompt, answer, spans, gate=gate, features=features)
        inks: dict[int, Ink] = {}
        for i in unsure:
            seen[i] = _in_view(lmm, prompt, maps, sought[i].tokens, pages, inks)
    return [_choose(*found, pages) for found in zip(sought, known, seen, strict=True)]


def _in_text(value: Sought, pages: Sequence[ShownPage]) -> list[tuple[ShownPage, Span]]:
    """Everywhere that a value stands in the text layers of the pages, within what was shown of them."""
    found = []
    for number in sorted({page.number for page in pages}):
        shown = [page for page in pages if page.number == number]
        text = shown[0].text
        for span in [] if text is None else occurrences(text, value.value):
            box = text.box(*span) if text is not None else None
            if box is not None and any(_holds(page.part, box) for page in shown):
                found.append((shown[0], span))
    return found


def _in_view(
    lmm: LMM, prompt: Prompt, maps: TokenMaps, span: Span, pages: Sequence[ShownPage], inks: dict[int, Ink]
) -> Place | None:
    """Where the model looked while it wrote some tokens."""
    image, connector, rows = lmm.config.image, lmm.config.connector, maps.of(span)
    if image is None or connector is None or not len(rows):
        return None
    of_image = prompt.token_map.image[prompt.token_map.visual]
    index = int(np.argmax([rows[:, of_image == i].sum() for i in range(len(prompt.images))]))
    region = find_region(rows[:, of_image == index], locate_tokens(prompt.images[index], image, connector))
    if region is None:
        return None
    page, (width, height) = pages[index], prompt.images[index].size
    if index not in inks:
        inks[index] = find_ink(page.image.resize((width, height)) if page.image.size != (width, height) else page.image)
    left, top, right, bottom = trim(region, inks[index])
    x, y = page.part[:2]
    wide, high = (page.part[2] - x) / width, (page.part[3] - y) / height
    return Place(page.number, (x + left * wide, y + top * high, x + right * wide, y + bottom * high), "attention")


def _choose(
    value: Sought, known: Sequence[tuple[ShownPage, Span]], seen: Place | None, pages: Sequence[ShownPage]
) -> Place | None:
    """The place in the text layer that is meant, or what was seen where the text layer has none."""
    if not known:
        return seen
    number = known[0][0].number
    if seen is not None and any(page.number == seen.page for page, _ in known):
        number = seen.page
    elif len({page.number for page, _ in known}) > 1:
        scores = [(pick(p.text, [s], label=value.label)[1], -p.number) for p, s in known if p.text is not None]
        number = -max(scores)[1]
    text = next(page.text for page in pages if page.number == number)
    assert text is not None
    near = seen.box if seen is not None and seen.page == number else None
    span, _ = pick(text, [span for page, span in known if page.number == number], near=near, label=value.label)
    return Place(number, around(text.boxes_of_lines(*span)), "text layer")


def _holds(part: Box, box: Box) -> bool:
    """Whether the middle of a box lies in a part of the page."""
    x, y = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    return part[0] <= x <= part[2] and part[1] <= y <= part[3]
