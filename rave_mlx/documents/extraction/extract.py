"""Extraction from documents: fields that follow a schema, each with its certainty and place.

for result in rave_mlx.extract("invoices/", {"type": "object", "properties": {"total": {"type": "number"}}}):
print(result.file, result.values)
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from rave_mlx.documents.extraction.ask_fields import AskPlan
from rave_mlx.documents.extraction.plan import Options, Plan, unit_of
from rave_mlx.documents.extraction.results import Extraction
from rave_mlx.documents.extraction.schema import ExtractionSchema
from rave_mlx.documents.extraction.write_json import JsonPlan
from rave_mlx.documents.pages import Document, describe_failures
from rave_mlx.documents.pages_spec import parse_pages
from rave_mlx.documents.sources import Named, find_documents
from rave_mlx.documents.stream import KEPT_BYTES, Outcome, process_documents
from rave_mlx.errors import UsageError
from rave_mlx.generation.job import Failed, Job
from rave_mlx.generation.page_store import PageStore
from rave_mlx.generation.scheduler import Scheduler
from rave_mlx.models.lmm import LMM

EMPTY: dict[str, Any] = {"unit": None, "fields": None}
"""Columns of a document that cannot be opened."""


@dataclass(frozen=True, eq=False)
class _End:
    """The key behind the last job of a document."""

    plan: Plan


class Extractor:
    """Extracts from documents; its `process` is one of `stream.Process`.

    Args:
        lmm: the model.
        schema: what is asked for.
        options: how.
        batch_size: how many answers are written together.
        instances: a pydantic class, of which results carry an object where they fit it; None for none.
        pages: where what was read of pages is kept on disk, and found again; None: nowhere.

    Raises:
        UsageError: for a schema that answers cannot be held to.
    """

    def __init__(
        self,
        lmm: LMM,
        schema: ExtractionSchema,
        *,
        options: Options | None = None,
        batch_size: int = 8,
        instances: type[Any] | None = None,
        pages: PageStore | None = None,
    ):
        self._lmm, self._schema, self._options, self._rows = lmm, schema, options or Options(), batch_size
        self._instances, self._pages = instances, pages
        if lmm.config.image is None:
            raise UsageError("this model reads text only; choose a vision-language model")
        # Models that were trained on single questions cannot follow an instruction with a list of fields.
        self._plan: type[AskPlan] | type[JsonPlan] = AskPlan if lmm.config.turns == "last" else JsonPlan
        if self._plan is JsonPlan:
            schema.check_grammar()

    def process(self, documents: Iterator[Document]) -> Iterator[Outcome]:
        """One outcome for each document, in order; its `result` is an `Extraction`."""
        plans: deque[Plan] = deque()

        def jobs() -> Iterator[Job | Failed]:
            for document in documents:
                plan: Plan = self._plan(self._lmm, self._schema, document, self._options)
                plans.append(plan)
                yield from plan.jobs()
                yield Failed(UsageError("the end of a document"), key=_End(plan))

        scheduler = Scheduler(self._lmm, rows=self._rows, prefix_bytes=KEPT_BYTES, pages=self._pages)
        for answer in scheduler.run(jobs()):
            if isinstance(answer.key, _End):
                yield self._outcome(plans.popleft())
            else:
                plans[0].take(answer)

    def _outcome(self, plan: Plan) -> Outcome:
        document, fields = plan.document, plan.finish()
        reasons = [describe_failures(plan.failures)] if plan.failures else []
        if document.missing:
            reasons.append(f"pages that are not there: {', '.join(map(str, document.missing))}")
        error = "; ".join(reasons) or None
        unit = unit_of(document)
        result = Extraction(document.name, document.sha256, len(document.pages), fields, unit, error)
        values = {"unit": unit, "fields": None if fields is None else fields.as_row()}
        return Outcome(values, error, replace(result, instance=self._instance(result)))

    def _instance(self, result: Extraction) -> Any:
        """The pydantic object of a result; None where a value that it requires is missing."""
        if self._instances is None or result.fields is None:
            return None
        from pydantic import ValidationError

        try:
            return self._instances.model_validate(result.values)
        except ValidationError:
            return None


def extract(
    named: Named,
    schema: Any,
    lmm: LMM | None = None,
    *,
    pages: str | None = None,
    options: Options | None = None,
    batch_size: int = 8,
    page_cache: bool = False,
) -> Iterator[Extraction]:
    """Extract fields from documents: one result each, in order, as they come.

    A document that cannot be read is a result with `error`; the others go on.

    Args:
        named: files, folders, patterns, bytes or pictures; one or several.
        schema: what is asked for: a JSON Schema as a dict or a file, a pydantic model class, or the names of text
            fields: "total, due date".
        lmm: the model, as of `load`; None for the built-in one.
        pages: which pages of every document, as "1-3,7".
        options: attention policy, limits, and whether places are looked for.
        batch_size: how many answers are written together.
        page_cache: whether what is read of pages is kept on disk, for the next time.

    Raises:
        UsageError: for a schema or an option that cannot be used.
        ImageError: when nothing of what is named is there.
    """
    if lmm is None:
        from rave_mlx.api import load

        lmm = load()
    read = read_schema(schema)
    instances = schema if isinstance(schema, type) else None
    store = PageStore.open(lmm) if page_cache else None
    extractor = Extractor(lmm, read, options=options, batch_size=batch_size, instances=instances, pages=store)
    pile = find_documents(named, pages=None if pages is None else parse_pages(pages))
    return _results(pile.documents, extractor)


def read_schema(schema: Any) -> ExtractionSchema:
    """A schema from what a person gives: names of fields are told from the path of a file by what is there.

    Raises:
        UsageError: for a schema that cannot be used.
    """
    if isinstance(schema, str) and not schema.lower().endswith(".json") and not os.path.isfile(schema):  # noqa: PTH113
        return ExtractionSchema.of_names(schema)
    return ExtractionSchema.of(schema)


def _results(sources: Iterable[Any], extractor: Extractor) -> Iterator[Extraction]:
    for done in process_documents(sources, extractor.process, empty=EMPTY):
        result = done.outcome.result
        yield (
            result
            if isinstance(result, Extraction)
            else Extraction(done.name, done.sha256, done.pages, None, error=done.outcome.error)
        )
