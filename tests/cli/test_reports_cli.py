"""Reports of neighbouring projects' users, tried here: what a person is told about files with several pages."""

from __future__ import annotations

import pytest
from command import rave
from support import form

PAGES = [form([f"Page {i}"], size=(96, 48), font=10) for i in range(1, 4)]


@pytest.mark.parametrize(
    ("name", "page", "expected"),
    [
        ("scan.tif", 1, "page 1 of 3"),
        ("scan.tif", 3, "page 3 of 3"),
        ("paper.pdf", 2, "page 2 of 3"),
        ("film.gif", 1, "the first of 3 frames"),
        ("film.webp", 1, "the first of 3 frames"),
        ("one.tif", 1, ""),
        ("one.png", 1, ""),
    ],
)
def test_other_pages_than_the_one_that_is_read_are_named(tmp_path, name, page, expected):
    # Stirling-Tools/Stirling-PDF#142, jimp-dev/jimp#816: only the first page, without a word.
    if name.endswith("pdf"):
        pytest.importorskip("pypdfium2")
    file = tmp_path / name
    several = {"save_all": True, "append_images": PAGES[1:]} if not name.startswith("one") else {}
    PAGES[0].save(file, **several)
    shown = f"{file}#page={page}" if page > 1 else file
    done = rave("chat", "--image", shown, "--prompt", "What is it?", "--max-tokens", 1, "--attention", "rave")
    line = next(text for text in done.stderr.splitlines() if "visual tokens" in text)
    read = line.partition(f"{name}: ")[2].partition("visual tokens")[2]
    assert read.endswith(f", {expected}") if expected else "page" not in read and "frames" not in read
