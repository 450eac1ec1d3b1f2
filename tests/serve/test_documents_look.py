"""/v1/look, /v1/read, /v1/extract, /v1/pages give what the commands of that name give."""

from __future__ import annotations

import base64
import io
import json

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("pypdfium2")
httpx = pytest.importorskip("httpx")
canvas = pytest.importorskip("reportlab.pdfgen.canvas")

from PIL import Image  # noqa: E402
from serve.running import png, question, receipt, running  # noqa: E402

import rave_mlx  # noqa: E402
from rave_mlx.look.answer_maps import collect  # noqa: E402


@pytest.fixture(scope="module")
def client():
    with running("--max-pages", 3) as server, httpx.Client(base_url=server.address, timeout=120) as found:
        yield found


@pytest.fixture(scope="module")
def pdf():
    file = io.BytesIO()
    drawn = canvas.Canvas(file, pagesize=(300, 200))
    for number in (1, 2):
        drawn.setFont("Helvetica", 16)
        for line, text in enumerate((f"Invoice {number}", "Total: 13.60", f"Date: 2024-03-0{number}")):
            drawn.drawString(30, 150 - 30 * line, text)
        drawn.showPage()
    drawn.save()
    return file.getvalue()


def picture(address: str) -> Image.Image:
    head, _, data = address.partition(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_look_shows_where_each_token_looked(client):
    body = {"messages": question(), "compare": ["rave", "none"], "layers": "2-5", "max_tokens": 8}
    runs = client.post("/v1/look", json=body).json()["runs"]
    assert [run["attention"] for run in runs] == ["rave", "none"]
    messages = [
        {
            "role": "user",
            "content": [{"type": "image", "image": receipt()}, {"type": "text", "text": "What is the total?"}],
        }
    ]
    seen = collect(rave_mlx.load(), messages, policy="rave", max_tokens=8)
    run = runs[0]
    assert run["answer"] == seen.answer == "13.60"
    assert "".join(token["text"] for token in run["tokens"]) == seen.answer
    assert [(image["width"], image["height"]) for image in run["images"]] == [(320, 200)]
    assert np.array_equal(np.asarray(picture(run["images"][0]["png"]).convert("RGB")), np.asarray(receipt()))
    assert 0.9 < run["certainty"] <= min(token["probability"] for token in run["tokens"])
    for index, token in enumerate(run["tokens"]):
        best = seen.peak_token(seen.over(index, layers=range(2, 6)))
        box = seen.images[0].places.boxes[best] / [320, 200, 320, 200]
        assert token["peak"]["box"] == pytest.approx(box, abs=1e-4)
        grey = picture(token["maps"][0]["png"])
        assert grey.mode == "L"
        values = np.asarray(grey)
        assert values.max() == 255
        row, column = np.unravel_index(values.argmax(), values.shape)
        left, top, right, bottom = token["peak"]["box"]
        assert left - 0.02 <= (column + 0.5) / values.shape[1] <= right + 0.02
        assert top - 0.02 <= (row + 0.5) / values.shape[0] <= bottom + 0.02
    assert len(run["masses"]["layers"]) == 6
    assert runs[1]["masses"]["layers"][0]["shift"] is None


def test_look_shows_the_reading_of_the_page_of_policies_that_act_on_logits_too(client):
    body = {"messages": question(), "compare": ["rave+panes+views"], "max_tokens": 8}
    runs = client.post("/v1/look", json=body).json()["runs"]
    assert [(run["attention"], run["answer"]) for run in runs] == [("rave+panes+views", "13.60")]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"compare": ["varr"]}, "no policy is called 'varr'"),
        ({"compare": ["rave", "rave"]}, "names a policy twice"),
        ({"compare": []}, "compare"),
        ({"layers": "0-99"}, "was asked for, there are 6"),
        ({"layers": "x"}, "write numbers and ranges"),
        ({"max_tokens": 10_000}, "max_tokens"),
        ({"messages": [{"role": "user", "content": "Hello"}]}, "there is no image to look at"),
        ({"temperature": 1}, "there is no field 'temperature'"),
    ],
)
def test_look_refuses_what_it_cannot_show(client, fields, message):
    answer = client.post("/v1/look", json={"messages": question(), **fields})
    assert answer.status_code == 400
    assert message in answer.json()["error"]["message"]


def test_read_gives_what_the_package_reads(client, pdf):
    files = [("file", ("a.pdf", pdf)), ("file", ("b.png", png(receipt()))), ("file", ("c.txt", b"hello"))]
    rows = client.post("/v1/read", files=files, data={"format": "json"}).json()["documents"]
    read = list(rave_mlx.read([pdf, png(receipt())]))
    for row, expected in zip(rows, read, strict=False):
        assert row == {**expected.as_row(), "file": row["file"]}
    assert [row["file"] for row in rows] == ["a.pdf", "b.png", "c.txt"]
    assert (rows[2]["error"], rows[2]["pages"]) == ("this is a text file; name a picture or a PDF; text can be read as "
                                                     "it is", [])  # fmt: skip
    for written in ("markdown", "text"):
        row = client.post("/v1/read", files=files[:1], data={"format": written, "pages": "2"}).json()["documents"][0]
        assert "Invoice 2" in row[written]
        assert "Invoice 1" not in row[written]
    assert row["pages"] == 1


def test_extract_gives_what_the_package_extracts(client, pdf):
    schema = {
        "type": "object",
        "properties": {"total": {"type": "number"}, "date": {"type": "string", "format": "date"}},
    }
    answer = client.post(
        "/v1/extract", files={"file": ("a.pdf", pdf)}, data={"schema": json.dumps(schema), "pages": "1"}
    )
    row = answer.json()["documents"][0]
    (expected,) = rave_mlx.extract(pdf, schema, pages="1")
    assert row["fields"] == expected.fields.as_row()
    assert row["fields"]["total"]["value"] == 13.6
    assert (row["file"], row["pages"], row["unit"], row["error"]) == ("a.pdf", 1, "point", None)
    named = client.post("/v1/extract", files={"file": ("a.pdf", pdf)}, data={"fields": "date", "pages": "2"}).json()
    assert named["documents"][0]["fields"]["date"]["value"] == "2024-03-02"


def test_a_pdf_in_a_conversation_is_its_pages(client, pdf):
    """As an image with a page, and as a file of OpenAI's form, which is all pages."""
    data = "data:application/pdf;base64," + base64.b64encode(pdf).decode()

    def ask(*parts):
        messages = [{"role": "user", "content": [*parts, {"type": "text", "text": "Date?"}]}]
        body = {"messages": messages, "max_tokens": 12, "attention": "rave"}
        return client.post("/v1/chat/completions", json=body)

    second = ask({"type": "image_url", "image_url": {"url": data}, "page": 2}).json()
    assert second["choices"][0]["message"]["content"] == "2024-03-02"
    whole = ask({"type": "file", "file": {"filename": "a.pdf", "file_data": data}}).json()
    assert whole["rave"]["visual_tokens"] == 2 * second["rave"]["visual_tokens"]
    for file in ({"file_id": "x"}, {"file_data": "/etc/passwd"}, {"file_data": "data:application/pdf;base64,AAAA"}):
        assert ask({"type": "file", "file": file}).status_code == 400


def test_pages_are_drawn_for_the_browser(client, pdf):
    pages = client.post("/v1/pages", files={"file": ("a.pdf", pdf)}).json()["pages"]
    assert [page["page"] for page in pages] == [1, 2]
    for page in pages:
        assert picture(page["image"]).size == (page["width"], page["height"])
        assert max(page["width"], page["height"]) == 1600
        assert (page["size"], page["unit"]) == ([300.0, 200.0], "point")
    (one,) = client.post("/v1/pages", files={"file": ("r.png", png(receipt()))}).json()["pages"]
    assert (one["width"], one["height"], one["size"], one["unit"]) == (320, 200, [320, 200], "pixel")
    assert np.array_equal(np.asarray(picture(one["image"])), np.asarray(receipt()))


def test_a_document_of_too_many_pages_says_so(client):
    file = io.BytesIO()
    drawn = canvas.Canvas(file, pagesize=(300, 200))
    for _ in range(5):
        drawn.showPage()
    drawn.save()
    for path, data in (("/v1/read", {}), ("/v1/extract", {"fields": "x"})):
        row = client.post(path, files={"file": ("a.pdf", file.getvalue())}, data=data).json()["documents"][0]
        assert row["error"] == "5 pages, at most 3 are taken at once; choose with pages"
    answer = client.post("/v1/pages", files={"file": ("a.pdf", file.getvalue())})
    assert answer.status_code == 400
    assert (
        len(client.post("/v1/pages", files={"file": ("a.pdf", file.getvalue())}, data={"pages": "2-4"}).json()["pages"])
        == 3
    )
