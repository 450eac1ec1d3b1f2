"""A budget for chat templates, which come with checkpoints and may loop or grow without end.

Jinja's sandbox keeps a template away from Python's objects, not from the processor and the memory. Here every step of
a rendering is counted: passes through loops, calls, filters, tests, operators and pieces of output, each with the
size of what it works on; what would be too large is refused before it is made. It is a count and not a clock, so a
template that is refused is refused on every machine, and no thread or process has to be stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from jinja2 import TemplateError
from jinja2.utils import Namespace

STEPS, STEPS_PER_MESSAGE = 300_000, 1_000
"""Steps of one rendering, and as many more for every message. Published templates take 20 to 100 a message; 300,000
take a third of a second."""
LONGEST = 4_000_000
"""Characters of the rendered conversation, and of every text on the way."""
_ITEMS = 500_000
_DIGITS = 10_000
"""Bits of the integers that arithmetic may produce."""
_PER_STEP = 64
"""Characters that count as one step."""


class TemplateLimit(TemplateError):
    """A template does more than a conversation needs."""


@dataclass
class _Meter:
    steps: int
    characters: int


_METER: ContextVar[_Meter | None] = ContextVar("template_meter", default=None)


@contextmanager
def metered(messages: int) -> Iterator[None]:
    """Give what is rendered inside the block the budget of a conversation of so many messages."""
    token = _METER.set(_Meter(STEPS + STEPS_PER_MESSAGE * messages, LONGEST))
    try:
        yield
    finally:
        _METER.reset(token)


def spend(steps: int = 1, output: int = 0) -> None:
    """Take steps, and characters of output, off the budget.

    Raises:
        TemplateLimit: when it is used up.
    """
    meter = _METER.get()
    if meter is None:
        return
    meter.steps -= steps
    meter.characters -= output
    if meter.steps < 0:
        raise TemplateLimit(f"takes more than {STEPS:,} steps and does not seem to end")
    if meter.characters < 0:
        raise TemplateLimit(f"writes more than {LONGEST:,} characters")


def check_length(characters: int) -> None:
    """Refuse a text that is too long to be made."""
    if characters > LONGEST:
        raise TemplateLimit(f"makes a text of {characters:,} characters")


def spend_on(value: Any) -> None:
    """Count work that goes over a value once without looking into its items."""
    if isinstance(value, (str, bytes)):
        check_length(len(value))
        spend(1 + len(value) // _PER_STEP)
    elif isinstance(value, (list, tuple, dict, set, frozenset, range)):
        if len(value) > _ITEMS:
            raise TemplateLimit(f"makes a list of {len(value):,} items")
        spend(1 + len(value) // 16)
    else:
        spend()


def spend_on_all(value: Any) -> None:
    """Count work that looks at everything inside a value, as writing it out or comparing it does.

    A list that holds one list twice, and so on, is small in memory and has more leaves than could ever be written.
    """
    pending = [value]
    while pending:
        item = pending.pop()
        spend_on(item)
        if isinstance(item, Mapping):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, (list, tuple, set, frozenset)):
            pending += item
        elif isinstance(item, Namespace):
            pending += item._Namespace__attrs.values()


def check_operator(operator: str, left: Any, right: Any) -> None:
    """Refuse arithmetic whose result would be too large, and count it."""
    if operator == "%" and isinstance(left, (str, bytes)):
        check_format(left, "%*")
        spend_on_all(right)
    elif operator == "*":
        for sequence, times in ((left, right), (right, left)):
            if isinstance(sequence, (str, bytes, list, tuple)) and isinstance(times, int):
                size = len(sequence) * max(0, times)
                check_length(size if isinstance(sequence, (str, bytes)) else size * (LONGEST // _ITEMS))
                spend(1 + size // 16)
                return
    elif operator == "+" and isinstance(left, (str, bytes, list, tuple)):
        spend_on(left)
        spend_on(right)
    spend()
    if isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * abs(right) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > _DIGITS:
            raise TemplateLimit("computes with very large numbers")


def check_format(pattern: str | bytes, wide: str) -> None:
    """Refuse a format that asks for a width of five digits, or (`wide` in it) for one that is given elsewhere."""
    text = pattern if isinstance(pattern, str) else pattern.decode("latin-1")
    digits = 0
    for character in text:
        digits = digits + 1 if character.isdigit() else 0
        if digits > 4:
            raise TemplateLimit("formats to a width of more than four digits")
    inside = text.partition(wide[0])[2]
    if wide[1] in (inside if wide == "%*" else inside.partition("}")[0]):
        raise TemplateLimit("formats to a width that it computes")
    spend_on(text)


_WIDTHS = {"ljust", "rjust", "center", "zfill", "expandtabs", "to_bytes"}


def check_method(method: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """Refuse the call of a method of a built-in type that would make too much of too little, and count it.

    Args:
        method: the bound method.
        args, kwargs: what it is called with.

    Returns:
        `args`, an iterator among them read into a list.
    """
    # The sandbox puts a function of its own in the place of str.format.
    bound = getattr(method, "__wrapped__", method)
    owner, name = getattr(bound, "__self__", None), getattr(bound, "__name__", "")
    given = (*args, *kwargs.values())
    if not isinstance(owner, (str, bytes, int, float, list, tuple, dict)) or isinstance(owner, bool):
        for value in given:
            spend_on(value)
        return args
    spend_on(owner)
    if name in _WIDTHS and any(isinstance(value, int) and value > LONGEST // 100 for value in given):
        raise TemplateLimit(f"calls {name} with a very large width")
    if name == "join" and isinstance(owner, (str, bytes)) and args:
        return (joinable(args[0], owner), *args[1:])
    if name == "replace" and isinstance(owner, (str, bytes)) and len(given) > 1:
        check_replace(owner, given[0], given[1])
    elif name in ("translate", "maketrans"):
        raise TemplateLimit(f"calls {name}, which no chat template needs")
    elif name in ("format", "format_map") and isinstance(owner, str):
        check_format(owner, "{{")
    for value in (*given, owner) if name in ("index", "count", "format", "format_map") else given:
        spend_on_all(value)
    return args


def joinable(items: Any, separator: str | bytes) -> Any:
    """What is to be joined, as a list where it is an iterator, counted and not too long."""
    if not isinstance(items, (str, list, tuple, dict)):
        items = list(items)
    spend_on_all(items)
    check_length(len(items) * len(separator) + sum(len(i) for i in items if isinstance(i, (str, bytes))))
    return items


def check_replace(text: str | bytes, old: Any, new: Any) -> None:
    """Refuse a replacement that makes a text too long."""
    if isinstance(new, (str, bytes)) and isinstance(old, type(text)):
        check_length(len(text) + text.count(old) * max(0, len(new) - len(old)))  # type: ignore[arg-type]  # of one type
