"""`rave_mlx.extract` over a document of two pages: each value from the page that has it, as an object of a class."""

from __future__ import annotations

import datetime

import pydantic
import pytest
from support import form

import rave_mlx
from rave_mlx.errors import UsageError


class Bill(pydantic.BaseModel):
    """What is asked for."""

    invoice_number: str
    total: float
    due_date: datetime.date | None = None


class Signed(Bill):
    """The same, with what is not on the paper."""

    signed_by: str


@pytest.fixture(scope="module")
def lmm():
    return rave_mlx.load()


@pytest.fixture(scope="module")
def paper(tmp_path_factory):
    path = tmp_path_factory.mktemp("paper") / "bill.tiff"
    first = form(["Brightwater Plumbing", "Invoice number: K-2041"], (420, 120), 18)
    second = form(["Summary", "Total: 90.00", "Due date: 14.03.2026"], (420, 140), 18)
    first.save(path, save_all=True, append_images=[second])
    return path


def test_every_page_is_asked_and_the_class_filled(lmm, paper):
    (found,) = rave_mlx.extract(paper, Bill, lmm)
    assert found.error is None
    assert found.values == {"invoice_number": "K-2041", "total": 90, "due_date": "2026-03-14"}
    pages = {path: value.page for path, value in found.fields.leaves()}
    assert pages == {"invoice_number": 1, "total": 2, "due_date": 2}
    assert found.instance == Bill(invoice_number="K-2041", total=90, due_date=datetime.date(2026, 3, 14))


def test_a_class_that_is_not_filled_is_none(lmm, paper):
    (found,) = rave_mlx.extract([paper], Signed, lmm, pages="2")
    assert found.values["total"] == 90
    assert found.values["signed_by"] is None
    assert found.instance is None


def test_documents_come_in_order_with_failures_between(lmm, paper, tmp_path):
    broken = tmp_path / "broken.pdf"
    broken.write_bytes(b"%PDF-1.4 nothing more")
    names = [str(paper), str(broken), f"{paper}#page=2"]
    first, second, third = rave_mlx.extract(names, "total", lmm)
    assert [first.file, second.file, third.file] == names
    assert (second.fields, second.values, second.pages) == (None, None, None)
    assert "damaged" in second.error
    assert (first.values, third.values) == ({"total": "90.00"}, {"total": "90.00"})


def test_an_instruction_is_no_schema(lmm, paper):
    with pytest.raises(UsageError):
        rave_mlx.extract(paper, {"type": "string"}, lmm)
