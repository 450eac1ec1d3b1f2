"""Twenty documents that the built-in model has never seen the like of, with its answers: draws contact_sheet.png.

The pages are the first twenty of the `all` split of `rave-mlx evaluate --task docs` that carry a labelled value or a
cell: fonts, layouts, labels, values and phrasings are all held out of training. Nothing is selected by its answer.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image, ImageDraw

import rave_mlx
from rave_mlx.evaluate import Item, Result, answer_all
from rave_mlx.evaluate.tasks.generated_documents import docs
from rave_mlx.synthetic import fonts

OUT = Path(__file__).parent / "contact_sheet.png"
COLUMNS, ROWS = 5, 4
CARD_WIDTH, PAGE_HEIGHT, TEXT_HEIGHT = 360, 300, 118
GREEN, RED, GREY = "#0a7a2f", "#c0182b", "#666666"


def choose(count: int) -> list[list[Item]]:
    """Up to three questions for each of the first `count` pages."""
    pages: dict[int, list[Item]] = {}
    for item in docs(4 * count):
        if item.tags["split"] == "all" and item.tags["kind"] in ("value", "cell", "title"):
            pages.setdefault(id(item.image), []).append(item)
    asked = [items[:3] for items in pages.values() if any(i.tags["kind"] != "title" for i in items)]
    return asked[:count]


def card(items: list[Item], results: list[Result]) -> Image.Image:
    """A page with its questions below it."""
    image = Image.new("RGB", (CARD_WIDTH, PAGE_HEIGHT + TEXT_HEIGHT), "white")
    page = items[0].image
    assert isinstance(page, Image.Image)
    shown = page.convert("RGB")
    shown.thumbnail((CARD_WIDTH - 20, PAGE_HEIGHT - 20))
    image.paste(shown, ((CARD_WIDTH - shown.width) // 2, (PAGE_HEIGHT - shown.height) // 2))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, CARD_WIDTH - 1, PAGE_HEIGHT + TEXT_HEIGHT - 1), outline="#cccccc")
    font = fonts.face(fonts.families()[0], 12)
    y = PAGE_HEIGHT
    for result in results:
        draw.text((10, y), clip(result.question, 52), fill="black", font=font)
        verdict = clip(result.answer, 48) if result.exact else f"{clip(result.answer, 25)}   not: "
        draw.text((22, y + 15), verdict, fill=GREEN if result.exact else RED, font=font)
        if not result.exact:
            x = 22 + draw.textlength(verdict, font=font)
            draw.text((x, y + 15), clip(result.truths[0], 22), fill=GREY, font=font)
        y += 37
    return image


def clip(text: str, length: int) -> str:
    """One line of at most `length` characters."""
    text = text.replace("\n", " / ")
    return text if len(text) <= length else text[: length - 1] + "…"


def main() -> None:
    """Draw the sheet and print how many answers on it are right."""
    lmm = rave_mlx.load()
    asked = choose(COLUMNS * ROWS)
    sheet = Image.new("RGB", (COLUMNS * CARD_WIDTH, ROWS * (PAGE_HEIGHT + TEXT_HEIGHT)), "white")
    right = total = 0
    for place, items in enumerate(asked):
        results = list(answer_all(lmm, items))
        row, column = divmod(place, COLUMNS)
        sheet.paste(card(items, results), (column * CARD_WIDTH, row * (PAGE_HEIGHT + TEXT_HEIGHT)))
        right, total = right + sum(r.exact for r in results), total + len(results)
    sheet.quantize(128).save(OUT, optimize=True)
    print(f"{OUT.name}: {right} of {total} answers are right")


if __name__ == "__main__":
    main()
