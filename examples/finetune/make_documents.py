"""Documents of a kind that the built-in model has never seen: every value stands above its label.

    python examples/finetune/make_documents.py captions

writes captions/train.jsonl and captions/valid.jsonl with their pages. The generator never showed this layout in
training (it is one of the two held-out ones), and values, labels and fonts of the validation pages are held out too.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from random import Random

from rave_mlx.synthetic import PageConfig, make

TRAIN_PAGES, VALID_PAGES = 240, 60
PAGE = PageConfig(kind="form", block="caption", sizes=(13.0, 20.0))


def write(folder: Path, name: str, pages: int, seed: int, config: PageConfig) -> int:
    """Draw pages and write their questions, one JSON object a line; returns how many.

    Args:
        folder: of the data set.
        name: of the part: "train" or "valid".
        pages: how many.
        seed: of the first page; the others follow.
        config: what to draw, but for the size.
    """
    images = folder / name
    images.mkdir(parents=True)
    rows = []
    for number in range(pages):
        rng = Random(seed + number)
        page = make(
            rng, PageConfig(**{**vars(config), "width": rng.randint(220, 400), "height": rng.randint(120, 320)})
        )
        file = images / f"{number:03}.png"
        page.image.save(file)
        fields = [q for q in page.questions if q.kind == "field"]
        for q in rng.sample(fields, min(3, len(fields))):
            rows.append({"image": f"{name}/{file.name}", "question": q.text, "answer": q.answer})
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    return len(rows)


def main() -> None:
    """Write both sets."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else "captions")
    held = PageConfig(**{**vars(PAGE), "held_values": True, "held_labels": True, "held_fonts": True})
    train = write(folder, "train", TRAIN_PAGES, 1, PAGE)
    valid = write(folder, "valid", VALID_PAGES, 900_000, held)
    print(f"{folder}: {train} questions to train on, {valid} to validate")


if __name__ == "__main__":
    main()
