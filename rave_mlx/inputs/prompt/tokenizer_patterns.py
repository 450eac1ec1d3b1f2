"""Regular expressions of a tokenizer: whether one of them can take forever.

`tokenizer.json` may split and rewrite text with any expression. The engine (Oniguruma) backtracks; it gives up on one
match after ten million steps, with a panic, but a text has many places to try. Expressions of well-known tokenizers
are taken as they are. Any other is tried before it is used, in a process of its own with a limit on its processor
time, on texts that repeat what the expression speaks of and then break off.

That finds expressions which explode on repetitions of one or two of their characters, classes or literal words, which
is how nested and adjacent repetitions do. It does not prove that there is no other text; for that one there is the
engine's own limit, which ends in an error of one line.
"""

from __future__ import annotations

import functools
import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, normalizers

from rave_mlx.errors import ModelError

_CONTRACTIONS = ("(?i:'s|'t|'re|'ve|'m|'ll|'d)", "(?i:[sdmt]|ll|ve|re)", "'(?i:[sdmt]|ll|ve|re)")
_WORDS = (r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}", r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}")
_COUNTS = ("", "{1,2}", "{1,3}", "+")
_SPACES = r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_REST = (r"| ?[^\s\p{L}\p{N}]+" + _SPACES, r"| ?[^\s\p{L}\p{M}\p{N}]+" + _SPACES)
KNOWN = frozenset(
    {"".join(parts) for parts in itertools.product(_CONTRACTIONS, _WORDS, _COUNTS, _REST)}
    | {
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        " {2,}", " ", "▁", r"\s+", r"\s", r"\p{N}", r"\p{N}{1,3}", r"\d", r"[0-9]", r"[\r\n]", r"\n",
        r"[一-龥぀-ゟ゠-ヿ]+",
    }
)  # fmt: skip
"""Expressions of GPT-2, Llama 3, Qwen 2 to 3.5, SmolLM and their like, none of which repeats a repetition."""
_SECONDS = 3
"""Processor time for all texts together, the process's own start included; sound expressions take a tenth of it."""
_CLASSES = "aA1 \n\t!_'é中"
"""A character of every kind that expressions tell apart."""
_PANIC = "PanicException"


def is_panic(error: BaseException) -> bool:
    """Whether an exception is a panic of the tokenizer's Rust code, whose type cannot be imported."""
    return type(error).__name__ == _PANIC


def check_patterns(tokenizer: Tokenizer, path: Path) -> None:
    """Try the regular expressions of a tokenizer, except the well-known ones.

    Args:
        tokenizer: the tokenizer.
        path: its file, for the message.

    Raises:
        ModelError: for one that explodes, or that the engine does not take.
    """
    for pattern in patterns(tokenizer):
        if pattern not in KNOWN and not _ends(pattern):
            shown = pattern if len(pattern) <= 60 else pattern[:57] + "..."
            raise ModelError(f"{path}: the regular expression {shown!r} may take forever; use another tokenizer")


def patterns(tokenizer: Tokenizer) -> list[str]:
    """The regular expressions with which a tokenizer normalizes, splits and decodes text."""
    found: list[str] = []
    for part in (tokenizer.normalizer, tokenizer.pre_tokenizer, tokenizer.decoder):
        pending: list[Any] = [] if part is None else [json.loads(part.__getstate__())]
        while pending:
            item = pending.pop()
            if isinstance(item, dict):
                if isinstance(item.get("Regex"), str):
                    found.append(item["Regex"])
                pending += item.values()
            elif isinstance(item, list):
                pending += item
    return sorted(set(found))


@functools.lru_cache
def _ends(pattern: str) -> bool:
    """Whether an expression gets through its texts in a process of its own. Where none can be started: assumed."""
    command = [sys.executable, "-P", "-c", f"from {__name__} import try_input; try_input()"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "RUST_BACKTRACE": "0"}
    try:
        done = subprocess.run(
            command, input=json.dumps(pattern), capture_output=True, text=True, env=environment, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    except OSError:
        return True
    return done.returncode in (0, _UNTRIED)


_UNTRIED = 1
"""What Python exits with when the process could not import this file."""


def try_input() -> None:
    """The other process: reads an expression, tries it, and exits 0, or 3 when it fails."""
    pattern = json.load(sys.stdin)
    try:
        import resource
    except ImportError:  # Windows; the wall-clock limit of the caller remains
        pass
    else:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (_SECONDS, _SECONDS))
    try:
        replace = normalizers.Replace(Regex(pattern), "")
        for text in texts(pattern):
            replace.normalize_str(text)
    except BaseException as error:
        if isinstance(error, Exception) or is_panic(error):
            os._exit(3)
        raise


def texts(pattern: str) -> Iterator[str]:
    """Texts on which expressions like this one explode, if they do."""
    words = _words(pattern)
    singles = list(dict.fromkeys([*_CLASSES, *(c for w in words for c in w[:2])]))[:40]
    # The engine skips a text that lacks a character which every match needs, so one ending has them all.
    endings = ("", "!", "\n", "\x00", "\x00" + "".join(singles))
    for unit in [*words, *singles]:
        for ending, times in itertools.product(endings, (30, 300)):
            yield unit * (times // len(unit) + 1) + ending
    for pair in itertools.permutations(singles[:24], 2):
        yield "".join(pair) * 20 + endings[-1]
    for unit in [*words[:8], *_CLASSES]:
        yield unit * (3000 // len(unit)) + endings[-1]


def _words(pattern: str) -> Sequence[str]:
    """Runs of literal characters in an expression, without what has a meaning in it."""
    literal = re.sub(r"\\[pP]\{[^}]*\}|\\[a-zA-Z]|\{[0-9,]*\}", "\0", pattern)
    return list(dict.fromkeys(re.findall(r"[^\0\\()\[\]{}|?*+^$.]+", literal)))[:16]
