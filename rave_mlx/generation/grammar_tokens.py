"""A model's vocabulary as `llguidance` sees it: the bytes of every token, built once a model.

llguidance follows a grammar byte by byte and knows which tokens may come next. For this it needs every token's bytes,
which it reads from the text of a `tokenizer.json`: byte-level vocabularies (Qwen, SmolLM, the built-in model) and
SentencePiece ones with byte fallback (LLaVA, Mistral, Phi-3) alike, with or without a space before the first word.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from rave_mlx.errors import ModelError, UsageError
from rave_mlx.inputs.prompt.tokenizer import Tokenizer
from rave_mlx.models.lmm import LMM

if TYPE_CHECKING:
    from llguidance import LLMatcher, LLTokenizer

_KEPT_GRAMMARS = 32
"""Compiled grammars kept a model: one a schema, of which a run has one or a few."""

_LEXER_FUEL = 5_000_000
"""What llguidance may spend on a grammar before it begins (about two seconds): five times its own limit, for schemas of
2,000 fields."""


def load_llguidance() -> ModuleType:
    """The `llguidance` package.

    Raises:
        UsageError: when it is not installed, with the command that installs it.
    """
    try:
        import llguidance
    except ImportError:
        raise UsageError(
            "answers that follow a schema need llguidance; install it with: pip install 'rave-mlx[extract]'"
        ) from None
    module: ModuleType = llguidance
    return module


class GrammarTokens:
    """The vocabulary of one model for grammars. Made by `grammar_tokens`; shared by all answers.

    Args:
        tokenizer: the model's.
        rows: of the logits; tokens beyond them never come.
        stop: ids that end an answer.

    Raises:
        ModelError: for a tokenizer whose tokens have no known bytes, or a model without a stop token.
        UsageError: without llguidance.
    """

    def __init__(self, tokenizer: Tokenizer, rows: int, stop: Sequence[int]):
        llguidance = load_llguidance()
        self._llguidance = llguidance
        self._lock = threading.Lock()
        self._grammars: OrderedDict[str, tuple[LLMatcher, bool]] = OrderedDict()
        self.rows = rows
        self.stop = tuple(i for i in stop if 0 <= i < rows)
        if not self.stop:
            raise ModelError("the model's stop tokens lie outside its vocabulary; an answer under a schema had no end")
        try:
            self._tokens = self._build(tokenizer.to_json())
        except ValueError as error:
            raise ModelError(
                f"llguidance cannot tell the bytes of this model's tokens ({_first_line(error)}); "
                "its answers cannot be held to a schema"
            ) from None
        control = [token.id for token in tokenizer.control.values() if token.id < rows and token.id not in self.stop]
        self._written = np.ones(rows, np.bool_)
        self._written[control] = False
        self._forces = bool(self._tokens.is_canonical)

    def _build(self, text: str) -> LLTokenizer:
        """The tokenizer of llguidance, with a token for each row of the logits at least."""
        make, stop = self._llguidance.LLTokenizer, list(self.stop)
        try:
            return make(text, n_vocab=self.rows, eos_token=stop, slices=make.json_slices())
        except ValueError as error:
            if "vocab size too small" not in str(error):
                raise
            return make(text, eos_token=stop, slices=make.json_slices())

    def matcher(self, grammar: str) -> tuple[LLMatcher, bool]:
        """A fresh follower of a grammar, and whether tokens may be forced where the grammar leaves no choice of text.

        They may not where the tokenizer writes another text than it is given: SentencePiece a space for U+2581, others
        a composed letter for its parts. llguidance would force tokens of that other text, and then refuse them.

        Args:
            grammar: in llguidance's Lark syntax.

        Raises:
            UsageError: for a grammar that llguidance does not take; its reason is named.
        """
        with self._lock:
            found = self._grammars.pop(grammar, None) or self._compile(grammar)
            self._grammars[grammar] = found
            if len(self._grammars) > _KEPT_GRAMMARS:
                self._grammars.popitem(last=False)
            return found[0].deep_copy(), found[1]

    def _compile(self, grammar: str) -> tuple[LLMatcher, bool]:
        """`matcher`, for the first time."""
        forces = self._forces and self._tokens.decode_str(self._tokens.tokenize_str(grammar)) == grammar
        followed = grammar if forces else f'%llguidance {{"no_forcing": true}}\n{grammar}'
        make = self._llguidance.LLMatcher
        limits = self._llguidance.LLParserLimits(initial_lexer_fuel=_LEXER_FUEL)
        matcher = make(self._tokens, make.grammar_from_lark(followed), log_level=0, limits=limits)
        if matcher.is_error():
            raise UsageError(f"the schema cannot be followed: {_first_line(matcher.get_error())}")
        return matcher, forces

    def allowed(self, matcher: LLMatcher) -> NDArray[np.bool_]:
        """(rows,) marks of the tokens that `matcher` may take next, control tokens apart."""
        bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
        marks = np.unpackbits(bits, count=self.rows, bitorder="little").view(np.bool_)
        return marks & self._written

    def is_text(self, token: int) -> bool:
        """Whether a token may stand in an answer: one that the model has, and no control token but a stop token."""
        return token < self.rows and bool(self._written[token])

    def text(self, ids: Sequence[int]) -> list[bytes]:
        """The bytes that each token adds to an answer; none for stop tokens. A character may be cut between two."""
        stop = set(self.stop)
        return [b"" if i in stop else self._tokens.decode_bytes([i]) for i in ids]


_KNOWN: WeakKeyDictionary[Tokenizer, dict[tuple[int, tuple[int, ...]], GrammarTokens]] = WeakKeyDictionary()
_LOCK = threading.Lock()


def grammar_tokens(lmm: LMM) -> GrammarTokens:
    """The vocabulary of a model for grammars: built at first use (seconds for 150,000 tokens), kept with the tokenizer.

    Raises:
        ModelError: for a tokenizer whose tokens have no known bytes, or a model without a stop token.
        UsageError: without llguidance.
    """
    key = (lmm.config.text.vocab_size, lmm.config.tokens.stop)
    with _LOCK:
        of_tokenizer = _KNOWN.setdefault(lmm.tokenizer, {})
        if key not in of_tokenizer:
            of_tokenizer[key] = GrammarTokens(lmm.tokenizer, *key)
        return of_tokenizer[key]


def check_grammar(grammar: str) -> None:
    """Find out without a model whether llguidance takes a grammar in its Lark syntax.

    Raises:
        UsageError: when it does not, with its reason, or without llguidance.
    """
    llguidance = load_llguidance()
    limits = llguidance.LLParserLimits(initial_lexer_fuel=_LEXER_FUEL)
    matcher = llguidance.LLMatcher
    problem = matcher.validate_grammar(matcher.grammar_from_lark(grammar), limits=limits)
    if problem and not problem.startswith("WARNING"):
        raise UsageError(f"the schema cannot be followed: {_first_line(problem)}")


def _first_line(problem: object) -> str:
    """The first line of one of llguidance's messages."""
    return next((line.strip() for line in str(problem).splitlines() if line.strip()), "no reason given")
