"""Ordinary pages with the questions that people ask about them, written by hand: what no training page is made from.

    python -m recipes.builtin.natural --out FOLDER
    rave-mlx evaluate --task FOLDER/development.jsonl --out FOLDER/answers.jsonl

`development/`: 30 pages as HTML and their questions, to look at between trainings. `kept/`: 30 more by other templates
and words, to be asked once, when a model is done. Headless Chromium draws both. Names and amounts are invented; nothing
of either may be copied into the generator, nor may a training page be drawn from them. Of the questions of the
development set 84, mostly short ones ("total amount", "who is it from"), have words that the generator can make as
well, of the kept one 14; the kept one was asked for the first time on 30 November 2026 (0.31, development 0.36), so
`third/` was written, 30 pages and 200 questions by somebody who had seen neither the others nor the generator.
"""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

SETS = ("development", "kept", "third")
_HERE = Path(__file__).parent
_AROUND = (254, 1, 254)
"""Colour of the window around a page, by which it is cut out."""
_WINDOW = (900, 1300)


@dataclass(frozen=True)
class NaturalQuestion:
    """A question about a page, and every spelling of its answer that is right; `kind` is value, absent or yesno."""

    page: str
    question: str
    answers: tuple[str, ...]
    kind: str


def questions(name: str) -> list[NaturalQuestion]:
    """The questions of one of `SETS`, in their order."""
    rows = [json.loads(line) for line in (_HERE / name / "qa.jsonl").read_text(encoding="utf-8").splitlines()]
    return [NaturalQuestion(row["page"], row["question"], tuple(row["answer"]), row["kind"]) for row in rows]


def printed(name: str, page: str) -> str:
    """What a page says, without tags, entities and white space: to see that an answer is on it."""
    text = (_HERE / name / f"{page}.html").read_text(encoding="utf-8")
    text = re.sub(r"<style>.*?</style>|<[^>]*>", "", text, flags=re.S)
    return re.sub(r"\s", "", html.unescape(text))


def draw(name: str, page: str) -> Image.Image:
    """One page of a set, as Chromium draws it.

    Raises:
        RuntimeError: where Chromium is missing or drew nothing.
    """
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        raise RuntimeError("no Chromium found; on Debian: apt install chromium")
    body = (_HERE / name / f"{page}.html").read_text(encoding="utf-8")
    frame = f"<style>html{{background:rgb{_AROUND}}}body{{margin:0;box-sizing:border-box}}</style>"
    with tempfile.TemporaryDirectory() as folder:
        source, shot = Path(folder) / "page.html", Path(folder) / "page.png"
        source.write_text(f'<!doctype html><meta charset="utf-8">{frame}{body}', encoding="utf-8")
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", f"--screenshot={shot}"]
        size = f"--window-size={_WINDOW[0]},{_WINDOW[1]}"
        done = subprocess.run([program, *options, size, source.as_uri()], capture_output=True, text=True, check=False)
        if not shot.is_file():
            raise RuntimeError(f"{program} drew no page: {done.stderr.strip().splitlines()[-1:]}")
        drawn = Image.open(shot).convert("RGB")
    inside = (np.asarray(drawn) != np.array(_AROUND)).any(-1)
    rows, columns = np.flatnonzero(inside.any(1)), np.flatnonzero(inside.any(0))
    return drawn.crop((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))


def write(name: str, out: Path) -> Path:
    """Draw the pages of a set into `out`, with a file of questions as `rave-mlx evaluate` reads it; that file."""
    asked = questions(name)
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    for page in dict.fromkeys(q.page for q in asked):
        draw(name, page).save(folder / f"{page}.png")
    rows = [
        {"image": f"{name}/{q.page}.png", "question": q.question, "answer": list(q.answers), "kind": q.kind,
         "page": q.page} for q in asked
    ]  # fmt: skip
    file = out / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file
