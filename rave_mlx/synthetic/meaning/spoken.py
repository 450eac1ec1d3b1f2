"""How people type: lower case, no question mark, slips, please."""

from __future__ import annotations

import re
from random import Random

from rave_mlx.synthetic.meaning.proportions import LOWER, NO_MARK, POLITE, TYPO

_CONTRACTED = {
    "What is": ("What's", "whats"),
    "Who is": ("Who's", "whos"),
    "When is": ("When's",),
    "Where is": ("Where's",),
}

_ASKING = frozenset(
    [
        "who",
        "what",
        "when",
        "where",
        "which",
        "how",
        "is",
        "are",
        "was",
        "did",
        "does",
        "do",
        "has",
        "can",
        "could",
        "may",
        "on",
        "by",
        "until",
        "from",
        "at",
        "to",
        "for",
        "in",
        "since",
        "whose",
        "whom",
    ]
)


def typed(rng: Random, sentence: str, keep: str = "") -> str:
    """A sentence as somebody types it.

    Args:
        rng: the generator to draw from.
        sentence: without its last mark.
        keep: a part that is copied from the page and stays as it is.
    """
    text = sentence[:1].upper() + sentence[1:]
    asks = (text.split() or [""])[0].lower() in _ASKING
    for long, short in _CONTRACTED.items():
        if text.startswith(long + " ") and rng.random() < 0.2:
            text = rng.choice(short) + text[len(long) :]
    if rng.random() < POLITE and asks:
        low = text[:1].lower() + text[1:]
        text = rng.choice(
            (f"Please tell me: {low}", f"{text}, please", f"{text} please", f"Hi, {low}", f"Hello, {low}")
        )
    if rng.random() < TYPO:
        text = slip(rng, text, keep)
    if rng.random() < LOWER:
        low = text.lower()
        text = low if not keep or keep.lower() not in low else low.replace(keep.lower(), keep, 1)
    if asks:
        text += "" if rng.random() < NO_MARK else "?"
    elif rng.random() < 0.5:
        text += "." if len(text.split()) > 2 else "?"
    return text


def slip(rng: Random, text: str, keep: str = "") -> str:
    """A text with one letter left out, doubled or swapped with the next, in a word of four letters or more.

    Args:
        rng: the generator to draw from.
        text: what was meant.
        keep: a part that stays as it is.
    """
    words = [m for m in re.finditer(r"[A-Za-z]{4,}", text) if not keep or m.group() not in keep]
    if not words:
        return text
    word = rng.choice(words)
    at = rng.randrange(word.start() + 1, word.end() - 1)
    how = rng.choice(("drop", "double", "swap"))
    if how == "drop":
        return text[:at] + text[at + 1 :]
    if how == "double":
        return text[:at] + text[at] + text[at:]
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
