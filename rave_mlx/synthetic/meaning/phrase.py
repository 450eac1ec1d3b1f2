"""Sentences from patterns, and which of them are held out."""

from __future__ import annotations

import functools
import re
import zlib
from itertools import product


def expand(pattern: str) -> tuple[str, ...]:
    """All sentences of a pattern such as `how much [do I owe|is it]`."""
    parts = [part.split("|") for part in re.split(r"[\[\]]", pattern)]
    return tuple(" ".join("".join(choice).split()) for choice in product(*parts))


@functools.cache
def is_held(sentence: str) -> bool:
    """Whether a phrasing, before names are filled in, is kept from training: one in eight, by a hash of its letters."""
    plain = re.sub(r"[^a-z{}]", "", sentence.lower())
    return zlib.crc32(plain.encode()) % 8 == 0


@functools.lru_cache(maxsize=4096)
def side(sentences: tuple[str, ...], held: bool) -> tuple[str, ...]:
    """The sentences of one side of the split; may be none.

    Args:
        sentences: phrasings before names are filled in.
        held: the side that training never sees.
    """
    return tuple(s for s in sentences if is_held(s) == held)
