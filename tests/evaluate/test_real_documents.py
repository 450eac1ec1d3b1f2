"""Receipts and forms as SROIE and FUNSD are published."""

from __future__ import annotations

import json

import pytest
from PIL import Image

from rave_mlx.errors import UsageError
from rave_mlx.evaluate.tasks import open_task

RECEIPT = {"company": "BOOK SHOP SDN BHD", "date": "25/12/2018", "address": "NO.53, JALAN SAGU", "total": "9.00"}


def entity(number, label, text, box, *links):
    return {"id": number, "label": label, "text": text, "box": box, "words": [], "linking": [list(k) for k in links]}


FORM = [
    entity(0, "question", "DATE:", [10, 10, 50, 20], (0, 1)),
    entity(1, "answer", "March 3, 1998", [60, 10, 120, 20], (0, 1)),
    entity(2, "question", "Remarks", [10, 40, 50, 50], (2, 4), (2, 3)),
    entity(3, "answer", "on Monday", [60, 52, 120, 60], (2, 3)),
    entity(4, "answer", "call back", [60, 40, 120, 50], (2, 4)),
    entity(5, "question", "Name", [10, 80, 50, 90], (5, 6)),
    entity(6, "answer", "twice there", [60, 80, 120, 90], (5, 6)),
    entity(7, "question", "Name:", [10, 100, 50, 110]),
    entity(8, "question", "Phone", [10, 120, 50, 130]),
    entity(9, "header", "FORM", [10, 0, 50, 8]),
]


def put(folder, picture, truth, content):
    for name in (picture, truth):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (60, 40), 255).save(folder / picture)
    (folder / truth).write_text(content if isinstance(content, str) else json.dumps(content))


@pytest.mark.parametrize("truth", ["data/key/000.json", "data/entities/000.txt", "data/img/000.txt"])
def test_keys_of_a_receipt(tmp_path, truth):
    put(tmp_path, "data/img/000.jpg", truth, RECEIPT)
    (tmp_path / "data/img/notes.txt").write_text("boxes: 1,2,3")
    items = list(open_task(f"real:{tmp_path}", 20)[0])
    assert [item.tags["kind"] for item in items] == ["company", "date", "address", "total"]
    assert items[0].answers == ("BOOK SHOP SDN BHD",)
    assert items[3].question == "What is the total?"
    assert items[3].answers == ("9.00", "RM9.00", "RM 9.00", "$9.00")
    assert all(item.image == tmp_path / "data/img/000.jpg" and item.tags["split"] == "sroie" for item in items)


def test_fields_of_a_form_are_labels_that_occur_once(tmp_path):
    put(tmp_path, "testing_data/images/a.png", "testing_data/annotations/a.json", {"form": FORM})
    items = list(open_task(f"real:{tmp_path}", 20)[0])
    assert [(item.question, item.answers) for item in items] == [
        ("What is the DATE?", ("March 3, 1998",)),
        ("What is the Remarks?", ("call back on Monday",)),
    ]


def test_documents_of_each_layout_are_counted(tmp_path):
    for number in range(4):
        put(tmp_path, f"s/img/{number}.jpg", f"s/key/{number}.json", RECEIPT)
        put(tmp_path, f"f/images/{number}.png", f"f/annotations/{number}.json", {"form": FORM})
    put(tmp_path, "s/img/x.jpg", "s/key/no_picture.json", RECEIPT)
    items = list(open_task(f"real:{tmp_path}", 3)[0])
    assert len(items) == 3 * 4 + 3 * 2
    assert items[-1].progress == 1.0


def test_what_is_no_such_folder_says_so(tmp_path):
    with pytest.raises(UsageError, match="no such folder; use real:FOLDER"):
        open_task("real:", 3)
    with pytest.raises(UsageError, match="no such folder"):
        open_task(f"real:{tmp_path / 'none'}", 3)
    with pytest.raises(UsageError, match="no documents in a layout that is known"):
        list(open_task(f"real:{tmp_path}", 3)[0])
    put(tmp_path, "img/0.jpg", "key/0.json", "{broken")
    with pytest.raises(UsageError, match="not JSON"):
        list(open_task(f"real:{tmp_path}", 3)[0])
