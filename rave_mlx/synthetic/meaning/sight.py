"""What of a page is in sight, and what the generators of questions give."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rave_mlx.synthetic.meaning.facts import Entry, Fact, Pieces, Switch


@dataclass(frozen=True)
class Seen:
    """What of a page is in sight.

    `facts`, `entries`, `switches`: whole; `hidden`: facts of which, label included, nothing is in sight; `torn`: the
    others; `whole`: whether nothing is cut off; `text`: everything in sight and half in sight; `lines`: what is whole.
    """

    facts: Sequence[Fact]
    entries: Sequence[Entry]
    hidden: Sequence[Fact]
    torn: Sequence[Fact]
    switches: Sequence[Switch]
    whole: bool
    text: str
    lines: Pieces


@dataclass(frozen=True)
class Candidate:
    """A question before it is known where its answer stands.

    `role`: what is asked for; `pattern`: what the question was made from; `style`: how; `quote`: label and value, or
    the row, as they stand on the page.
    """

    kind: str
    text: str
    answer: Pieces
    role: str
    pattern: str
    style: str = ""
    quote: Pieces = ()
