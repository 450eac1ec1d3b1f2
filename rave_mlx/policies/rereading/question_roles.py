"""Which value a question asks for: the role whose known phrasings are most like it. Ours, without any weights.

`synthetic.meaning` has for every role (payable, due, issuer, ...) the labels that documents print, and the nouns, whole
questions and names of a schema by which people ask for it. A question is compared with all of them: words, pairs of
neighbouring words and pieces of four letters, so that a slip of a letter does little, each weighted by its count times
the logarithm of how rare it is among the phrasings; then the cosine. What no phrasing has counts in the question's own
length, so that a question about something else is like none of them.
"""

from __future__ import annotations

import functools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from rave_mlx.synthetic.meaning import ROLES

_PAIR, _PIECE, _PIECE_LETTERS = 0.7, 0.3, 4
_EDGE = "|"


@dataclass(frozen=True)
class Meant:
    """A role that a question may ask for.

    Attributes:
        role: its name in `synthetic.meaning.ROLES`.
        likeness: cosine of the question and the phrasing of the role that is most like it, 0 to 1.
    """

    role: str
    likeness: float


def roles_meant(question: str) -> list[Meant]:
    """The roles that a question has anything in common with, the likeliest first.

    Args:
        question: as typed, in English.
    """
    index, counts = _index(), _parts(question)
    weights = {part: count * index.rarity(part) for part, count in counts.items()}
    length = math.sqrt(sum(weight**2 for weight in weights.values()))
    likeness: dict[int, float] = defaultdict(float)
    for part, weight in weights.items():
        for phrasing, share in index.phrasings.get(part, ()):
            likeness[phrasing] += share * weight / length
    best: dict[str, float] = {}
    for phrasing, value in likeness.items():
        role = index.roles[phrasing]
        best[role] = max(value, best.get(role, 0.0))
    return [Meant(role, min(1.0, value)) for role, value in sorted(best.items(), key=lambda item: -item[1])]


@dataclass(frozen=True)
class _Index:
    """All phrasings by what they consist of.

    Attributes:
        roles: of each phrasing, the role's name.
        frequency: in how many phrasings a part stands.
        phrasings: of each part, the phrasings that have it, with its share of their length.
    """

    roles: tuple[str, ...]
    frequency: Mapping[str, int]
    phrasings: dict[str, list[tuple[int, float]]]

    def rarity(self, part: str) -> float:
        """How much a part says: nothing where all phrasings have it."""
        return math.log(1 + len(self.roles) / (1 + self.frequency.get(part, 0)))


@functools.cache
def _index() -> _Index:
    """Built on first use, in a tenth of a second or two."""
    known = [
        (role.name, phrasing)
        for role in ROLES.values()
        for phrasing in sorted({
            *role.asks, *role.nouns, *role.labels, *role.keys,
            *(frame.format(noun) for noun in role.nouns for frame in ("what is the {}", "which {}")),
        })
    ]  # fmt: skip
    counted = [_parts(phrasing) for _, phrasing in known]
    index = _Index(
        tuple(role for role, _ in known), Counter(part for parts in counted for part in parts), defaultdict(list)
    )
    for number, parts in enumerate(counted):
        weights = {part: count * index.rarity(part) for part, count in parts.items()}
        length = math.sqrt(sum(weight**2 for weight in weights.values()))
        for part, weight in weights.items():
            index.phrasings[part].append((number, weight / length))
    return index


def _parts(text: str) -> dict[str, float]:
    """Words, pairs of neighbouring words and pieces of words, with what each counts."""
    words = re.findall(r"[a-z0-9]+", re.sub(r"['_]", " ", text.lower()))
    parts: dict[str, float] = defaultdict(float)
    for word in words:
        parts[word] += 1
    for pair in zip([_EDGE, *words], [*words, _EDGE], strict=True):
        parts[" ".join(pair)] += _PAIR
    for word in words:
        edged = f"<{word}>"
        if len(word) >= _PIECE_LETTERS:
            for start in range(len(edged) - _PIECE_LETTERS + 1):
                parts[f"-{edged[start : start + _PIECE_LETTERS]}"] += _PIECE
    return parts
