"""`rave-mlx extract`: rows in the order of the input, errors as rows, tables, the review page, exit codes."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess

import pytest
from PIL import Image, ImageDraw, ImageFont

from rave_mlx.cli.main import main

LINES = ["Invoice number: K-2041", "Date: 14.03.2026", "Total: 812.50"]


def bill(path, lines=LINES):
    """A sheet with a heading and some lines, at 100 dpi."""
    sheet = Image.new("RGB", (500, 300), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((30, 20), "Invoice", fill="black", font=ImageFont.load_default(24))
    for number, line in enumerate(lines):
        draw.text((30, 80 + 30 * number), line, fill="black", font=ImageFont.load_default(16))
    sheet.save(path)
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One run over a bill, a file that is none, and a bill without a number; its folder, exit code and rows."""
    folder = tmp_path_factory.mktemp("run")
    bill(folder / "a.png")
    (folder / "b.pdf").write_bytes(b"")
    bill(folder / "c.tiff", ["Thank you for your order", "Total: 90.00"])
    schema = folder / "schema.json"
    schema.write_text(
        json.dumps({
            "type": "object",
            "properties": {
                "invoice_number": {"type": "string"}, "date": {"type": "string", "format": "date"},
                "total": {"type": "number"},
            },
        })
    )  # fmt: skip
    out, review = folder / "out.csv", folder / "check.html"
    command = ["extract", str(folder), "--schema", str(schema), "--out", str(out), "--review", str(review)]
    code = main([*command, "--threshold", "0.9999", "--quiet"])
    rows = [json.loads(line) for line in (folder / "out.csv.jsonl").read_text().splitlines()]
    return folder, code, rows, command


def test_rows_have_values_types_certainty_and_places(run):
    _, _, (first, _, _), _ = run
    assert list(first) == ["file", "sha256", "pages", "unit", "fields", "error"]
    assert (first["pages"], first["unit"], first["error"]) == (1, "pixel", None)
    values = {name: found["value"] for name, found in first["fields"].items()}
    assert values == {"invoice_number": "K-2041", "date": "2026-03-14", "total": 812.5}
    assert first["fields"]["date"]["raw"] == "14.03.2026"
    for number, name in enumerate(values):
        found = first["fields"][name]
        assert found["certainty"] > 0.5
        left, top, right, bottom = found["box"]
        assert 75 + 30 * number < (top + bottom) / 2 < 105 + 30 * number, name
        assert 30 <= left < right <= 300


def test_what_is_not_there_is_null(run):
    _, _, (_, _, third), _ = run
    assert third["fields"]["total"]["value"] == 90.0
    assert third["fields"]["date"]["value"] is None
    assert third["fields"]["date"]["box"] is None


def test_a_file_that_fails_is_a_row_and_the_exit_code(run):
    folder, code, (_, second, _), _ = run
    assert code == 1
    assert second["file"] == str(folder / "b.pdf")
    assert second["fields"] is None
    assert second["error"]


def test_the_table_has_the_values(run):
    folder, _, rows, _ = run
    with (folder / "out.csv").open(encoding="utf-8-sig", newline="") as file:
        table = list(csv.DictReader(file))
    assert [row["total"] for row in table] == ["812.5", "", "90.0"]
    assert table[1]["error"] == rows[1]["error"]


def test_resume_reads_nothing_again_and_allows_errors(run, capsys):
    folder, _, rows, command = run
    (folder / "check.html").unlink()
    assert main([*command, "--threshold", "0.9999", "--resume", "--allow-errors"]) == 0
    assert [json.loads(line) for line in (folder / "out.csv.jsonl").read_text().splitlines()] == rows
    assert (folder / "check.html").exists()


def test_the_review_page_shows_doubtful_fields_beside_their_place(run):
    folder, _, rows, _ = run
    page = (folder / "check.html").read_text()
    assert not re.search(r"(?:src|href)=[\"'](?!data:)", page)
    assert page.count("<section") == 3
    assert rows[1]["error"] in page
    doubtful = [
        name for row in rows for name, found in (row["fields"] or {}).items()
        if found["certainty"] < 0.9999 or found["value"] is None
    ]  # fmt: skip
    assert re.findall(r'data-field="([^"]+)"', page) == doubtful
    assert page.count('<figure class="crop">') == sum(
        found["box"] is not None and found["certainty"] < 0.9999
        for row in rows for found in (row["fields"] or {}).values()
    )  # fmt: skip


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
def test_the_review_page_works_in_a_browser(run):
    folder, _, _, _ = run
    page = folder / "check.html"
    # Confirms the first field and corrects the second, as a person would, and says what would be saved.
    script = """<script>
    const [one, two] = document.querySelectorAll("article");
    one.querySelector(".right").click();
    two.querySelector("input").value = "put right";
    two.querySelector("input").dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", cancelable: true }));
    document.title = JSON.stringify([corrections(), trainingRows().map((row) => [row.question, row.answer])]);
    </script></body>"""
    edited = folder / "edited.html"
    edited.write_text(page.read_text().replace("</body>", script))
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder}/browser", "--dump-dom"]
    shown = subprocess.run(["chromium", *options, edited.as_uri()], capture_output=True, text=True, check=True).stdout
    fields = re.findall(r'data-field="([^"]+)"', page.read_text())
    saved, training = json.loads(re.search(r"<title>(.*?)</title>", shown)[1].replace("&amp;", "&"))
    assert [(row["field"], row["changed"]) for row in saved] == [(fields[0], False), (fields[1], True)]
    assert saved[1]["value"] == "put right"
    assert "put right" in [answer for _, answer in training] or 'class="crop"' not in page.read_text()
    assert re.search(r'<p id="state"[^>]*>2 of \d+ looked at, 1 corrected; 1 document with errors', shown)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["a.png"], 'extract needs either --schema SCHEMA.json or --fields "total, due date"'),
        (["a.png", "--fields", "total", "--schema", "s.json"], "extract needs either --schema"),
        (["a.png", "--fields", "total", "--review", "x.html"], "--review needs --out FILE"),
        (["a.png", "--fields", "total", "--out", "r.jsonl", "--review", "x.txt"], "give it the ending .html"),
        (["a.png", "--fields", "total", "--out", "r.txt"], "rows are written as .jsonl"),
    ],
)
def test_usage(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bill(tmp_path / "a.png")
    assert main(["extract", *arguments]) == 2
    assert said in capsys.readouterr().err
