"""Where the text of each document goes."""

from __future__ import annotations

from pathlib import PurePosixPath

import pytest
from support import form

from rave_mlx.documents.sources import find_documents
from rave_mlx.documents.transcription.reading import DocumentReading, PageReading
from rave_mlx.documents.transcription.result_files import content, places


@pytest.fixture
def folder(tmp_path):
    for name in ("a.pdf", "a.png", "in/a.png", "in/deep/b.png", "other/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        form(["x"]).save(tmp_path / name)
    return tmp_path


def where(folder, *named):
    paths = [str(folder / name) for name in named]
    found = places(find_documents(paths).documents, paths, "markdown")
    return [str(place) for place in found.values()]


def test_a_folder_is_mirrored(folder):
    assert where(folder, "") == ["a.pdf.md", "a.png.md", "in/a.png.md", "in/deep/b.png.md", "other/a.png.md"]


def test_folders_keep_their_names_where_there_are_several(folder):
    assert where(folder, "in", "other") == ["in/a.png.md", "in/deep/b.png.md", "other/a.png.md"]


def test_files_of_one_name_do_not_meet(folder):
    assert where(folder, "a.png", "in/a.png", "other/a.png") == ["a.png.md", "a.png (2).md", "a.png (3).md"]
    assert where(folder, "a.pdf#page=1") == ["a.pdf page 1.md"]


def test_nothing_leaves_the_folder(folder):
    paths = [str(folder / "in" / ".." / "in" / "deep")]
    found = places(find_documents(paths).documents, paths, "json")
    assert list(found.values()) == [PurePosixPath("b.png.json")]


def test_what_files_hold():
    reading = DocumentReading("a.pdf", "0" * 64, (PageReading(1), PageReading(2)))
    assert content(reading, "text") == "\f\n"
    assert content(reading, "markdown") == "<!-- page 1 -->\n\n<!-- page 2 -->\n"
    assert content(reading, "json").startswith('{"file": "a.pdf", "sha256": "000')
    assert content(DocumentReading("a", None, (PageReading(1),)), "text") == ""
