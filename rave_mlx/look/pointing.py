"""How often a model looks at the words that it quotes.

Pages of the generator know the box of every word. A question counts when the model's answer is right and its words
stand on the page exactly once, next to each other. Its mean map over the answer's tokens has a peak; the score is the
share of questions in which the middle of the peak lies within the answer's box, made larger by one cell of the map on
each side; the strict score allows half a cell, which is to say that the peak's cell touches the box. Chance is the
share of all cells of which that is true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rave_mlx.errors import UsageError
from rave_mlx.evaluate.metrics import exact
from rave_mlx.look.answer_maps import collect
from rave_mlx.look.maps import AttentionMap, Floats, default_layers
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.parse import steering
from rave_mlx.synthetic import Document, PageConfig, Question, Word, make

SEED = 880_000
"""Far from the seeds of training and of `evaluate`."""
TOLERANCE, STRICT = 1.0, 0.5
"""Cells by which the answer's box is made larger on each side."""
KINDS = ("field", "price", "quantity", "cell", "title", "reverse", "chart")
"""Questions whose answers are short: the box of a whole line is easily hit."""
_LONGEST = 48
"""Tokens of an answer; the kinds asked for are shorter."""
_A_PAGE = 2
"""Most questions about one page."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Target:
    """A question with the place of its answer on the page."""

    image: Image.Image
    question: Question
    box: Box


@dataclass(frozen=True)
class Score:
    """Where one set of layers points.

    Attributes:
        name: the layers.
        inside: share of questions whose peak lies on the answer.
        strict: share of those whose peak's cell touches its box.
        mass: share of the map's attention that lies there, mean over the questions.
    """

    name: str
    inside: float
    strict: float
    mass: float


@dataclass(frozen=True)
class Report:
    """The scores of one attention policy.

    Attributes:
        attention: its name.
        asked: questions; `right` of them were answered correctly, and only those count.
        chance, strict_chance: share of cells on the answer and touching it, mean over the questions.
        scores: for the mean of the default layers, of all layers, then for each layer.
        heads: (layers, heads) `inside` of single heads.
    """

    attention: str
    asked: int
    right: int
    chance: float
    strict_chance: float
    scores: tuple[Score, ...]
    heads: tuple[tuple[float, ...], ...]


def targets(count: int, seed: int = SEED) -> Iterator[Target]:
    """`count` questions about generated pages with values never seen in training, at most two a page."""
    found = 0
    for number in range(seed, seed + 50 * count):
        rng = Random(number)
        config = replace(PageConfig(held_values=True), width=rng.randint(192, 448), height=rng.randint(64, 400))
        page = make(rng, config)
        placed = [(q, box) for q in page.questions if q.kind in KINDS and (box := answer_box(page, q)) is not None]
        for question, box in rng.sample(placed, min(len(placed), _A_PAGE)):
            if found < count:
                found += 1
                yield Target(page.image, question, box)
        if found == count:
            return


def answer_box(page: Document, question: Question) -> Box | None:
    """The box around the answer's words; None unless they stand on one line of the page, exactly once."""
    wanted = question.answer.split()
    found: list[Sequence[Word]] = []
    for start in range(len(page.words) - len(wanted) + 1):
        words = page.words[start : start + len(wanted)]
        if [w.text for w in words] == wanted and len({w.line for w in words}) == 1:
            found.append(words)
    if len(found) != 1 or not wanted:
        return None
    edges = np.array([word.box for word in found[0]])
    low, high = edges[:, :2].min(axis=0), edges[:, 2:].max(axis=0)
    return float(low[0]), float(low[1]), float(high[0]), float(high[1])


def on_answer(seen: AttentionMap, box: Box, tolerance: float = TOLERANCE) -> NDArray[np.bool_]:
    """(V,) which visual tokens of a single image have their middle on the answer.

    Args:
        seen: a run about one image.
        box: of the answer: left, top, right, bottom in pixels of the image.
        tolerance: by how many cells the box is made larger on each side.
    """
    places = seen.images[0].places
    across, down = (tolerance * side for side in places.cell)
    x, y = ((places.boxes[:, :2] + places.boxes[:, 2:]) / 2).T
    beside = (x >= box[0] - across) & (x <= box[2] + across)
    inside: NDArray[np.bool_] = beside & (y >= box[1] - down) & (y <= box[3] + down)
    return inside


def score(
    lmm: LMM,
    questions: Sequence[Target],
    *,
    policy: str | None = None,
    progress: Callable[[int], None] | None = None,
) -> Report:
    """Ask all questions under one attention policy.

    Args:
        lmm: a model whose visual tokens have a place on the page.
        questions: from `targets`.
        policy: as of `Session`.
        progress: called with the number of questions asked so far.

    Raises:
        UsageError: for a policy that shows the model something else than the page.
    """
    for each in steering(policy).policies:
        if each.has("revise"):
            raise UsageError(f"--pointing: {each.name} changes what is read; what is pointed at there has no box")
    found: list[_Found] = []
    name = policy or ""
    for number, target in enumerate(questions, 1):
        content = [{"type": "image", "image": target.image}, {"type": "text", "text": target.question.text}]
        seen = collect(lmm, [{"role": "user", "content": content}], policy=policy, max_tokens=_LONGEST)
        name = seen.attention
        if progress is not None:
            progress(number)
        if exact(seen.answer, (target.question.answer,)):
            found.append(_found(seen, target.box))
    names = _names(len(lmm.config.text.attention_layers))
    means = np.mean([f.scores for f in found], axis=0) if found else np.full((len(names), 3), np.nan)
    chance = np.mean([f.chance for f in found], axis=0) if found else np.full(2, np.nan)
    return Report(
        attention=name,
        asked=len(questions),
        right=len(found),
        chance=float(chance[0]),
        strict_chance=float(chance[1]),
        scores=tuple(Score(n, *map(float, values)) for n, values in zip(names, means, strict=True)),
        heads=tuple(map(tuple, np.mean([f.heads for f in found], axis=0).tolist())) if found else (),
    )


@dataclass(frozen=True, eq=False)
class _Found:
    """One rightly answered question: (2 + N, 3) as in Report and Score, (N, H) hits of heads, (2,) chances."""

    scores: Floats
    heads: Floats
    chance: Floats


def _found(seen: AttentionMap, box: Box) -> _Found:
    """Whether the peaks of one run lie on its answer: of means of layers, of layers and of single heads."""
    inside, strict = on_answer(seen, box), on_answer(seen, box, STRICT)
    layers, heads = range(seen.num_layers), range(seen.num_heads)
    rows = []
    for values in (seen.over(), seen.over(layers=layers), *(seen.over(layers=[layer]) for layer in layers)):
        peak = seen.peak_token(values)
        rows.append([inside[peak], strict[peak], values[inside].sum() / max(values.sum(), 1e-12)])
    single = [[inside[seen.peak_token(seen.over(layers=[i], heads=[h]))] for h in heads] for i in layers]
    return _Found(
        np.array(rows, dtype=np.float64),
        np.array(single, dtype=np.float64),
        np.array([inside.mean(), strict.mean()]),
    )


def _names(layers: int) -> list[str]:
    """Names of the scores, in the order of `_Found.scores`."""
    chosen = default_layers(layers)
    return [f"layers {chosen[0]}-{chosen[-1]}", "all layers", *(f"layer {i}" for i in range(layers))]


def table(reports: Sequence[Report]) -> str:
    """The reports side by side: share of peaks on the answer, and of attention."""
    width = max(24, *(len(r.attention) + 2 for r in reports))
    lines = [
        "peak on the answer / touching it (share of attention on it)",
        f"{'':14}" + "".join(f"{r.attention:>{width}}" for r in reports),
    ]
    for index, first in enumerate(reports[0].scores):
        cells = [f"{c.inside:.1%} / {c.strict:.1%} ({c.mass:.0%})" for c in (r.scores[index] for r in reports)]
        lines.append(f"{first.name:14}" + "".join(f"{cell:>{width}}" for cell in cells))
    lines.append(f"{'chance':14}" + "".join(f"{f'{r.chance:.1%} / {r.strict_chance:.1%}':>{width}}" for r in reports))
    lines.append(f"{'right answers':14}" + "".join(f"{f'{r.right} of {r.asked}':>{width}}" for r in reports))
    for report in reports:
        best = sorted(((v, i, h) for i, row in enumerate(report.heads) for h, v in enumerate(row)), reverse=True)[:5]
        named = ", ".join(f"{i}.{h} {value:.0%}" for value, i, h in best)
        lines.append(f"best heads (layer.head), {report.attention}: {named}")
    return "\n".join(lines)
