"""Rows for `rave-mlx train` from office documents: regions of their pages, questions as extract asks them, answers.

    python benchmarks/office_documents.py PAPERS --count 20 --seed 1000
    python benchmarks/extraction_rows.py PAPERS ROWS && rave-mlx train --data ROWS --out ADAPTER

A region shows a value where the middle of its box lies inside it; for the others "not found" is the answer, as many of
them as there are values.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from random import Random

from office_schemas import schema_of

from rave_mlx.checkpoint.directory import BUILT_IN, read_config
from rave_mlx.documents.extraction.questions import questions_of
from rave_mlx.documents.extraction.regions import PAGE_PIXELS, Region, cut_regions
from rave_mlx.documents.extraction.schema import ExtractionSchema
from rave_mlx.documents.pages import open_document
from rave_mlx.documents.sources import find_documents
from rave_mlx.inputs.lines.page_lines import find_lines
from rave_mlx.synthetic.questions import ABSENT


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("papers", type=Path)
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    rng = Random(0)
    rows: list[dict[str, str]] = []
    config = read_config(BUILT_IN).image
    for line in (given.papers / "truth.jsonl").read_text(encoding="utf-8").splitlines():
        truth = json.loads(line)
        schema = ExtractionSchema.of(schema_of(truth["kind"]))
        fields = [field for field in schema.fields if field.is_leaf]
        with open_document(find_documents(given.papers / truth["file"]).documents[0]) as document:
            for page in document.pages:
                image = page.draw(PAGE_PIXELS)
                leveled = find_lines(image)
                scale = image.width / 595.32 if truth["unit"] == "point" else 1.0
                for number, region in enumerate(cut_regions(leveled, config)):
                    name = f"{Path(truth['file']).stem}-{page.number}-{number}.png"
                    shown, absent = [], []
                    for field in fields:
                        text = _shown(truth["places"], field.name, page.number, region, scale)
                        question = rng.choice(questions_of(field, schema.root))
                        (shown if text else absent).append((question, text or ABSENT))
                    chosen = [*shown, *rng.sample(absent, min(len(absent), max(2, len(shown))))]
                    region.image.save(given.out / name)
                    rows += [{"image": name, "question": q, "answer": a} for q, a in chosen]
    rng.shuffle(rows)
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (given.out / "train.jsonl").write_text(text, encoding="utf-8")
    print(f"{len(rows)} rows, {sum(row['answer'] == ABSENT for row in rows)} of them {ABSENT!r}")


def _shown(places: list[dict[str, object]], name: str, page: int, region: Region, scale: float) -> str | None:
    """The text of a field where a region shows it."""
    for place in places:
        if place["field"] != name or place["page"] != page:
            continue
        left, top, right, bottom = (side * scale for side in place["box"])
        x, y = (left + right) / 2, (top + bottom) / 2
        box = region.box
        if box[0] <= x <= box[2] and box[1] <= y <= box[3]:
            return str(place["text"])
    return None


if __name__ == "__main__":
    main()
