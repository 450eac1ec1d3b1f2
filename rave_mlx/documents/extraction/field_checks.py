"""Whether a value is one that a field may have."""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Any

from rave_mlx.documents.extraction.fields import Field, Limits

_YEAR = r"[12][0-9]{3}"
_LEAP = r"(?:[12][0-9](?:0[48]|[2468][048]|[13579][26])|(?:12|16|20|24|28)00)"
_DAY = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])|(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    rf"|02-(?:0[1-9]|1[0-9]|2[0-8]))|{_LEAP}-02-29)"
)
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](?:\.[0-9]{1,6})?(?:Z|[+-](?:[01][0-9]|2[0-3]):[0-5][0-9])"
DATE_PATTERNS = {"date": f"^{_DAY}$", "time": f"^{_CLOCK}$", "date-time": f"^{_DAY}T{_CLOCK}$"}
"""Days that there are from 1000 to 2999, and times of day with their zone (RFC 3339, as JSON Schema has it)."""
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_FORMATS = {
    "email": r"[^@\s]+@[^@\s]+",
    "uri": r"[A-Za-z][A-Za-z0-9+.-]*:\S*",
    "uuid": r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}",
    "ipv4": r"(?:(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])(?:\.(?!$)|$)){4}",
    "ipv6": r"[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*",
    "hostname": rf"(?=.{{1,253}}$){_LABEL}(?:\.{_LABEL})*",
    "duration": r"P(?!$)(?:[0-9]+[YMWD])*(?:T(?:[0-9]+[HMS])+)?",
}
"""What the formats look like, for answers that no grammar wrote."""


def problem_of(field: Field, value: Any) -> str | None:
    """Why a single value is none that a field may have; None where it is one.

    Args:
        field: a leaf.
        value: a text, a number, true or false, or None, which every field may be that is no constant.
    """
    if value is None:
        return "is a constant of the schema" if field.constant else None
    if field.kind == "union":
        problems = [problem_of(option, value) for option in field.options]
        return None if None in problems else f"{value!r} is of none of the kinds that the schema has for it"
    if field.kind == "enum":
        if any(isinstance(c, bool) == isinstance(value, bool) and c == value for c in field.choices):
            return None
        return f"{value!r} is none of {', '.join(map(str, field.choices[:8]))}"
    if field.kind == "boolean":
        return None if isinstance(value, bool) else f"{value!r} is not true or false"
    if field.kind in ("number", "integer"):
        return _number_problem(field, value)
    return _text_problem(field, value)


def _number_problem(field: Field, value: Any) -> str | None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return f"{value!r} is not a number"
    if field.kind == "integer" and value != int(value):
        return f"{value} is not a whole number"
    limits = field.limits
    for bound, breaks, words in (
        (limits.minimum, lambda b: value < b, "less than"),
        (limits.above, lambda b: value <= b, "not above"),
        (limits.maximum, lambda b: value > b, "more than"),
        (limits.below, lambda b: value >= b, "not below"),
    ):
        if bound is not None and breaks(bound):
            return f"{value} is {words} {bound}"
    if limits.multiple_of is not None and Decimal(str(value)) % Decimal(str(limits.multiple_of)):
        return f"{value} is no multiple of {limits.multiple_of}"
    return None


def _text_problem(field: Field, value: Any) -> str | None:
    if not isinstance(value, str):
        return f"{value!r} is not a text"
    limits: Limits = field.limits
    if len(value) < limits.min_length:
        return f"{value!r} has less than {limits.min_length} characters"
    if limits.max_length is not None and len(value) > limits.max_length:
        return f"it has more than {limits.max_length} characters"
    if field.kind in DATE_PATTERNS and not re.fullmatch(DATE_PATTERNS[field.kind], value):
        return f"{value!r} is no {field.kind} as ISO 8601 writes it"
    for pattern in limits.patterns:
        if not re.search(pattern, value):
            return f"{value!r} does not match {pattern}"
    if limits.format is not None and not re.fullmatch(_FORMATS[limits.format], value):
        return f"{value!r} is no {limits.format}"
    return None
