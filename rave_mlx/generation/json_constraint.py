"""Answers that follow a JSON Schema, a regular expression or a list of choices, token by token (`llguidance`).

    constraint = json_constraint(lmm, {"type": "object", "properties": {...}, ...})
    Job(prompt, constraint=constraint)

JSON is written on one line in one way, without white space that the model could add to without end.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rave_mlx.errors import UsageError
from rave_mlx.generation.grammar_tokens import GrammarTokens, grammar_tokens, load_llguidance
from rave_mlx.models.lmm import LMM

if TYPE_CHECKING:
    from llguidance import LLMatcher

ITEM_SEPARATOR = ", "
NAME_SEPARATOR = ": "
"""With a space, as most of the JSON that models have seen has it. Without, SmolLM2-135M gave the values of six invoices
a median certainty of 0.55 instead of 0.90 and got 29 instead of 31 of 36 right, in 243 passes instead of 213."""


class GrammarConstraint:
    """What one answer must look like, as a grammar says: a `Constraint` of `generation/job.py`.

    Where the grammar leaves no choice of text, it leaves none of tokens either: `mask` allows the one token with which
    the tokenizer itself would write that text. The answer is therefore the same ids whether its `forced` tokens are
    taken over unseen or the model writes them one by one. Where a token of the forced text could also reach beyond it
    (`":` and `":"`), the choice is left to the model.

    Args:
        tokens: the model's vocabulary.
        grammar: in llguidance's Lark syntax, as `json_grammar` writes it.

    Raises:
        UsageError: for a grammar that llguidance does not take.
    """

    def __init__(self, tokens: GrammarTokens, grammar: str):
        self._tokens = tokens
        self._matcher: LLMatcher
        self._matcher, self._forces = tokens.matcher(grammar)
        self._forced: list[int] | None = None
        self._allowed: NDArray[np.bool_] | None = None
        self._ended = False

    def mask(self) -> NDArray[np.bool_]:
        """(vocab,) marks of the tokens that may come next; the stop tokens where the answer may end here.

        Raises:
            UsageError: when llguidance gives up: a grammar that grows too complex, a vocabulary that lacks characters.
        """
        if self._ended or self._find_forced():
            marks = np.zeros(self._tokens.rows, np.bool_)
            marks[list(self._tokens.stop) if self._ended else self._find_forced()[0]] = True
            return marks
        if self._allowed is None:
            self._allowed = self._tokens.allowed(self._matcher)
            self._check()
        return self._allowed.copy()

    def forced(self) -> list[int]:
        """Tokens that must come next whatever the model says; empty where it has a choice."""
        return list(self._find_forced())

    def accept(self, token: int) -> None:
        """The next token of the answer is this one.

        Raises:
            ValueError: for a token that `mask` does not allow.
        """
        if not 0 <= token < self._tokens.rows or not self.mask()[token]:
            raise ValueError(f"token {token} is not one that the schema allows here")
        if token in self._tokens.stop:
            self._ended = True
            return
        assert self._forced is not None
        self._matcher.consume_token(token)
        self._check()
        self._forced, self._allowed = self._forced[1:] or None, None

    @property
    def is_complete(self) -> bool:
        """Whether the answer so far is all that the grammar asks for."""
        return self._ended or bool(self._matcher.is_accepting())

    def _find_forced(self) -> list[int]:
        """The tokens that must come next; found once, then used up one by one."""
        if self._forced is None:
            found = self._matcher.compute_ff_tokens() if self._forces and not self._ended else []
            self._forced = list(takewhile(self._tokens.is_text, found))
        return self._forced

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = self._matcher.get_error().strip().splitlines()[:1]
            raise UsageError(f"the answer cannot go on under its schema: {' '.join(reason)}; make the schema simpler")


def json_grammar(schema: Mapping[str, Any]) -> str:
    """The grammar of JSON texts that a JSON Schema allows, written in one way.

    Properties come in the order of the schema. Between items stands ", " and after a name ": ", as Python's `json`
    writes them.
    """
    layout = {"whitespace_flexible": False, "item_separator": ITEM_SEPARATOR, "key_separator": NAME_SEPARATOR}
    return f"start: %json {json.dumps({**schema, 'x-guidance': layout}, ensure_ascii=False)}"


def json_constraint(lmm: LMM, schema: Mapping[str, Any]) -> GrammarConstraint:
    """A constraint for one answer: JSON that follows a schema, no more and no less than llguidance knows of it.

    Extraction makes a user's schema ready for this (`documents/extraction/schema.py`): fields that may be missing,
    strings and lists that end.

    Raises:
        UsageError: for a schema with keywords that llguidance does not know (it names them), or without llguidance.
        ModelError: for a model whose tokenizer cannot be used.
    """
    return GrammarConstraint(grammar_tokens(lmm), json_grammar(schema))


def json_object_constraint(lmm: LMM) -> GrammarConstraint:
    """A constraint for one answer: any JSON object.

    Raises:
        UsageError: without llguidance.
        ModelError: for a model whose tokenizer cannot be used.
    """
    return json_constraint(lmm, {"type": "object"})


def regex_constraint(lmm: LMM, pattern: str) -> GrammarConstraint:
    """A constraint for one answer: a text that a regular expression matches from its first to its last character.

    Raises:
        UsageError: for an expression that llguidance does not take (look-around, say), or without llguidance.
        ModelError: for a model whose tokenizer cannot be used.
    """
    return GrammarConstraint(grammar_tokens(lmm), f"start: /{load_llguidance().regex_to_lark(pattern)}/")


def choice_constraint(lmm: LMM, choices: Sequence[str]) -> GrammarConstraint:
    """A constraint for one answer: one of some texts.

    Raises:
        UsageError: without choices, for an empty one, or without llguidance.
        ModelError: for a model whose tokenizer cannot be used.
    """
    if not choices or not all(choices):
        raise UsageError("choices must be texts that are not empty, at least one")
    lines = "\n    | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
    return GrammarConstraint(grammar_tokens(lmm), f"start: {lines}")
