"""Measure a reader: exact match, ANLS and character error rate by kind, layout, font and split.

    python -m rave_mlx.nano.recipe.evaluate --model DIR --set own browser [--no-gate] [--out FILE.jsonl]

Set `own`: pages of the training generator with values it never showed, then one further split held out at a time, then
all of them; every question is also asked of another page, which shows what can be guessed without looking.
Set `browser`: pages laid out and drawn by Chromium (`browser.py`).
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

import torch
from PIL import Image

from rave_mlx.nano.documents import PageConfig, Question, held_out_page, make
from rave_mlx.nano.recipe.browser import browser_pages
from rave_mlx.nano.recipe.infer import Reader

VALUE_KINDS = ("field", "price", "quantity")
FAMILIAR = PageConfig(held_values=True)
SPLITS = {
    "values": FAMILIAR,
    "values+fonts": replace(FAMILIAR, held_fonts=True),
    "values+layouts": replace(FAMILIAR, held_layouts=True),
    "values+labels": replace(FAMILIAR, held_labels=True),
    "values+phrasing": replace(FAMILIAR, held_phrasing=True),
    "all": held_out_page(),
}
SHUFFLED = "values, another page"


@dataclass(frozen=True)
class Result:
    """One answered question."""

    split: str
    kind: str
    layout: str
    font: str
    question: str
    truth: str
    answer: str

    @property
    def exact(self) -> bool:
        return self.answer == self.truth

    @property
    def distance(self) -> int:
        return edit_distance(self.answer, self.truth)

    @property
    def anls(self) -> float:
        """1 - normalised edit distance, 0 below one half (Biten et al. 2019), case ignored."""
        a, t = self.answer.strip().lower(), self.truth.strip().lower()
        loss = edit_distance(a, t) / max(len(a), len(t), 1)
        return 1 - loss if loss < 0.5 else 0.0


def edit_distance(a: str, b: str) -> int:
    """Levenshtein distance."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (x != y))
    return row[-1]


def group(kind: str) -> str:
    """Fields, prices and quantities are all labelled values."""
    return "value" if kind in VALUE_KINDS else kind


def pick(rng: Random, questions: Iterable[Question]) -> list[Question]:
    """At most three values or cells, a line, the title, one other; the whole text of every fourth page."""
    by: dict[str, list[Question]] = defaultdict(list)
    for q in questions:
        by[group(q.kind)].append(q)
    wanted = {"value": 3, "cell": 3, "chart": 2, "line": 1, "title": 1, "read": int(rng.random() < 0.25)}
    out = []
    for kind, found in by.items():
        out += rng.sample(found, min(len(found), wanted.get(kind, int(rng.random() < 0.5))))
    return out


def own(reader: Reader, pages: int, seed: int = 990_000) -> Iterator[Result]:
    """Answers on generated pages, split by split."""
    for name, split in SPLITS.items():
        previous: Image.Image | None = None
        for i in range(pages):
            rng = Random(seed + i)
            config = replace(split, width=rng.randint(192, 448), height=rng.randint(64, 400))
            page = make(rng, config, with_words=False)
            asked = pick(rng, page.questions)
            for shown, label in ((page.image, name), (previous if name == "values" else None, SHUFFLED)):
                if shown is None:
                    continue
                answers = reader.answer(shown, [q.text for q in asked], 200)
                for q, answer in zip(asked, answers, strict=True):
                    yield Result(label, group(q.kind), page.layout, page.font, q.text, q.answer, answer)
            previous = page.image


def browser(reader: Reader, per_kind: int, seed: int = 11) -> Iterator[Result]:
    """Answers on pages drawn by Chromium."""
    for page in browser_pages(seed, per_kind):
        answers = reader.answer(page.image, [q.text for q in page.questions])
        for q, answer in zip(page.questions, answers, strict=True):
            yield Result(f"browser {page.kind}s", group(q.kind), page.kind, page.face, q.text, q.answer, answer)


def table(results: list[Result], keys: tuple[str, ...]) -> str:
    """Mean figures by the named attributes, one line a group."""
    by: dict[tuple[str, ...], list[Result]] = defaultdict(list)
    for r in results:
        by[tuple(getattr(r, k) for k in keys)].append(r)
    lines = [f"{' / '.join(keys):48s} {'exact':>6s} {'ANLS':>6s} {'CER':>6s} {'n':>5s}"]
    for key, found in sorted(by.items()):
        exact = sum(r.exact for r in found) / len(found)
        anls = sum(r.anls for r in found) / len(found)
        cer = sum(r.distance for r in found) / max(1, sum(len(r.truth) for r in found))
        lines.append(f"{' / '.join(key):48s} {exact:6.3f} {anls:6.3f} {cer:6.3f} {len(found):5d}")
    return "\n".join(lines)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Measure a reader.")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--set", nargs="+", choices=("own", "browser"), default=["own", "browser"])
    parser.add_argument("--pages", type=int, default=60, help="generated pages a split")
    parser.add_argument("--per-kind", type=int, default=48, help="browser pages of each kind")
    parser.add_argument("--no-gate", action="store_true", help="ignore the pair gates")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, help="write every answer, one JSON object a line")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    reader = Reader(options.model, gate=not options.no_gate)
    results: list[Result] = []
    if "browser" in options.set:
        results += browser(reader, options.per_kind)
    if "own" in options.set:
        results += own(reader, options.pages)
    print(table(results, ("split", "kind")))
    if "own" in options.set:
        mine = [r for r in results if not r.split.startswith("browser") and r.split != SHUFFLED]
        print(table([r for r in mine if r.kind in ("value", "cell")], ("layout",)))
        print(table([r for r in mine if r.kind in ("value", "cell")], ("font",)))
    if options.out:
        options.out.write_text("".join(json.dumps(asdict(r), ensure_ascii=False) + "\n" for r in results))


if __name__ == "__main__":
    main()
