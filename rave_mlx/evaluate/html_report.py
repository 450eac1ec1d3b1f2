"""A run as one HTML page that works offline: figures by kind, what certainties are worth, wrong answers to look at."""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from PIL import Image

from rave_mlx.checkpoint.output_files import write_beside
from rave_mlx.errors import RaveError, UsageError
from rave_mlx.evaluate.failures import Failure
from rave_mlx.evaluate.item import tag_values
from rave_mlx.evaluate.reliability import Reliability, reliability
from rave_mlx.evaluate.report import Columns, Figures, by_tags, summarize
from rave_mlx.evaluate.result import Result
from rave_mlx.inputs.images.decode import open_image

Looker = Callable[[Failure], Image.Image]
"""Draws where a model looked while it answered; raises RaveError where that cannot be shown."""
_LONGEST_SIDE = 1000
_LONGEST_TEXT = 600


@dataclass(frozen=True)
class Report:
    """What a page is about.

    Attributes:
        title: the task and its measure.
        settings: how it was run, by name.
        results: all answers.
        breakdowns: tags by which there is a table each.
        columns: further figures of a benchmark.
        failures: wrong answers to show.
        wrong: how many there are.
    """

    title: str
    settings: Mapping[str, str]
    results: Sequence[Result]
    breakdowns: Sequence[tuple[str, ...]]
    columns: Columns | None
    failures: Sequence[Failure]
    wrong: int


def write_report(report: Report, path: Path, look: Looker) -> None:
    """Write the page, beside its place first and then renamed into it.

    Args:
        report: what to show.
        path: of the file.
        look: draws the map of a wrong answer.

    Raises:
        UsageError: for a place that cannot be written.
    """
    try:
        write_beside(path, [page(report, look).encode()])
    except OSError as error:
        raise UsageError(f"{path}: cannot be written ({error.strerror}); choose another --report") from None


def page(report: Report, look: Looker) -> str:
    """The page as text; see `write_report`."""
    whole = summarize(report.results, report.columns)
    body = [
        _head(report, whole),
        *(_table(by_tags(report.results, tags, report.columns), " / ".join(tags)) for tags in report.breakdowns),
        _certainty(reliability(report.results)),
        _failures(report, look),
    ]
    folder = files("rave_mlx.evaluate")
    filled = {
        "title": html.escape(report.title),
        "style": (folder / "page.css").read_text(encoding="utf-8").strip(),
        "body": "\n".join(part for part in body if part),
    }
    template = (folder / "page.html").read_text(encoding="utf-8")
    # One pass over the template: what is filled in is never looked at again.
    return re.sub("@(title|style|body)@", lambda match: filled[match[1]], template)


def _head(report: Report, whole: Figures) -> str:
    """The title, the figure of all questions, and how the run was made."""
    value, low, high = _value(whole)
    facts = {
        "95 % interval": f"{low:.3f} to {high:.3f}" if low is not None and high is not None else "–",
        **{name: f"{figure:.3f}" for name, figure in whole.columns.items() if name},
        **({"exact": f"{whole.exact:.3f}", "ANLS": f"{whole.anls:.3f}"}),
        "questions": f"{whole.count:,}",
        "wrong": f"{report.wrong:,}",
        "seconds an answer": f"{whole.seconds:.2f}",
        **report.settings,
    }
    rows = "".join(f"<div><dt>{html.escape(k)}</dt><dd>{html.escape(v)}</dd></div>" for k, v in facts.items())
    return f'<header><h1>{html.escape(report.title)}</h1><p class="figure">{value:.3f}</p><dl>{rows}</dl></header>'


def _value(figures: Figures) -> tuple[float, float | None, float | None]:
    """The figure that is shown first, and the ends of its interval."""
    low, high = figures.interval or (None, None)
    return figures.exact if figures.score is None else figures.score, low, high


def _table(found: Mapping[tuple[str, ...], Figures], title: str) -> str:
    """Figures of groups, each with a bar and the interval on it."""
    if not found:
        return ""
    scored = all(figures.score is not None for figures in found.values())
    names = list(dict.fromkeys(name for figures in found.values() for name in figures.columns if name))
    heads = [title, "score" if scored else "exact", "95 % interval", *names, "exact" if scored else "ANLS", "questions"]
    rows = []
    for key, figures in found.items():
        value, low, high = _value(figures)
        cells = [
            f"{value:.3f}",
            f"{low:.3f} – {high:.3f}" if low is not None and high is not None else "–",
            *(f"{figures.columns[name]:.3f}" if name in figures.columns else "–" for name in names),
            f"{figures.exact:.3f}" if scored else f"{figures.anls:.3f}",
            f"{figures.count:,}",
        ]
        rows.append((html.escape(" / ".join(key)) + _bar(value, low, high), cells))
    return f"<section><h2>By {html.escape(title)}</h2>{_grid(f'Figures by {title}', heads, rows)}</section>"


def _grid(label: str, heads: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    """A table that scrolls sideways where the window is narrow; the first cell of a row is HTML, the others text."""
    head = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in heads)
    lines = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{html.escape(cell)}</td>" for cell in cells)}</tr>'
        for first, cells in rows
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{html.escape(label)}"><table><thead><tr>{head}</tr>'
        f"</thead><tbody>{lines}</tbody></table></div>"
    )


def _bar(value: float, low: float | None, high: float | None, mark: float | None = None) -> str:
    """A bar from 0 to 1, with an interval or a mark on it; read out elsewhere, so hidden from screen readers."""
    parts = [f'<i style="width:{value:.1%}"></i>']
    if low is not None and high is not None:
        parts.append(f'<b style="left:{low:.1%};width:{max(high - low, 0):.1%}"></b>')
    if mark is not None:
        parts.append(f'<u style="left:{mark:.1%}"></u>')
    return f'<span class="bar" aria-hidden="true">{"".join(parts)}</span>'


def _certainty(found: Reliability) -> str:
    """Right answers by certainty, and the thresholds that a precision needs."""
    bins = [
        (
            f"{b.low:.2f} – {b.high:.2f}{_bar(b.right, None, None, b.certainty)}",
            (f"{b.right:.3f}", f"{b.certainty:.3f}", f"{b.count:,}"),
        )
        for b in found.bins
    ]
    limits = [
        (f"{t.precision:.0%}", ("–" if t.certainty is None else f"{t.certainty:.3f}", f"{t.coverage:.0%}"))
        for t in found.thresholds
    ]
    return (
        "<section><h2>What a certainty is worth</h2><p>Bars are answers that are right, marks the mean certainty: "
        f"where they meet, a certainty means what it says. Calibration error {found.error:.3f}.</p>"
        f'<div class="pair">{_grid("Right answers by certainty", ("certainty", "right", "mean", "answers"), bins)}'
        f"{_grid('Thresholds', ('right in', 'from certainty', 'of all answers'), limits)}</div></section>"
    )


def _failures(report: Report, look: Looker) -> str:
    """Cards of wrong answers, the surest first."""
    if not report.wrong:
        return "<section><h2>Wrong answers</h2><p>None.</p></section>"
    if not report.failures:
        return ""
    shown = len(report.failures)
    which = "all of them" if shown == report.wrong else f"the {shown} of {report.wrong:,} that the model was surest of"
    cards = "".join(_card(failure, look) for failure in report.failures)
    return (
        f"<section><h2>Wrong answers: {which}</h2><p>Beside each image, or below it, where the model looked "
        f"while it answered: from yellow to dark red. Click an image to see it in full width.</p>{cards}</section>"
    )


def _card(failure: Failure, look: Looker) -> str:
    """A wrong answer with its image and the map."""
    result = failure.result
    truth = " or ".join(result.truths[:4]) + (" …" if len(result.truths) > 4 else "")
    facts = {
        "question": result.question,
        "right": truth,
        "answer": result.answer.strip() or "(nothing)",
    }
    rows = "".join(f"<dt>{name}</dt><dd>{html.escape(_short(text))}</dd>" for name, text in facts.items())
    score = "" if result.score is None else f" · score {result.score:.2f}"
    groups = dict.fromkeys(group for name in result.tags for group in tag_values(result.tags, name))
    tags = "".join(f" · {html.escape(group)}" for group in groups)
    return (
        f"<article><h3>No. {failure.number} · certainty {result.certainty:.2f}{score}{tags}</h3><dl>{rows}</dl>"
        f'<div class="images">{_picture(failure)}{_map(failure, look)}</div></article>'
    )


def _picture(failure: Failure) -> str:
    try:
        return _figure(open_image(failure.item.image), "the image of the question", "what it is asked about")
    except RaveError as error:
        return f"<p>{html.escape(str(error))}</p>"


def _map(failure: Failure, look: Looker) -> str:
    try:
        return _figure(look(failure), "a map of attention over the image", "where the model looked")
    except RaveError as error:
        return f"<p>No map: {html.escape(str(error))}</p>"


def _figure(picture: Image.Image, words: str, caption: str) -> str:
    """An image in the page, as JPEG, with a button that enlarges it."""
    small = picture.convert("RGB")
    small.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    small.save(packed, "jpeg", quality=80)
    source = f"data:image/jpeg;base64,{base64.b64encode(packed.getvalue()).decode()}"
    return (
        f'<figure><button type="button" aria-expanded="false"><img src="{source}" width="{small.width}" '
        f'height="{small.height}" alt="{words}"></button><figcaption>{caption}</figcaption></figure>'
    )


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST_TEXT else f"{text[:_LONGEST_TEXT]} … ({len(text):,} characters)"
