"""The tokenizer inside a GGUF file, for the `tokenizers` library.

Vocabulary, merges and kinds of tokens are in the file; how text is split before merging is only named there, and the
names are llama.cpp's. What each of them means is written down here from the tokenizers that the models were published
with. https://github.com/ggml-org/llama.cpp/blob/master/src/llama-vocab.cpp
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from rave_mlx.errors import ModelError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST
SPLITS: dict[str, str | None] = {
    "default": None,
    "gpt-2": None,
    "smollm": None,
    "llama-bpe": _LLAMA3,
    "llama3": _LLAMA3,
    "llama-v3": _LLAMA3,
    "qwen2": _QWEN2,
    "deepseek-r1-qwen": _QWEN2,
}
"""Regular expressions of words by llama.cpp's name; None: GPT-2's, which the byte-level step has built in."""
_DIGITS = ("smollm",)
"""Those that take digits one by one first."""
_WHOLE = ("llama-bpe", "llama3", "llama-v3")
"""Those that take a word that is in the vocabulary without merging."""
_COMPOSED = ("qwen2", "deepseek-r1-qwen")
"""Those that compose characters (Unicode NFC) first."""
_CONTROL, _USER, _UNUSED = 3, 4, 5


def build_tokenizer(metadata: Mapping[str, Any], where: str) -> Tokenizer:
    """The tokenizer that `metadata` of a GGUF file describes.

    Raises:
        ModelError: when it is of a kind that is not supported, or incomplete.
    """
    kind, split = metadata.get("tokenizer.ggml.model"), metadata.get("tokenizer.ggml.pre")
    advice = "convert the original checkpoint instead"
    if kind != "gpt2":
        raise ModelError(f"{where}: tokenizer {kind!r} is not supported, only 'gpt2' (byte-level BPE); {advice}")
    if split not in SPLITS:
        raise ModelError(f"{where}: tokenizer.ggml.pre {split!r} is not supported, only {', '.join(SPLITS)}; {advice}")
    tokens, merges, kinds = (_list(metadata, name, where) for name in ("tokens", "merges", "token_type"))
    if len(kinds) != len(tokens) or not all(isinstance(x, str) for x in (*tokens, *merges)):
        raise ModelError(f"{where}: tokenizer.ggml.tokens, merges and token_type do not fit; download it again")
    vocabulary = {token: index for index, token in enumerate(tokens) if kinds[index] != _UNUSED}
    if len(vocabulary) != len(tokens) - kinds.count(_UNUSED):
        raise ModelError(f"{where}: tokenizer.ggml.tokens holds a token twice; {advice}")
    tokenizer = _assemble(split, vocabulary, [tuple(merge.split(" ", 1)) for merge in merges], where)
    chosen = [(token, kind) for token, kind in zip(tokens, kinds, strict=True) if kind in (_CONTROL, _USER)]
    tokenizer.add_tokens([AddedToken(t, normalized=False, special=False) for t, kind in chosen if kind == _USER])
    tokenizer.add_special_tokens(
        [AddedToken(t, normalized=False, special=True) for t, kind in chosen if kind == _CONTROL]
    )
    return tokenizer


def _list(metadata: Mapping[str, Any], name: str, where: str) -> list[Any]:
    found = metadata.get(f"tokenizer.ggml.{name}")
    if not isinstance(found, list):
        raise ModelError(f"{where}: tokenizer.ggml.{name} is missing; download it again")
    return found


def _assemble(split: str, vocabulary: dict[str, int], merges: list[tuple[str, ...]], where: str) -> Tokenizer:
    try:
        model = BPE(vocabulary, merges, ignore_merges=split in _WHOLE)  # type: ignore[arg-type]  # pairs, checked there
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception
        raise ModelError(f"{where}: the tokenizer's merges do not fit its tokens ({error})") from None
    tokenizer = Tokenizer(model)
    if split in _COMPOSED:
        tokenizer.normalizer = normalizers.NFC()
    pattern = SPLITS[split]
    words = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    digits = [pre_tokenizers.Digits(individual_digits=True)] if split in _DIGITS else []
    octets = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, *words, octets])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer
