"""The tokenizer inside a GGUF file, for the `tokenizers` library.

Two kinds are read: byte-level BPE ("gpt2"), and SentencePiece's BPE ("llama"), whose merges follow from the scores of
its tokens. https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing

from rave_mlx.convert.gguf.byte_level import byte_level
from rave_mlx.convert.gguf.sentencepiece import sentencepiece
from rave_mlx.convert.gguf.vocabulary import ADVICE, KEY, Kind, Vocabulary
from rave_mlx.errors import ModelError

_BUILDERS = {"gpt2": byte_level, "llama": sentencepiece}
_PHI = ("phi-3", "phi3")
"""Parts of the names of models whose control tokens swallow the white space after them, but for these tokens."""
_PHI_PLAIN = ("<unk>", "<s>", "<|endoftext|>")


def build_tokenizer(path: Path, settings: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that the settings of a GGUF file describe.

    Raises:
        ModelError: when it is of a kind that is not supported, or incomplete.
    """
    kind = settings.get(f"{KEY}model")
    if kind not in _BUILDERS:
        raise ModelError(
            f"{path}: tokenizer {kind!r} is not supported, only 'gpt2' (byte-level BPE) and 'llama' (SentencePiece); "
            f"{ADVICE}"
        )
    vocabulary = Vocabulary.read(path, settings)
    tokenizer, starts = _BUILDERS[kind](vocabulary)
    strip = _strips(settings)
    added = [
        AddedToken(
            token,
            normalized=False,
            special=vocabulary.kinds[index] != Kind.USER,
            rstrip=strip and vocabulary.kinds[index] == Kind.CONTROL and token not in _PHI_PLAIN,
        )
        for index, token in enumerate(vocabulary.tokens)
        if vocabulary.kinds[index] in (Kind.CONTROL, Kind.USER) and token
    ]
    tokenizer.add_tokens([token for token in added if not token.special])
    tokenizer.add_special_tokens([token for token in added if token.special])
    start = vocabulary.id("bos")
    if starts and start is not None:
        name = vocabulary.tokens[start]
        tokenizer.post_processor = TemplateProcessing(
            single=[name, "$A"], pair=[name, "$A", name, "$B"], special_tokens=[(name, start)]
        )
    return tokenizer


def _strips(settings: Mapping[str, Any]) -> bool:
    """As in llama.cpp, which knows it from nothing but the model's name (`LLAMA_TOKEN_ATTR_RSTRIP`)."""
    name = settings.get("general.name")
    return isinstance(name, str) and any(part in name.lower() for part in _PHI)
