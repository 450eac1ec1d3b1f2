"""Extraction by models that write JSON: pages and an instruction in, an object that follows the schema out.

As many pages as fit are shown at once; what a longer document's parts give is combined (`combine`). Answers are held to
the schema, guessed from the text layer where there is one, and each value gets its certainty and place.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from rave_mlx.chat.jobs import make_job
from rave_mlx.documents.extraction.combine import combine
from rave_mlx.documents.extraction.fields import Field
from rave_mlx.documents.extraction.instructions import PART, instruction
from rave_mlx.documents.extraction.json_fields import Leaf
from rave_mlx.documents.extraction.places import Place, ShownPage, Sought, find_places
from rave_mlx.documents.extraction.plan import Options, PageFrame, frame_of, text_of
from rave_mlx.documents.extraction.results import Node, Value
from rave_mlx.documents.extraction.schema import ExtractionSchema
from rave_mlx.documents.pages import Document, Page
from rave_mlx.documents.transcription.choose_prompt import choose_prompt
from rave_mlx.errors import RaveError
from rave_mlx.generation.drafts import TextDrafts
from rave_mlx.generation.job import Answer, Failed, Job
from rave_mlx.generation.sampling import Sampling
from rave_mlx.generation.scheduler import Scheduler
from rave_mlx.inputs.images.pdf_text import PageText
from rave_mlx.inputs.prompt.message import ImagePart, Message, TextPart
from rave_mlx.inputs.prompt.parse_messages import read_image
from rave_mlx.models.lmm import LMM

SHOWN_PIXELS = 2_000_000
"""Pixels of a page of a PDF in which places are looked for."""
PENALTY = 1.1
"""Repetition penalty of the second try, where an answer repeated itself."""
_TEMPLATE = 16
"""Tokens of the chat template around an image, at most."""


@dataclass(frozen=True, eq=False)
class _Group:
    """Pages that are shown together."""

    pages: tuple[Page, ...]
    texts: tuple[PageText | None, ...]
    job: Job


class JsonPlan:
    """Extraction from one document by JSON; see `plan.Plan`.

    Args:
        lmm: the model.
        schema: what is asked for.
        document: an open one.
        options: how.
    """

    def __init__(self, lmm: LMM, schema: ExtractionSchema, document: Document, options: Options):
        self.document, self.failures = document, dict[int, str]()
        self._lmm, self._schema, self._options = lmm, schema, options
        self._template = choose_prompt(lmm).name == "NuExtract"
        self._text = instruction(schema, template=self._template)
        self._groups: dict[int, _Group] = {}
        self._numbers = itertools.count()
        self._parts: list[Node] = []

    def jobs(self) -> Iterator[Job | Failed]:
        """One job for every group of pages."""
        waiting: list[tuple[Page, ImagePart]] = []
        for page in self.document.pages:
            try:
                part = read_image(page, self._lmm.config.image, image_tokens=self._options.image_tokens)
            except RaveError as error:
                self.failures[page.number] = page.reason(error)
                self.document.page_done(page.number, self.failures[page.number])
                continue
            if waiting and not self._fits([*(p for _, p in waiting), part]):
                yield from self._job(waiting)
                waiting = []
            waiting.append((page, part))
        if waiting:
            yield from self._job(waiting)

    def take(self, answer: Answer) -> None:
        """Read the values of an answer and find their places."""
        assert isinstance(answer.key, int)
        group = self._groups.pop(answer.key)
        if answer.error is None and answer.ending == "repetition":
            answer = self._again(group.job)
        problem = self._problem(answer)
        if problem is not None:
            self.failures.update(dict.fromkeys((page.number for page in group.pages), problem))
        for page in group.pages:
            self.document.page_done(page.number, problem)
        if answer.error is None:
            self._parts.append(self._read(answer, group))

    def finish(self) -> Node | None:
        """The tree of values; None where no page was answered."""
        return combine(self._schema.root, self._parts) if self._parts else None

    def _fits(self, parts: Sequence[ImagePart]) -> bool:
        """Whether pages fit into one prompt, with room for an answer."""
        if len(parts) > self._options.pages_together:
            return False
        most = self._lmm.config.text.max_positions
        room = min(self._options.max_tokens, most // 4)
        words = len(self._lmm.tokenizer.encode(self._text, first=False)[0])
        return sum(part.patches.tokens + _TEMPLATE for part in parts) + words + room + 4 * _TEMPLATE <= most

    def _job(self, shown: Sequence[tuple[Page, ImagePart]]) -> Iterator[Job | Failed]:
        pages, key = tuple(page for page, _ in shown), next(self._numbers)
        try:
            texts = tuple(text_of(page) for page in pages)
            job = self._made([part for _, part in shown], pages, texts, key)
        except RaveError as error:
            self.failures.update(dict.fromkeys((page.number for page in pages), pages[0].reason(error)))
            for page in pages:
                self.document.page_done(page.number, self.failures[page.number])
            return
        self._groups[key] = _Group(pages, texts, job)
        yield job

    def _made(
        self, parts: Sequence[ImagePart], pages: Sequence[Page], texts: Sequence[PageText | None], key: int
    ) -> Job:
        words = TextPart(self._text)
        if len(pages) < len(self.document.pages) and len(self.document.pages) > 1:
            first, last = pages[0].number, pages[-1].number
            words = TextPart(f"{self._text}\n{PART.format(first=first, last=last, count=len(self.document.pages))}")
        content: tuple[TextPart | ImagePart, ...] = (words, *parts) if self._template else (*parts, words)
        layer = "\n".join(text.text for text in texts if text is not None)
        return make_job(
            self._lmm,
            [Message("user", content)],
            policy=self._options.policy,
            max_tokens=self._options.max_tokens,
            constraint=self._schema.constraint(self._lmm),
            drafts=TextDrafts(self._lmm.tokenizer, layer) if layer and self._options.drafts else None,
            key=key,
        )

    def _again(self, job: Job) -> Answer:
        """The second try of an answer that repeated itself."""
        sampling = Sampling(repetition_penalty=PENALTY)
        fresh = replace(job, sampling=sampling, constraint=self._schema.constraint(self._lmm), drafts=None)
        return next(iter(Scheduler(self._lmm, rows=1).run([fresh])))

    def _problem(self, answer: Answer) -> str | None:
        """What is wrong with an answer, for the row of the document."""
        if answer.error is not None:
            return str(answer.error)
        if answer.ending == "repetition":
            return "the answer repeated itself, a second one too; what it had not come to is null"
        if answer.ending == "length":
            return f"the answer was cut at {len(answer.ids)} tokens; what it had not come to is null; see --max-tokens"
        return None

    def _read(self, answer: Answer, group: _Group) -> Node:
        leaves = self._schema.leaves(answer, self._lmm)
        places = self._places(answer, leaves, group)
        alone = group.pages[0].number if len(group.pages) == 1 else None
        frames = {frame.number: frame for frame in self._frames(group, {p.page for p in places.values()})}
        values = {leaf.path: self._value(leaf, places.get(leaf.path), frames, alone) for leaf in leaves}
        return _tree(self._schema.root, (), values)

    def _places(self, answer: Answer, leaves: Sequence[Leaf], group: _Group) -> dict[tuple[str | int, ...], Place]:
        """Where the values stand that are there."""
        there = [
            leaf for leaf in leaves if leaf.value is not None and leaf.span is not None and leaf.tokens is not None
        ]
        if not self._options.boxes or not there:
            return {}
        shown = [
            ShownPage(page.number, page.draw(SHOWN_PIXELS), text=text)
            for page, text in zip(group.pages, group.texts, strict=True)
        ]
        sought = []
        for leaf in there:
            assert leaf.span is not None
            assert leaf.tokens is not None
            label = f"{leaf.field.label} {leaf.field.description}"
            # Numbers as they were written; of texts what stands on the page, without JSON's escapes.
            text = leaf.value if isinstance(leaf.value, str) else answer.text[slice(*leaf.span)]
            sought.append(Sought(text, leaf.tokens, label))
        found = find_places(self._lmm, group.job.prompt, answer.ids, sought, shown, gate=group.job.gate)
        return {leaf.path: place for leaf, place in zip(there, found, strict=True) if place is not None}

    def _frames(self, group: _Group, numbers: set[int]) -> Iterator[PageFrame]:
        for page in group.pages:
            if page.number in numbers:
                size = (1, 1) if self.document.is_pdf else page.draw().size
                yield frame_of(page, size)

    @staticmethod
    def _value(leaf: Leaf, place: Place | None, frames: Mapping[int, PageFrame], alone: int | None) -> Value:
        if leaf.value is None:
            return Value(None, leaf.certainty)
        if place is None:
            return Value(leaf.value, leaf.certainty, alone)
        return Value(leaf.value, leaf.certainty, place.page, frames[place.page].box(place.box))


def _tree(field: Field, path: tuple[str | int, ...], values: Mapping[tuple[str | int, ...], Value]) -> Node:
    """The values of an answer in the shape of the schema."""
    if field.is_leaf:
        return Node(leaf=values.get(path, Value()))
    if field.kind == "object":
        return Node(fields={inner.name: _tree(inner, (*path, inner.name), values) for inner in field.fields})
    assert field.item is not None
    depth = len(path)
    numbers = {found[depth] for found in values if found[:depth] == path and len(found) > depth}
    count = max((number + 1 for number in numbers if isinstance(number, int)), default=0)
    return Node(items=tuple(_tree(field.item, (*path, number), values) for number in range(count)))
