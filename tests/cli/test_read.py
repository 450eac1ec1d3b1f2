"""`rave-mlx read` as a process: formats, folders, resume, bad input, exit codes."""

from __future__ import annotations

import json

import pytest
from command import rave
from PIL import Image
from support import form

LINES = ["Invoice 2291", "Date: 3 May 2024", "Total: 13.60"]


@pytest.fixture(scope="module")
def pile(tmp_path_factory):
    """A folder with two readable documents, a broken one, and one of another kind."""
    folder = tmp_path_factory.mktemp("pile")
    (folder / "inner").mkdir()
    form(LINES).save(folder / "a.pdf", "PDF", save_all=True, append_images=[form(["Page two"])])
    form(["Coffee 2.40"]).save(folder / "inner" / "a.png")
    (folder / "broken.pdf").write_bytes(b"%PDF-1.7\nnothing")
    (folder / "notes.docx").write_bytes(b"PK")
    return folder


def test_markdown_on_standard_output(pile):
    done = rave("read", pile / "a.pdf")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        "<!-- page 1 -->\n\nInvoice 2291  \nDate: 3 May 2024  \nTotal: 13.60\n\n<!-- page 2 -->\n\nPage two\n"
    )
    assert "1 document, 2 pages" in done.stderr


def test_text_has_form_feeds(pile):
    done = rave("read", pile / "a.pdf", "--format", "text", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "\n".join(LINES) + "\n\fPage two\n", "")


def test_json_of_a_pile_with_a_broken_file(pile):
    done = rave("read", pile, "--format", "json")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1
    assert [row["file"].removeprefix(f"{pile}/") for row in rows] == ["a.pdf", "broken.pdf", "inner/a.png"]
    assert [row["error"] is None for row in rows] == [True, False, True]
    assert rows[1]["pages"] == []
    assert [page["text"] for page in rows[0]["pages"]] == ["\n".join(LINES), "Page two"]
    assert rows[2]["pages"][0]["blocks"][0]["text"] == "Coffee 2.40"
    assert all(len(row["sha256"]) == 64 for row in rows)
    assert "1 file that is no picture or PDF is left out: 1 .docx" in done.stderr
    assert "damaged" in done.stderr


def test_folder_mirrors_the_pile_and_is_gone_on_with(pile, tmp_path):
    out = tmp_path / "text"
    done = rave("read", pile, "--out", out, "--allow-errors")
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    assert (out / "inner" / "a.png.md").read_text() == "Coffee 2.40\n"
    assert "Page two" in (out / "a.pdf.md").read_text()
    rows = [json.loads(line) for line in (out / "read.jsonl").read_text().splitlines()]
    assert [row["output"] for row in rows] == ["a.pdf.md", None, "inner/a.png.md"]
    assert [row["pages"] for row in rows] == [2, None, 1]
    assert "damaged" in rows[1]["error"]
    assert not [file for file in out.rglob("*") if file.name.endswith(".part")]

    refused = rave("read", pile, "--out", out)
    assert refused.returncode == 2
    assert "--resume" in refused.stderr
    (out / "a.pdf.md").write_text("as it was")
    again = rave("read", pile, "--out", out, "--resume")
    assert again.returncode == 1
    assert "2 had their row already" in again.stderr
    assert (out / "a.pdf.md").read_text() == "as it was"


def test_several_documents_are_named(pile):
    done = rave("read", pile / "inner" / "a.png", pile / "a.pdf", "--pages", "1", "--format", "text")
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"==> {pile}/inner/a.png <==\n\nCoffee 2.40\n\n==> {pile}/a.pdf <==\n\n" + "\n".join(LINES) + "\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "FILE_OR_FOLDER"),
        (["nothing.pdf"], 1, "no such file or folder"),
        (["a.pdf", "--pages", "3-1"], 2, "exchange the two pages"),
        (["a.pdf", "--bbox"], 2, "--format json"),
        (["a.pdf", "--resume"], 2, "--out"),
        (["a.pdf", "--out", "a.pdf"], 2, "name a folder"),
        (["a.pdf", "--format", "html"], 2, "html"),
    ],
)
def test_usage(pile, arguments, code, said):
    done = rave("read", *(pile / a if a == "a.pdf" else a for a in arguments))
    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert done.stdout == ""


def test_empty_folder(tmp_path):
    done = rave("read", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "no document is there" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_encrypted_pdf_among_others(tmp_path):
    pypdf = pytest.importorskip("pypdf")
    form(["Tea 1.10"]).save(tmp_path / "b.png")
    Image.new("RGB", (100, 100), "white").save(tmp_path / "plain.pdf", "PDF")
    writer = pypdf.PdfWriter(clone_from=tmp_path / "plain.pdf")
    writer.encrypt("secret", algorithm="RC4-128")
    writer.write(tmp_path / "a.pdf")
    done = rave("read", tmp_path / "a.pdf", tmp_path / "b.png", "--format", "json")
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert done.returncode == 1
    assert "encrypted" in first["error"]
    assert (second["error"], second["pages"][0]["text"]) == (None, "Tea 1.10")
    assert "Traceback" not in done.stderr


def test_help_names_the_options():
    done = rave("read", "--help")
    assert done.returncode == 0
    for option in ("--pages", "--format", "--out", "--model", "--adapter", "--image-tokens", "--batch-size",
                   "--max-tokens", "--bbox", "--resume", "--allow-errors"):  # fmt: skip
        assert option in done.stdout
