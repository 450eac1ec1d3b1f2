"""What to extract: a user's schema, ready to ask a model for its fields and to read the answers.

schema = ExtractionSchema.of("invoice.json")            # or a dict, or a pydantic model class
schema = ExtractionSchema.of_names("total, due date")   # text fields

# A model that writes JSON:
job = make_job(lmm, messages, constraint=schema.constraint(lmm))     # a fresh constraint for each answer
value = schema.complete(answer.text).value                           # valid, also where the answer was cut
leaves = schema.leaves(answer, lmm)                                  # value, tokens and certainty of each field

# A model that answers questions: one for each of
for field in schema.root.leaves():
    value = schema.read_value(field, "13,60 €", hints)               # 13.6, or ValueError with the reason
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import numpy as np

from rave_mlx.documents.extraction.field_checks import problem_of
from rave_mlx.documents.extraction.fields import Field, Scalar
from rave_mlx.documents.extraction.json_fields import JsonAnswer, Leaf, read_json, with_tokens
from rave_mlx.documents.extraction.schema_fields import field_of
from rave_mlx.documents.extraction.schema_grammar import blank, grammar_schema, leaf_schemas
from rave_mlx.documents.extraction.schema_keywords import SchemaError
from rave_mlx.documents.extraction.schema_source import read_schema, schema_of_names
from rave_mlx.documents.extraction.values import Hints, read_value
from rave_mlx.errors import UsageError
from rave_mlx.generation.grammar_tokens import check_grammar, grammar_tokens
from rave_mlx.generation.job import Answer
from rave_mlx.generation.json_constraint import GrammarConstraint, json_constraint, json_grammar
from rave_mlx.models.lmm import LMM


@dataclass(frozen=True, eq=False)
class ExtractionSchema:
    """The fields to extract from a document.

    Every field gets an answer: all properties are written, in the schema's order and no others, and what is not on
    the page is null, whether the schema allows null or not. Constants are written and not asked for. Texts without
    `maxLength` have at most 500 characters, lists without `maxItems` at most 200 items.

    Attributes:
        root: the whole, an object, with its fields.
        schema: JSON Schema as the user wrote it.
        source: what it is called in messages.
    """

    root: Field
    schema: dict[str, Any]
    source: str = "schema"

    @classmethod
    def of(cls, source: Any) -> ExtractionSchema:
        """Read a schema.

        Args:
            source: the path of a JSON file, a dict, a pydantic model class, or such a schema already.

        Raises:
            UsageError: for what is no JSON Schema of an object, recursive, contradictory or not supported; the message
                names the place.
        """
        if isinstance(source, ExtractionSchema):
            return source
        schema, name = read_schema(source)
        try:
            return cls(field_of(schema), schema, name)
        except SchemaError as error:
            raise UsageError(f"{name}, {error}") from None

    @classmethod
    def of_names(cls, names: str) -> ExtractionSchema:
        """The schema of text fields that a list names, as "total, due date, vendor"; the names stay as written.

        Raises:
            UsageError: for an empty list, or a name that comes twice.
        """
        schema = schema_of_names(names)
        return cls(field_of(schema), schema, "--fields")

    @property
    def fields(self) -> tuple[Field, ...]:
        """The fields of the whole, in the order in which they are written."""
        return self.root.fields

    @cached_property
    def grammar(self) -> dict[str, Any]:
        """JSON Schema of the answers: the user's with null for what is missing, see `schema_grammar.grammar_schema`."""
        return grammar_schema(self.root)

    @property
    def blank(self) -> dict[str, Any]:
        """The result of a document on which nothing was found."""
        value: dict[str, Any] = blank(self.root)
        return value

    def constraint(self, lmm: LMM) -> GrammarConstraint:
        """A fresh constraint for one answer of a model: `Job(constraint=...)`. Cheap after the first one.

        Raises:
            UsageError: for what llguidance cannot follow (it names it), or without llguidance.
            ModelError: for a model whose tokenizer cannot be used.
        """
        self.check_grammar()
        return json_constraint(lmm, self.grammar)

    def check_grammar(self) -> None:
        """Find out without a model whether answers can be held to this schema, before a run begins.

        Raises:
            UsageError: for what llguidance cannot follow (it names it), or without llguidance.
        """
        for field, schema in leaf_schemas(self.root):
            try:
                _check(json.dumps(schema))
            except UsageError as error:
                raise UsageError(f"{self.source}, field {field.dotted!r}: {error}") from None
        _check(json.dumps(self.grammar))

    def least_tokens(self, lmm: LMM) -> int:
        """Tokens of an answer in which everything is null: a limit below this cuts every answer."""
        text = json.dumps(self.blank, ensure_ascii=False)
        return len(lmm.tokenizer.encode(text, first=False)[0]) + 1

    def complete(self, text: str) -> JsonAnswer:
        """The value of an answer. One that was cut keeps what was finished; the rest becomes null.

        Raises:
            ValueError: for a text that was not written under the constraint and does not follow the schema.
        """
        return read_json(text, self.root)

    def leaves(self, answer: Answer, lmm: LMM) -> tuple[Leaf, ...]:
        """Every single value of an answer: with its tokens ([first, stop) of `answer.ids`) and its certainty.

        Args:
            answer: written under `constraint`; whole or cut.
            lmm: the model that wrote it.

        Raises:
            ValueError: for an answer that was not written under the constraint and does not follow the schema.
        """
        tokens = grammar_tokens(lmm).text(answer.ids)
        # The tokens' own bytes: an answer that was cut inside a character has other characters in `answer.text`.
        text = b"".join(tokens).decode("utf-8", "ignore")
        probabilities = answer.probabilities if answer.probabilities is not None else np.zeros(len(tokens), np.float32)
        return with_tokens(read_json(text, self.root), text, tokens, probabilities)

    def read_value(self, field: Field, text: str, hints: Hints | None = None) -> Scalar:
        """The value that a printed or spoken answer gives for a field: see `values.read_value`.

        Raises:
            ValueError: for an answer from which no value of the field can be read; the message says why.
        """
        return read_value(text, field, hints or Hints())

    def problems(self, value: Any) -> list[str]:
        """What is wrong with the result of a document, as "items[1].price: ..."; empty where it follows the schema.

        Args:
            value: an object as `complete` gives it, from wherever it comes.
        """
        return list(_problems(self.root, value, ""))


def _problems(field: Field, value: Any, where: str) -> Sequence[str]:
    if field.is_leaf:
        problem = problem_of(field, value)
        return [f"{where}: {problem}"] if problem else []
    name = where or "the whole"
    if value is None and field.nullable:
        return []
    if field.kind == "array":
        limits, item = field.limits, field.item
        assert item is not None
        if not isinstance(value, list):
            return [f"{name}: is no list"]
        if not limits.min_items <= len(value) <= (limits.max_items if limits.max_items is not None else len(value)):
            return [f"{name}: has {len(value)} items"]
        return [p for i, inner in enumerate(value) for p in _problems(item, inner, f"{where}[{i}]")]
    if not isinstance(value, dict):
        return [f"{name}: is no object"]
    names = {inner.name for inner in field.fields}
    return [
        *(f"{name}: {inner.name!r} is missing" for inner in field.fields if inner.name not in value),
        *(f"{name}: {other!r} is not in the schema" for other in value if other not in names),
        *(
            problem
            for inner in field.fields
            if inner.name in value
            for problem in _problems(inner, value[inner.name], f"{where}.{inner.name}".removeprefix("."))
        ),
    ]


@lru_cache(maxsize=512)
def _check(schema: str) -> None:
    check_grammar(json_grammar(json.loads(schema)))
