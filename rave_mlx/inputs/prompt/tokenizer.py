"""Text to ids and back, on the `tokenizers` library: a rave directory needs its `tokenizer.json` and nothing else.

Control tokens are only ever written by the chat template. What a person types is encoded with control tokens
switched off, so "<|im_end|>" in a question is nine characters of text and not the end of a turn.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tokenizers import AddedToken
from tokenizers import Tokenizer as _Tokenizer
from tokenizers.decoders import DecodeStream

from rave_mlx.config import AddedTokenConfig
from rave_mlx.errors import ModelError, PromptError
from rave_mlx.inputs.prompt.tokenizer_patterns import check_patterns, is_panic


@dataclass(frozen=True)
class ControlToken:
    """A token that steers the model instead of being text.

    Attributes:
        id: its id.
        lstrip, rstrip: whether it swallows the white space before and after it.
    """

    id: int
    lstrip: bool
    rstrip: bool


class Tokenizer:
    """A `tokenizer.json` with the distinction between text and control tokens.

    Args:
        path: the file.
        control: ids that count as control tokens though the file does not mark them as special, as some checkpoints'
            image placeholders.
        added: tokens to add to those of the file, or whose settings replace the file's.

    Raises:
        ModelError: for a file that is no usable tokenizer, or whose regular expressions may not end.
    """

    def __init__(self, path: Path, control: Collection[int] = (), added: Sequence[AddedTokenConfig] = ()):
        try:
            self._core: _Tokenizer = _Tokenizer.from_file(str(path))
        except BaseException as error:  # tokenizers raises bare Exception, or panics, for every kind of bad file
            if not isinstance(error, Exception) and not is_panic(error):
                raise
            raise ModelError(f"{path}: not a usable tokenizer ({error}); download or convert the model again") from None
        check_patterns(self._core, path)
        self._core.add_tokens([AddedToken(**token.to_dict()) for token in added])
        self._core.no_padding()
        self._core.no_truncation()
        self._core.encode_special_tokens = True
        self._path = path
        self._inner = _without_first_space(self._core)
        self.prefix = self._find_prefix()
        self.control = {
            token.content: ControlToken(index, token.lstrip, token.rstrip)
            for index, token in self._core.get_added_tokens_decoder().items()
            if token.special or index in control
        }
        longest_first = sorted(self.control, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)) or r"(?!)")

    def encode(self, text: str, *, first: bool = True) -> tuple[list[int], list[int]]:
        """Ids of `text` with control tokens read as plain text, and the character at which each token starts.

        Args:
            text: any text.
            first: whether it begins the prompt: some tokenizers put a space before the first word of a text, and
                would put one before every stretch between control tokens.

        Raises:
            PromptError: when the tokenizer gives up on the text.
        """
        with self._giving_up():
            encoding = (self._core if first else self._inner).encode(text, add_special_tokens=False)
        return encoding.ids, [start for start, _ in encoding.offsets]

    @contextmanager
    def _giving_up(self) -> Iterator[None]:
        """Turn a panic of the tokenizer's engine into an error of one line."""
        try:
            yield
        except BaseException as error:
            if not is_panic(error):
                raise
            raise PromptError(
                f"{self._path}: the tokenizer gives up on this text ({error}); shorten it, or use another model"
            ) from None

    def _find_prefix(self) -> tuple[int, ...]:
        """Ids that the tokenizer's post-processor puts before every text (a start token), often none."""
        with self._giving_up():
            plain = self._core.encode("a", add_special_tokens=False).ids
            whole = self._core.encode("a", add_special_tokens=True).ids
        starts = (i for i in range(len(whole) - len(plain) + 1) if whole[i : i + len(plain)] == plain)
        return tuple(whole[: next(starts, 0)])

    def find_control(self, text: str) -> Iterator[tuple[int, int, ControlToken]]:
        """Control tokens in template text: (start, stop, token), with the white space they swallow."""
        position = 0
        while match := self._pattern.search(text, position):
            start, stop = match.span()
            token = self.control[match.group()]
            if token.lstrip:
                start = position + len(text[position:start].rstrip())
            if token.rstrip:
                stop += len(text[stop:]) - len(text[stop:].lstrip())
            yield start, stop, token
            position = stop

    def encode_own(self, text: str) -> list[int] | None:
        """Ids of a text that this package wrote itself, in which control tokens count; None where it has none."""
        ids: list[int] = []
        position = 0
        for start, stop, control in self.find_control(text):
            ids += [*self.encode(text[position:start], first=False)[0], control.id]
            position = stop
        return [*ids, *self.encode(text[position:], first=False)[0]] if ids else None

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`, control tokens left out."""
        return self._core.decode(list(ids), skip_special_tokens=True)

    def token(self, index: int | None) -> str | None:
        """The text of one token as the vocabulary writes it; None for an id that there is not."""
        return None if index is None or not 0 <= index < 1 << 32 else self._core.id_to_token(index)

    def to_json(self) -> str:
        """The text of a `tokenizer.json` with what was added to the file."""
        return self._core.to_str()

    def stream(self) -> TextStream:
        """A decoder for ids that arrive one by one."""
        return TextStream(self)


def _without_first_space(core: _Tokenizer) -> _Tokenizer:
    """The tokenizer for text that does not begin a prompt: without Metaspace's space before the first word."""
    # The pre-tokenizer alone is looked at: a whole tokenizer is tens of megabytes of JSON.
    if core.pre_tokenizer is None or b'"first"' not in core.pre_tokenizer.__getstate__():
        return core
    state = json.loads(core.to_str())
    parts = state["pre_tokenizer"]
    spaces = [p for p in (parts, *parts.get("pretokenizers", ())) if p.get("prepend_scheme") == "first"]
    for part in spaces:
        part["prepend_scheme"] = "never"
    inner: _Tokenizer = _Tokenizer.from_str(json.dumps(state))
    inner.encode_special_tokens = True
    return inner


class TextStream:
    """Ids in, whole characters out: a token may end in the middle of a UTF-8 character."""

    def __init__(self, tokenizer: Tokenizer):
        self._tokenizer = tokenizer
        self._stream = DecodeStream(skip_special_tokens=True)
        self._ids: list[int] = []
        self._text = ""

    def add(self, index: int) -> str:
        """The text that `index` completes; empty while a character is incomplete."""
        self._ids.append(index)
        piece = self._stream.step(self._tokenizer._core, index) or ""
        self._text += piece
        return piece

    def finish(self) -> str:
        """What is left: an incomplete character comes out as U+FFFD."""
        whole = self._tokenizer.decode(self._ids)
        return whole[len(self._text) :] if whole.startswith(self._text) else ""
