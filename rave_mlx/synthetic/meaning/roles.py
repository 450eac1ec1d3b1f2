"""What a printed value can mean, how it is labelled, and how people ask for it.

The tables are texts of blocks. The first line of a block has the role's name, the kind of its values (`paper.draw` or
`vocabulary`), and its group: a question for one role of a group could be answered by another one of it, so that a page
with the one is never asked in vain for the other. A star in front holds the role out of training. The other lines begin
with `=` printed labels, `n` nouns that questions use, `?` whole questions, `k` names as a schema writes them.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

from rave_mlx.synthetic.meaning.phrase import expand
from rave_mlx.synthetic.meaning.roles_dates import DATES
from rave_mlx.synthetic.meaning.roles_ids import IDS
from rave_mlx.synthetic.meaning.roles_money import MONEY
from rave_mlx.synthetic.meaning.roles_parties import PARTIES
from rave_mlx.synthetic.meaning.roles_things import THINGS


@dataclass(frozen=True)
class Role:
    """One meaning; see the text above. `asks` are whole questions, expanded from their patterns."""

    name: str
    kind: str
    group: str
    labels: tuple[str, ...]
    nouns: tuple[str, ...]
    asks: tuple[str, ...]
    keys: tuple[str, ...]
    held: bool


def _read(table: str) -> list[Role]:
    """The roles of a table."""
    roles = []
    for block in table.strip().split("\n\n"):
        head, *lines = block.splitlines()
        name, kind, group = head.removeprefix("*").split()
        parts: dict[str, list[str]] = defaultdict(list)
        for line in lines:
            mark, _, rest = line.strip().partition(" ")
            parts[mark] += [text.strip() for text in rest.split(" / ")]
        asks = tuple(sentence for pattern in parts["?"] for sentence in expand(pattern))
        roles.append(
            Role(name, kind, group, tuple(parts["="]), tuple(parts["n"]), asks, tuple(parts["k"]), head[0] == "*")
        )
    return roles


ROLES: dict[str, Role] = {
    role.name: role for table in (MONEY, DATES, PARTIES, IDS, THINGS) for role in _read(table)
}  # fmt: skip
"""Every role by its name."""


def usual(held: bool) -> list[Role]:
    """The roles of one side of the split."""
    return [role for role in ROLES.values() if role.held == held]
