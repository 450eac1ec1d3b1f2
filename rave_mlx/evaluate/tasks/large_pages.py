"""Pages larger than a small model sees in full, with values never seen in training.

Splits: `block`, one printed block of 300-480 x 200-420 pixels (type of 13-18) anywhere on a page of 1,600 x 2,200, as
after scanning a receipt; `close`, such a block alone, 2.2 to 3.5 times enlarged, as in a photograph that fills the
frame; `page`, 760-900 x 900-1,200 pixels full of type of 14-18, as a page of a letter on a screen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

from PIL import Image

from rave_mlx.evaluate.item import Item
from rave_mlx.evaluate.tasks.generated_documents import group
from rave_mlx.synthetic import Document, PageConfig, make

SEED = 980_000
"""Far from the seeds of training and of the other tasks."""
_PAPER = (250, 250, 248)
_KINDS = ("form", "receipt", "table", "letter", "article")
_SPLITS = ("block", "close", "page")
_PER_KIND = {"value": 2, "cell": 2, "title": 1}


def large(pages: int) -> Iterator[Item]:
    """Questions about `pages` pages of every split: at most two values, two cells and the title of each."""
    for index, split in enumerate(_SPLITS):
        for number in range(pages):
            rng = Random(SEED + number)
            document, image = _page(rng) if split == "page" else _block(rng, split)
            progress = (index * pages + number + 1) / (len(_SPLITS) * pages)
            for item in _questions(Random(number), document, image, split):
                yield replace(item, progress=progress)


def _block(rng: Random, split: str) -> tuple[Document, Image.Image]:
    """A page of the splits "block" and "close", with the document on it."""
    width, height = rng.randint(300, 480), rng.randint(200, 420)
    config = PageConfig(width, height, rng.choice(_KINDS), held_values=True, sizes=(13.0, 18.0))
    document = make(rng, config, with_words=False)
    block = document.image
    if split == "close":
        factor = rng.uniform(2.2, 3.5)
        sides = round(block.width * factor), round(block.height * factor)
        return document, block.resize(sides, Image.Resampling.BICUBIC)
    page = Image.new("RGB", (1600, 2200), _PAPER)
    page.paste(block, (rng.randint(0, 1600 - block.width), rng.randint(0, 2200 - block.height)))
    return document, page


def _page(rng: Random) -> tuple[Document, Image.Image]:
    """A page of the split "page", with the document that it is."""
    width, height = rng.randint(760, 900), rng.randint(900, 1200)
    config = PageConfig(width, height, rng.choice(_KINDS), held_values=True, sizes=(14.0, 18.0), trim=0)
    document = make(rng, config, with_words=False)
    return document, document.image


def _questions(rng: Random, document: Document, image: Image.Image, split: str) -> Iterator[Item]:
    """Some questions about a document, of each kind in `_PER_KIND`."""
    for kind, most in _PER_KIND.items():
        found = [q for q in document.questions if group(q.kind) == kind]
        for q in rng.sample(found, min(len(found), most)):
            tags = {"split": split, "kind": kind, "layout": document.layout}
            yield Item(image, q.text, (q.answer,), tags)
