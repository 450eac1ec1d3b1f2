"""The tokens of a GGUF file: their texts, kinds and scores, and which of them mean something."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

from rave_mlx.errors import ModelError

KEY = "tokenizer.ggml."
ADVICE = "convert the original checkpoint instead"
_KNOWN = (
    "model", "pre", "tokens", "token_type", "scores", "merges", "add_bos_token", "add_eos_token", "add_sep_token",
    "add_space_prefix",
)  # fmt: skip
_OFF = ("remove_extra_whitespaces", "precompiled_charsmap", "token_type_count")
"""Changes of the text before it is cut, which the supported tokenizers do not have."""
_ENDS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|eom_id|>", "<end_of_turn>", "<end_of_utterance>",
    "<|endoftext|>", "<|end_of_text|>", "<|endofturn|>", "[EOT]", "[EOS]", "</s>",
)  # fmt: skip
"""Tokens that end an answer by their text, as in llama.cpp (src/llama-vocab.cpp, `special_eog_ids`)."""


class Kind(IntEnum):
    """What a token is, by ggml's number."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """Tokens in the order of their ids.

    Attributes:
        path: of the file, for errors.
        settings: all settings of the file.
        tokens, kinds: what each token is.
    """

    path: Path
    settings: Mapping[str, Any]
    tokens: Sequence[str]
    kinds: Sequence[int]

    @classmethod
    def read(cls, path: Path, settings: Mapping[str, Any]) -> Vocabulary:
        """Raises ModelError for a file without tokens, or with settings of a tokenizer that are not known."""
        tokens = listed(path, settings, "tokens", str)
        kinds = listed(path, settings, "token_type", int)
        if len(kinds) != len(tokens):
            raise ModelError(f"{path}: {KEY}tokens and token_type differ in length; download it again")
        strange = sorted(
            name
            for name, value in settings.items()
            if name.startswith(KEY)
            and (key := name.removeprefix(KEY)) not in _KNOWN
            and not key.endswith(("_token_id", "_token_ids"))
            and not (key in _OFF and not value)
        )
        if strange:
            raise ModelError(f"{path}: settings that are not supported: {', '.join(strange)}; {ADVICE}")
        return cls(path, settings, tokens, kinds)

    def id(self, name: str) -> int | None:
        """The id of a token with a meaning ("bos", "eos", "padding", ...).

        Raises:
            ModelError: for an id that is no token's.
        """
        key = f"{KEY}{name}_token_id"
        index = self.settings.get(key)
        if index is not None and (type(index) is not int or not 0 <= index < len(self.tokens)):
            raise ModelError(f"{self.path}: {key} is {index!r}, which is no token; download it again")
        return index

    def find(self, text: str) -> int | None:
        """The id of a token by its text."""
        return self.tokens.index(text) if text in self.tokens else None

    @property
    def ends(self) -> list[int]:
        """Ids that end an answer. A file that names no end of a turn may have one: it is known by its text."""
        named = [self.id(name) for name in ("eos", "eot", "eom")]
        ends = [index for index in named if index is not None]
        if ends and named[1] is None:
            ends += [i for i, token in enumerate(self.tokens) if token in _ENDS and self.kinds[i] == Kind.CONTROL]
        return list(dict.fromkeys(ends))

    def starts(self, default: bool) -> bool:
        """Whether every text begins with the start token; `default` is what no setting means."""
        value = self.settings.get(f"{KEY}add_bos_token", default)
        return value is True and self.id("bos") is not None


def listed(path: Path, settings: Mapping[str, Any], name: str, kind: type) -> list[Any]:
    """A list of the tokenizer's settings.

    Raises:
        ModelError: when it is missing or holds something else.
    """
    found = settings.get(KEY + name)
    if not isinstance(found, list) or not found:
        raise ModelError(f"{path}: {KEY}{name} is missing; download it again")
    if not all(type(value) is kind for value in found):
        raise ModelError(f"{path}: {KEY}{name} holds something else than it should; download it again")
    return found
