"""Values from answers as people print and say them, against literals."""

from __future__ import annotations

import pytest

from rave_mlx.documents.extraction.fields import Field, Limits
from rave_mlx.documents.extraction.values import Hints, read_value

NUMBER, INTEGER, TEXT = Field("n", ("n",), "number"), Field("i", ("i",), "integer"), Field("s", ("s",), "string")
DATE, TIME, MOMENT = Field("d", ("d",), "date"), Field("t", ("t",), "time"), Field("m", ("m",), "date-time")
FLAG = Field("b", ("b",), "boolean")
COMMA, POINT = Hints(decimal_comma=True), Hints(decimal_comma=False)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.0", 0.0), ("0", 0), ("12", 12), ("13.60", 13.6), ("-5", -5), ("−5", -5), ("+5", 5), (".50", 0.5),
        (",5", 0.5),
        ("1.234,56", 1234.56), ("1,234.56", 1234.56), ("1 234,56", 1234.56), ("1\u00a0234,56", 1234.56),
        ("1\u202f234,56", 1234.56), ("1'234.50", 1234.5), ("1’234’567.50", 1234567.5), ("1,23,456.00", 123456.0),
        ("1.234.567,89", 1234567.89), ("1,234,567", 1234567), ("1.234.567", 1234567), ("12 345 678", 12345678),
        ("(12.00)", -12.0), ("($1,250.00)", -1250.0), ("12.00-", -12.0), ("- 12.00", -12.0), ("-$12.50", -12.5),
        ("$-12.50", -12.5), ("12,00 €", 12.0), ("€12,00", 12.0), ("EUR 12,00", 12.0), ("12,00EUR", 12.0),
        ("US$ 1,234.50", 1234.5), ("USD 5", 5), ("CHF 12.-", 12), ("12,-- €", 12), ("12,— €", 12),
        ("R$ 1.234,50", 1234.5),
        ("£3.99", 3.99), ("¥1,200", 1200), ("99 kr", 99), ("Rs. 500", 500), ("19 %", 19), ("19%", 19), ("7,5 %", 7.5),
        ("3 pcs.", 3), ("30 days", 30), ("12 kWh", 12), ("4,5 km²", 4.5), ("Qty: 3", 3), ("Total: 12.00 EUR", 12.0),
        ("1,234", 1234), ("1.234", 1.234), ("0,125", 0.125), ("0.125", 0.125), ("1234,567", 1234.567), ("1.5e3", 1500),
        ("１２３", 123), ("١٢٣", 123), ("12.", 12), ("001", 1),
    ],
)  # fmt: skip
def test_numbers(text, value):
    found = read_value(text, NUMBER)
    assert found == value
    assert type(found) is type(value) or text == "1.5e3"


@pytest.mark.parametrize(
    "text",
    [
        "twelve", "12 or 13", "12.05.2026", "1.2.3", "12 34", "1,2,3", "page 3 of 4", "2.5 million", "3k", "€2.5m",
        "1.234,567,89", "INV-0012", "about 12 pieces", "(-12)", "-12-", "1,23.456.00",
    ],
)  # fmt: skip
def test_what_is_not_one_number(text):
    with pytest.raises(ValueError, match=r"."):
        read_value(text, NUMBER)


@pytest.mark.parametrize(
    ("text", "hints", "value"),
    [("1,234", COMMA, 1.234), ("1,234", POINT, 1234), ("1.234", COMMA, 1234), ("1.234", POINT, 1.234),
     ("1,23", POINT, 1.23), ("1.23", COMMA, 1.23), ("1.234,50", POINT, 1234.5)],
)  # fmt: skip
def test_single_separators_follow_the_document(text, hints, value):
    assert read_value(text, NUMBER, hints) == value


def test_whole_numbers():
    assert [read_value(t, INTEGER) for t in ("3", "3.0", "3,00", "1,234", "1.000,00")] == [3, 3, 3, 1234, 1000]
    assert type(read_value("3.0", INTEGER)) is int
    with pytest.raises(ValueError, match="'3.5' is not a whole number"):
        read_value("3.5", INTEGER)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2026-05-03", "2026-05-03"), ("2026/5/3", "2026-05-03"), ("2026.05.03", "2026-05-03"),
        ("20260503", "2026-05-03"),
        ("May 3, 2026", "2026-05-03"), ("May 3 2026", "2026-05-03"), ("3 May 2026", "2026-05-03"),
        ("3rd of May 2026", "2026-05-03"), ("May 3rd, 2026", "2026-05-03"), ("Sunday, May 3, 2026", "2026-05-03"),
        ("03-May-26", "2026-05-03"), ("03 MAY 2026", "2026-05-03"), ("2026 May 3", "2026-05-03"),
        ("Sept. 5, 2025", "2025-09-05"), ("3. Mai 2026", "2026-05-03"), ("3. März 2026", "2026-03-03"),
        ("3. Mrz. 2026", None), ("1. Jänner 2026", None), ("31. Dez. 2025", "2025-12-31"), ("3 mai 2026", "2026-05-03"),
        ("1er juin 2026", "2026-06-01"), ("14 juil. 2026", "2026-07-14"), ("14 août 2026", "2026-08-14"),
        ("3 de mayo de 2026", "2026-05-03"), ("3 maggio 2026", "2026-05-03"), ("3 de março de 2026", "2026-03-03"),
        ("3 mei 2026", "2026-05-03"), ("3 mrt 2026", "2026-03-03"), ("5 Oct '24", "2024-10-05"),
        ("03.05.26", "2026-05-03"), ("3.5.2026", "2026-05-03"), ("03. 05. 2026", "2026-05-03"),
        ("31/12/2025", "2025-12-31"),
        ("12/31/2025", "2025-12-31"), ("12/31/99", "1999-12-31"), ("05/05/2026", "2026-05-05"),
        ("13-02-2026", "2026-02-13"),
        ("2026年5月3日", "2026-05-03"), ("2026년 5월 3일", "2026-05-03"), ("3 May 2026 14:30", "2026-05-03"),
        ("2026-05-03T14:30:00Z", "2026-05-03"), ("Due: May 3, 2026", "2026-05-03"), ("29 Feb 2024", "2024-02-29"),
    ],
)  # fmt: skip
def test_dates(text, value):
    if value is None:
        with pytest.raises(ValueError, match="no date"):
            read_value(text, DATE)
    else:
        assert read_value(text, DATE) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("03/05/26", "may be day/month or month/day"), ("3-5-2026", "may be day/month or month/day"),
        ("31.02.2026", "no day that there is"), ("29 Feb 2025", "no day that there is"), ("13/13/2026", "no day"),
        ("May 2026", "no date"), ("tomorrow", "no date"), ("1.2.2026 - 3.2.2026", "more than one date"),
        ("May 3, 2026 and May 4, 2026", "more than one date"), ("12,50", "no date"), ("3 jui 2026", "no date"),
    ],
)  # fmt: skip
def test_what_is_not_one_date(text, reason):
    with pytest.raises(ValueError, match=reason):
        read_value(text, DATE)


def test_the_order_of_day_and_month_comes_from_the_document():
    assert read_value("03/05/26", DATE, Hints(day_first=True)) == "2026-05-03"
    assert read_value("03/05/26", DATE, Hints(day_first=False)) == "2026-03-05"
    assert read_value("25/05/26", DATE, Hints(day_first=False)) == "2026-05-25"
    assert read_value("03.05.26", DATE, Hints(day_first=False)) == "2026-05-03"


def test_hints_of_a_document():
    assert Hints.of(["Invoice of 25/05/26", "Total 1.234,50 €", "12,00"]) == Hints(True, True)
    assert Hints.of(["05/25/26", "Total $1,234.50"]) == Hints(False, False)
    assert Hints.of(["05/06/26", "25.05.26", "1,234", "1.5"]) == Hints(None, None)
    assert Hints.of(["25/05/26", "05/25/26", "1,50 2.50"]) == Hints(None, None)


@pytest.mark.parametrize(
    ("text", "value"),
    [("14:30", "14:30:00Z"), ("2:30 PM", "14:30:00Z"), ("12:05 a.m.", "00:05:00Z"), ("12:05pm", "12:05:00Z"),
     ("9:05:07", "09:05:07Z"), ("14h30", "14:30:00Z"), ("14:30:00.25+02:00", "14:30:00.25+02:00"),
     ("14:30 +0530", "14:30:00+05:30"), ("14:30 Uhr", "14:30:00Z")],
)  # fmt: skip
def test_times(text, value):
    assert read_value(text, TIME) == value


@pytest.mark.parametrize("text", ["25:00", "14:75", "13:00 PM", "noon", "14:30 to 15:30"])
def test_what_is_not_one_time(text):
    with pytest.raises(ValueError, match=r"no time|more than one time"):
        read_value(text, TIME)


def test_moments():
    assert read_value("May 3, 2026 at 2:30 pm", MOMENT) == "2026-05-03T14:30:00Z"
    assert read_value("2026-05-03T14:30:05+02:00", MOMENT) == "2026-05-03T14:30:05+02:00"
    with pytest.raises(ValueError, match="no time of day"):
        read_value("May 3, 2026", MOMENT)


def test_yes_and_no():
    assert all(read_value(t, FLAG) is True for t in ("yes", "Yes.", "TRUE", "x", "X", "[x]", "checked", "☑", "ja", "1"))
    assert all(read_value(t, FLAG) is False for t in ("no", "No", "false", "[ ]", "☐", "unchecked", "nein", "0"))
    with pytest.raises(ValueError, match="neither yes nor no"):
        read_value("perhaps", FLAG)


@pytest.mark.parametrize("field", [NUMBER, INTEGER, TEXT, DATE, FLAG])
@pytest.mark.parametrize("text", ["", " ", "-", "—", "n/a", "N/A", "null", "None", "not found", "Not on the page"])
def test_what_is_not_there(field, text):
    assert read_value(text, field) is None


def test_choices():
    field = Field("e", ("e",), "enum", choices=("credit card", "bank transfer", "Cash", 30, True, None, "n/a"))
    assert read_value("Credit Card", field) == "credit card"
    assert read_value("bank-transfer", field) == "bank transfer"
    assert read_value("Bank transfr", field) == "bank transfer"
    assert read_value("30", field) == 30
    assert read_value("true", field) is True
    assert read_value("N/A", field) == "n/a"
    assert read_value("not found", field) is None
    with pytest.raises(ValueError, match="'cheque' is none of credit card"):
        read_value("cheque", field)
    near = Field("e", ("e",), "enum", choices=("item a", "item b"))
    with pytest.raises(ValueError, match="none of"):
        read_value("item", near)


def test_bounds_and_patterns_are_held():
    least = Field("n", ("n",), "number", limits=Limits(minimum=10))
    assert read_value("10,00 €", least) == 10
    with pytest.raises(ValueError, match="9 is less than 10"):
        read_value("9", least)
    code = Field("s", ("s",), "string", limits=Limits(patterns=("^[A-Z]{2}$",)))
    assert read_value(" DE ", code) == "DE"
    with pytest.raises(ValueError, match="does not match"):
        read_value("Germany", code)


def test_constants_and_unions():
    assert read_value("anything", Field("c", ("c",), "enum", choices=("v1",), constant=True)) == "v1"
    either = Field("u", ("u",), "union", options=(TEXT, NUMBER))
    assert read_value("12,50", either) == 12.5
    assert read_value("on request", either) == "on request"
