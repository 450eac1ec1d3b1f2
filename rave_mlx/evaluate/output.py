"""What `rave-mlx evaluate` prints and writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from rave_mlx.evaluate.report import SURE, by_tags, summarize, table, when_sure
from rave_mlx.evaluate.runner import Result

Breakdowns = Sequence[tuple[str, ...]]


def as_tables(results: Sequence[Result], breakdowns: Breakdowns) -> str:
    """The figures for people: every breakdown, then all answers together."""
    whole = summarize(results)
    parts = [table(results, tags) for tags in breakdowns]
    parts.append(
        f"all: exact {whole.exact:.3f} ± {whole.error:.3f}, ANLS {whole.anls:.3f}, CER {whole.cer:.3f}, "
        f"{whole.seconds:.2f} s an answer (median), {whole.count} questions; "
        f"exact where the certainty is {SURE:g} or more: {when_sure(whole)}"
    )
    return "\n\n".join(parts)


def as_json(results: Sequence[Result], breakdowns: Breakdowns) -> str:
    """The figures for programs: {"all": {...}, "by": {"split / kind": {"values / title": {...}}}}."""
    by = {
        " / ".join(tags): {" / ".join(key): asdict(figures) for key, figures in by_tags(results, tags).items()}
        for tags in breakdowns
    }
    return json.dumps({"all": asdict(summarize(results)), "by": by}, ensure_ascii=False)


def write_answers(results: Sequence[Result], out: Path) -> None:
    """Every answer as one JSON object a line, written beside its place and renamed into it."""
    part = out.with_name(f".{out.name}.part")
    part.write_text("".join(json.dumps(asdict(r), ensure_ascii=False) + "\n" for r in results), encoding="utf-8")
    part.replace(out)


def follow() -> Callable[[Result], None] | None:
    """A progress line on a terminal; None where stderr is none."""
    if not sys.stderr.isatty():
        return None
    seen = right = 0

    def note(result: Result) -> None:
        nonlocal seen, right
        seen, right = seen + 1, right + result.exact
        print(f"\r{seen} answers, {right / seen:.1%} exact", end="", file=sys.stderr, flush=True)

    return note
