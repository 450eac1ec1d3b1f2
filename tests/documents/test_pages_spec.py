"""Page ranges as people write them."""

from __future__ import annotations

import pytest

from rave_mlx.documents.pages_spec import parse_pages
from rave_mlx.errors import UsageError


@pytest.mark.parametrize(
    ("text", "count", "chosen", "missing"),
    [
        ("1-3,7", 9, [1, 2, 3, 7], []),
        ("1-3,7", 5, [1, 2, 3], [7]),
        ("1-3", 2, [1, 2], []),
        ("2-", 4, [2, 3, 4], []),
        ("2-", 1, [], []),
        ("5", 4, [], [5]),
        ("5-5", 4, [], [5]),
        ("last", 4, [4], []),
        ("last,1", 1, [1], []),
        ("3-last", 5, [3, 4, 5], []),
        ("4,2,2-4", 9, [4, 2, 3], []),
        (" 1 , 2-3 ", 9, [1, 2, 3], []),
        ("1-999999999", 3, [1, 2, 3], []),
    ],
)
def test_pages_that_are_meant(text, count, chosen, missing):
    assert parse_pages(text).choose(count) == (chosen, missing)


@pytest.mark.parametrize("text", ["1-3,7", "2-last", "last", "5"])
def test_it_is_printed_as_it_is_read(text):
    assert str(parse_pages(text)) == text


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "a page is missing"),
        ("1,,2", "a page is missing"),
        ("-2", "-2 could be meant in two ways: 1-2 is up to that page, last is the last one"),
        ("two", "'two' is no page"),
        ("1.5", "'1.5' is no page"),
        ("1-2-3", "'1-2-3' is no page"),
        ("²", "'²' is no page"),
        ("0", "pages are counted from 1"),
        ("0-3", "pages are counted from 1"),
        ("3-1", "3-1 ends before it begins"),
        ("last-3", "last-3 ends before it begins"),
        ("9" * 30, "is no page"),
    ],
)
def test_what_is_refused(text, complaint):
    with pytest.raises(UsageError, match="^--pages ") as raised:
        parse_pages(text)
    assert complaint in str(raised.value)
    assert "\n" not in str(raised.value)
