"""Memory of a run over a pile of documents, page by page: it has to stay where it is after the first 50 pages.

    python benchmarks/pile_memory.py [draw|read|extract] [--pages 1000] [--each 1000]

`draw`: pages are drawn, hashed and get their rows, without a model. `read` and `extract`: the built-in model reads
every page, or one field of every document. The pages are scans of a receipt in PDFs of `--each` pages, no two alike. It
prints the largest resident memory of the process in the first 50 pages and in all, and what the latter is more.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from rave_mlx.documents.pages import Document
from rave_mlx.documents.progress import Progress
from rave_mlx.documents.run import run
from rave_mlx.documents.sources import find_documents
from rave_mlx.documents.stream import Outcome, Process

WARM = 50
"""Pages after which memory has to be flat."""


def make_pile(folder: Path, pages: int, each: int) -> None:
    """PDFs of scanned pages."""
    font = ImageFont.load_default(20)

    def scan(number: int) -> Image.Image:
        page = Image.effect_noise((340, 200), 12).point(lambda grey: min(255, grey + 120))
        text = f"Harbour Cafe {number}\nDate: 2026-03-{number % 28 + 1:02d}\nTotal: {number / 10:.2f}"
        ImageDraw.Draw(page).multiline_text((16, 20), text, fill=0, font=font, spacing=16)
        return page

    for start in range(0, pages, each):
        first, *rest = map(scan, range(start, min(start + each, pages)))
        first.save(folder / f"scans {start}.pdf", save_all=True, append_images=rest, resolution=100)


def draw(documents: Iterator[Document]) -> Iterator[Outcome]:
    """Draws every page as a model of 1,280 visual tokens would have it drawn."""
    for document in documents:
        for page in document.pages:
            page.draw(4_000_000)
            document.page_done(page.number)
        yield Outcome({"fields": {}})


def process_of(command: str) -> Process:
    if command == "draw":
        return draw
    import rave_mlx

    lmm = rave_mlx.load()
    if command == "read":
        from rave_mlx.documents.transcription.page_questions import ReadOptions
        from rave_mlx.documents.transcription.page_reader import PageReader

        return PageReader(lmm, ReadOptions(), batch_size=8).process
    from rave_mlx.documents.extraction.extract import Extractor
    from rave_mlx.documents.extraction.schema import ExtractionSchema

    return Extractor(lmm, ExtractionSchema.of_names("total"), batch_size=8).process


class Watched(Progress):
    """Looks at the memory of the process after every page."""

    def __init__(self, pages: int):
        super().__init__("memory", pages, quiet=True)
        self.after_warm = self.largest = 0
        self.curve: list[tuple[int, int]] = []

    def page(self, document: Document, number: int, error: str | None = None) -> None:
        super().page(document, number, error)
        self.look()

    def row(self, row: dict[str, object]) -> None:
        super().row(row)
        self.look()

    def look(self) -> None:
        now = resident()
        if self.pages <= WARM:
            self.after_warm = max(self.after_warm, now)
        self.largest = max(self.largest, now)
        if not self.curve or self.pages >= self.curve[-1][0] + 100:
            self.curve.append((self.pages, now))


def resident() -> int:
    """Bytes of this process in memory: /proc where there is one, else what ps says."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * 4096
    import os

    said = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
    return int(said.stdout) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", nargs="?", default="draw", choices=("draw", "read", "extract"))
    parser.add_argument("--pages", type=int, default=1000)
    parser.add_argument("--each", type=int, default=1000)
    parser.add_argument("--make", type=Path)
    options = parser.parse_args()
    if options.make is not None:
        make_pile(options.make, options.pages, options.each)
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pile"
        folder.mkdir()
        # In a process of its own: the pictures of all pages are in memory while they are written.
        sizes = ["--pages", str(options.pages), "--each", str(options.each)]
        subprocess.run([sys.executable, __file__, "--make", str(folder), *sizes], check=True)
        pile = find_documents(folder)
        process = process_of(options.command)
        start = time.perf_counter()
        with Watched(len(pile.documents)) as progress:
            report = run(
                pile, process, progress, out=folder.with_name("rows.jsonl"), settings={}, empty={"fields": None}
            )
        seconds = time.perf_counter() - start
    print(report)
    print(
        f"{options.command}: {report.pages} pages of {len(pile.documents)} PDFs, {report.pages / seconds:.1f} pages/s"
    )
    print("resident MB by pages: " + ", ".join(f"{pages}: {size / 1e6:.0f}" for pages, size in progress.curve))
    warm, largest = progress.after_warm / 1e6, progress.largest / 1e6
    print(f"largest in the first {WARM} pages {warm:.1f} MB, in all {largest:.1f} MB: {largest / warm - 1:+.1%}")


if __name__ == "__main__":
    main()
