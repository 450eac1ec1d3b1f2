"""Extraction by questions: for models that cannot write JSON, such as the built-in one.

Every page is cut into regions that the model reads in full (`regions`), and every field is asked for on every region.
Most regions do not have it, and the model says so; of the others the surest answer that is a value of the field counts.
All questions about a region follow its image, which is read once. Lists of objects are read from tables (`ask_tables`).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

from rave_mlx.chat.jobs import make_job
from rave_mlx.config import ImageConfig
from rave_mlx.documents.extraction.ask_tables import AskedTable, cell_images, list_of_tables, tables_for
from rave_mlx.documents.extraction.fields import ITEM, Field, Scalar
from rave_mlx.documents.extraction.places import ShownPage, Sought, find_places
from rave_mlx.documents.extraction.plan import Options, ReadPage, frame_of, text_of
from rave_mlx.documents.extraction.questions import CELL, name_of, questions_of
from rave_mlx.documents.extraction.regions import PAGE_PIXELS, Region, cut_regions, turned_back
from rave_mlx.documents.extraction.results import Box, Node, Value
from rave_mlx.documents.extraction.schema import ExtractionSchema
from rave_mlx.documents.extraction.spelling import respelled
from rave_mlx.documents.extraction.values import Hints, is_absent
from rave_mlx.documents.pages import Document, Page
from rave_mlx.errors import RaveError, UsageError
from rave_mlx.generation.job import Answer, Job
from rave_mlx.inputs.lines.page_lines import find_lines
from rave_mlx.inputs.prompt.message import ImagePart, Message, TextPart
from rave_mlx.inputs.prompt.parse_messages import read_image
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.lmm import LMM

ANSWER_TOKENS = 64
"""Longest answer to a question, in tokens."""
LEAST = 0.3
"""Certainty below which an answer is no value: what a model says of a region that does not have the field."""
POLICY = "rave"
"""Attention policy of the questions: regions are read once, in one size."""
_KEPT = 3
"""Answers that are kept for a field: the surest one may not be a value of it."""


@dataclass(frozen=True, eq=False)
class _Asked:
    """A question that was asked."""

    field: Field
    page: ReadPage
    region: Region
    prompt: Prompt


@dataclass(frozen=True, eq=False)
class _Candidate:
    """An answer that says something."""

    asked: _Asked
    text: str
    certainty: float
    ids: tuple[int, ...]


class AskPlan:
    """Extraction from one document by questions; see `plan.Plan`.

    Args:
        lmm: the model.
        schema: what is asked for.
        document: an open one.
        options: how.
    """

    def __init__(self, lmm: LMM, schema: ExtractionSchema, document: Document, options: Options):
        self.document, self.failures = document, dict[int, str]()
        self._lmm, self._schema, self._options = lmm, schema, options
        self._leaves = [leaf for leaf in schema.root.leaves() if ITEM not in leaf.path and not leaf.constant]
        self._lists = list(_lists(schema.root))
        self._names = [name_of(leaf, schema.root) for leaf in self._leaves]
        self._keys = itertools.count()
        self._asked: dict[int, _Asked] = {}
        self._cells: dict[int, tuple[AskedTable, int, int]] = {}
        self._tables: list[AskedTable] = []
        self._found: dict[tuple[str, ...], list[_Candidate]] = {leaf.path: [] for leaf in self._leaves}
        self._absent: dict[tuple[str, ...], float] = {}
        self._texts: list[str] = []
        self._read = 0

    def jobs(self) -> Iterator[Job]:
        """The questions of every page, region by region, and the cells of its tables."""
        for page in self.document.pages:
            try:
                yield from self._page_jobs(page)
            except UsageError:
                raise
            except RaveError as error:
                self.failures[page.number] = page.reason(error)
            self.document.page_done(page.number, self.failures.get(page.number))

    def take(self, answer: Answer) -> None:
        """Keep an answer where it may be the one that counts."""
        assert isinstance(answer.key, int)
        if answer.key in self._cells:
            table, row, column = self._cells.pop(answer.key)
            table.take(row, column, answer)
            return
        asked = self._asked.pop(answer.key)
        if answer.error is not None:
            self.failures.setdefault(asked.page.frame.number, str(answer.error))
            return
        text, path = " ".join(answer.text.split()), asked.field.path
        if is_absent(text):
            self._absent[path] = min(self._absent.get(path, 1.0), answer.certainty)
            return
        self._texts.append(text)
        if answer.ending == "stop" and not self._is_label(text, asked.field):
            found = [*self._found[path], _Candidate(asked, text, answer.certainty, answer.ids)]
            # The first of equals stays in front: what stands twice is taken from the first page.
            self._found[path] = sorted(found, key=lambda each: -each.certainty)[:_KEPT]

    def finish(self) -> Node | None:
        """The tree of values; None where no page could be read."""
        if not self._read:
            return None
        pages = {id(each.asked.page): each.asked.page for found in self._found.values() for each in found}
        hints = Hints.of([*self._texts, *(page.text.text for page in pages.values() if page.text is not None)])
        return self._node(self._schema.root, hints)

    def _page_jobs(self, page: Page) -> Iterator[Job]:
        config = self._lmm.config.image
        if not isinstance(config, ImageConfig):
            raise UsageError("this model answers single questions and reads images in tiles; that is not supported")
        image = page.draw(PAGE_PIXELS)
        leveled = find_lines(image)
        read = ReadPage(frame_of(page, image.size), image.size, leveled.turned, text_of(page))
        self._read += 1
        for region in cut_regions(leveled, config):
            part = read_image(region.image, config)
            for leaf, question in ((f, q) for f in self._leaves for q in questions_of(f, self._schema.root)):
                job = self._job(part, question)
                self._asked[self._key(job)] = _Asked(leaf, read, region, job.prompt)
                yield job
        for items in self._lists:
            for table in tables_for(items, leveled, read):
                self._tables.append(table)
                for row, column, crop in cell_images(table, leveled):
                    job = self._job(read_image(crop, config), CELL)
                    self._cells[self._key(job)] = table, row, column
                    yield job

    def _job(self, part: ImagePart, question: str) -> Job:
        message = Message("user", (part, TextPart(question)))
        policy = POLICY if self._options.policy is None else self._options.policy
        return make_job(self._lmm, [message], policy=policy, max_tokens=ANSWER_TOKENS, key=next(self._keys))

    @staticmethod
    def _key(job: Job) -> int:
        assert isinstance(job.key, int)
        return job.key

    def _is_label(self, text: str, field: Field) -> bool:
        """Whether an answer only repeats what was asked for: "number" for the customer number."""
        own = set(self._names[self._leaves.index(field)].casefold().split())
        said = text.casefold().strip(" :.()").split()
        return set(said) <= own or text.casefold() in (name.casefold() for name in self._names)

    def _node(self, field: Field, hints: Hints) -> Node:
        if field.is_leaf:
            value = Value(field.choices[0], 1.0) if field.constant else self._value(field, hints)
            return Node(leaf=value)
        if field.kind == "object":
            return Node(fields={inner.name: self._node(inner, hints) for inner in field.fields})
        return list_of_tables(field, [table for table in self._tables if table.field is field], hints)

    def _value(self, field: Field, hints: Hints) -> Value:
        """The surest answer that is a value of the field; else null, with the surest one that is not."""
        found, unfit = self._found[field.path], None
        for each in found:
            if each.certainty < LEAST:
                break
            page = each.asked.page
            spelled = respelled(each.text, page.text, page.fractions(each.asked.region.box))
            try:
                value = self._schema.read_value(field, spelled, hints)
            except ValueError as error:
                unfit = unfit or (each, str(error))
                continue
            return self._placed(each, spelled, value)
        if unfit is not None:
            return replace(self._placed(unfit[0], unfit[0].text, None), problem=unfit[1])
        doubt = max((each.certainty for each in found), default=0.0)
        return Value(None, min(self._absent.get(field.path, 0.0), 1 - doubt))

    def _placed(self, found: _Candidate, spelled: str, value: Scalar) -> Value:
        """A value with its place; `spelled`: the answer as the page spells it."""
        page, region = found.asked.page, found.asked.region
        box = self._box(found, spelled) if self._options.boxes else None
        if box is None:
            box = page.fractions(turned_back(region.box, page.turned, page.size))
        return Value(value, found.certainty, page.frame.number, page.frame.box(box), found.text)

    def _box(self, found: _Candidate, spelled: str) -> Box | None:
        """Where an answer stands, in fractions of its page."""
        page, region = found.asked.page, found.asked.region
        shown = ShownPage(page.frame.number, region.image, page.fractions(region.box), page.text)
        label = " ".join((found.asked.field.label, found.asked.field.description))
        stop = len(found.ids) - 1 if found.ids[-1] in self._lmm.config.tokens.stop else len(found.ids)
        sought = Sought(spelled, (0, stop), label)
        place = find_places(self._lmm, found.asked.prompt, found.ids, [sought], [shown])[0]
        if place is None or place.source == "text layer" or not page.turned:
            return None if place is None else place.box
        width, height = page.size
        left, top, right, bottom = place.box
        level = left * width, top * height, right * width, bottom * height
        return page.fractions(turned_back(level, page.turned, page.size))


def _lists(field: Field) -> Iterator[Field]:
    """The lists of a schema that are in no other list."""
    if field.kind == "array":
        yield field
    for inner in field.fields:
        yield from _lists(inner)
