"""Decode steps saved by drafts from the text layer of digital PDFs.

    python benchmarks/text_drafts.py [--pages 10] [--lines 8] [--tokenizer FOLDER_OF_A_TOKENIZER.JSON ...]

Two measurements on pages that Chromium prints (`digital_pages.py`). First the built-in model itself reads lines of
every page, with drafts and without: answers have to be equal, token by token. Second a bound for models that write
whole pages: a writer that knows the true answer (Markdown, with HTML tables, plain text, JSON) and needs a step for
every token that was not guessed; with the tokenizers that are named, and the built-in one.
"""

from __future__ import annotations

import argparse
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path

from digital_pages import Page, pages, print_pdf

import rave_mlx
from rave_mlx.documents.pages import open_document
from rave_mlx.documents.sources import Source
from rave_mlx.documents.transcription.choose_prompt import choose_prompt
from rave_mlx.documents.transcription.page_questions import Asker, ReadOptions
from rave_mlx.generation.drafts import DraftChain, LookupDrafts, TextDrafts
from rave_mlx.generation.scheduler import Scheduler
from rave_mlx.inputs.images.pdf_text import read_page_text
from rave_mlx.inputs.prompt.tokenizer import Tokenizer
from rave_mlx.models.lmm import LMM

_VALUE = re.compile(r'": ("(?:[^"\\]|\\.)*")')
DRAFT, MOST, LEAST = 16, 32, 2
"""Guesses of `generation.answer_row`: at first, at most and at least."""


@dataclass(frozen=True)
class Score:
    """What a number of answers took: tokens, decoder steps, guessed tokens and right ones, seconds."""

    tokens: int = 0
    steps: int = 0
    drafted: int = 0
    accepted: int = 0
    seconds: float = 0.0

    def __add__(self, other: Score) -> Score:
        mine, theirs = vars(self).values(), vars(other).values()
        return Score(*(a + b for a, b in zip(mine, theirs, strict=True)))

    def __str__(self) -> str:
        share = self.accepted / max(1, self.drafted)
        return (
            f"{self.tokens:>6} tokens in {self.steps:>5} steps: {self.tokens / max(1, self.steps):5.2f} a step, "
            f"{self.accepted} of {self.drafted} guesses right ({share:.0%}), {self.seconds:.1f} s"
        )


def write_known(ids: Sequence[int], source: DraftChain) -> Score:
    """A writer of known tokens, which are guessed as the scheduler has them guessed."""
    done = steps = drafted = accepted = 0
    most, start = DRAFT, time.perf_counter()
    while done < len(ids):
        guess = source.draft(list(ids[:done]), min(most, len(ids) - done - 1))
        right = 0
        while right < len(guess) and guess[right] == ids[done + right]:
            right += 1
        if guess:
            most = min(MOST, max(LEAST, most * 2 if right == len(guess) else max(most // 2, right + 1)))
        steps, drafted, accepted, done = steps + 1, drafted + len(guess), accepted + right, done + right + 1
    return Score(len(ids), steps, drafted, accepted, time.perf_counter() - start)


def bound(tokenizer: Tokenizer, documents: Sequence[Page], texts: Sequence[str]) -> dict[str, Score]:
    """Steps of a writer that makes no mistake, by the form in which it writes."""
    forms = {
        "Markdown": Page.markdown,
        "HTML tables": Page.html_tables,
        "plain text": Page.plain,
        "JSON, no schema": Page.as_json,
    }
    scores = dict.fromkeys(forms, Score())
    for page, text in zip(documents, texts, strict=True):
        for form, write in forms.items():
            ids, _ = tokenizer.encode(write(page), first=False)
            scores[form] += write_known(ids, DraftChain(TextDrafts(tokenizer, text), LookupDrafts()))
    return scores


def bound_by_schema(tokenizer: Tokenizer, documents: Sequence[Page], texts: Sequence[str]) -> tuple[int, int]:
    """Steps of values in JSON, where a schema forces everything else: without drafts and with them."""
    steps = [0, 0]
    for page, text in zip(documents, texts, strict=True):
        answer = page.as_json()
        values = [span for match in _VALUE.finditer(answer) for span in range(match.start(1) + 1, match.end())]
        inside = set(values)
        ids, starts = tokenizer.encode(answer, first=False)
        ends = [*starts[1:], len(answer)]
        forced = [not inside.intersection(range(a, max(b, a + 1))) for a, b in zip(starts, ends, strict=True)]
        for way, source in enumerate((None, DraftChain(TextDrafts(tokenizer, text), LookupDrafts()))):
            done = 0
            while done < len(ids):
                if forced[done]:
                    done += 1
                    continue
                guess = [] if source is None else source.draft(ids[:done], DRAFT)
                right = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(guess, ids[done:], strict=False))))
                done, steps[way] = done + right + 1, steps[way] + 1
    return steps[0], steps[1]


def read_lines(lmm: LMM, printed: Sequence[bytes], lines: int) -> tuple[Score, Score, int]:
    """The built-in model reads the first lines of pages: without drafts, with them, and how many answers differ."""
    scores, answers = [], []
    for drafts in (False, True):
        asker, score, ids = Asker(lmm, choose_prompt(lmm), ReadOptions(drafts=drafts)), Score(), []
        for data in printed:
            with open_document(Source("page.pdf", data)) as document:
                for page in document.pages:
                    jobs = list(islice(asker.jobs(asker.page(page)), lines))
                    start = time.perf_counter()
                    for answer in Scheduler(lmm, rows=1).run(jobs):
                        ids.append(answer.ids)
                        score += Score(len(answer.ids), answer.steps, answer.drafted, answer.accepted)
                    score += Score(seconds=time.perf_counter() - start)
        scores.append(score)
        answers.append(ids)
    return scores[0], scores[1], sum(a != b for a, b in zip(*answers, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=10)
    parser.add_argument("--lines", type=int, default=8, help="lines of every page that the built-in model reads")
    parser.add_argument("--tokenizer", type=Path, nargs="*", default=[], help="folders with a tokenizer.json")
    args = parser.parse_args()
    documents = pages(args.pages)
    printed = [print_pdf(page.document()) for page in documents]
    texts = [read_page_text(data, 1).text for data in printed]
    lmm = rave_mlx.load()
    plain, drafted, different = read_lines(lmm, printed, args.lines)
    print(f"built-in model, {args.lines} lines of each of {len(documents)} pages")
    print(f"  without  {plain}\n  drafts   {drafted}")
    print(f"  {plain.steps / drafted.steps:.2f} times fewer steps; answers that differ: {different}")
    named = {"built-in tokenizer": lmm.tokenizer}
    named |= {folder.name: Tokenizer(folder / "tokenizer.json") for folder in args.tokenizer}
    for name, tokenizer in named.items():
        print(f"a writer of the true answer, {name}")
        for form, score in bound(tokenizer, documents, texts).items():
            print(f"  {form:16} {score}")
        without, with_drafts = bound_by_schema(tokenizer, documents, texts)
        saved = f"{without} steps without, {with_drafts} with: {without / with_drafts:.2f} times fewer"
        print(f"  {'JSON by schema':16} {saved}")


if __name__ == "__main__":
    main()
