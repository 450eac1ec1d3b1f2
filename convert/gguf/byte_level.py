"""Byte-level BPE of a GGUF file: vocabulary and merges are there, how text is split before merging is only named.

The names are llama.cpp's. What each of them means is written down here from the tokenizers that the models were
published with.
"""

from __future__ import annotations

from dataclasses import dataclass

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from rave_mlx.convert.gguf.vocabulary import ADVICE, KEY, Kind, Vocabulary, listed
from rave_mlx.errors import ModelError

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_SLASH_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST
_TEKKEN = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*|\p{{N}}" + _SLASH_REST
_GPT4O = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_CONTRACTIONS}?|\p{{N}}{{1,3}}" + _SLASH_REST
)


@dataclass(frozen=True)
class Split:
    """How text becomes words.

    Attributes:
        pattern: regular expression of a word; None: GPT-2's, which the byte-level step has built in.
        digits: digits are taken one by one first.
        composed: characters are composed (Unicode NFC) first.
        whole: a word that is in the vocabulary is taken without merging.
        starts: every text begins with the start token, where no setting says otherwise.
    """

    pattern: str | None = None
    digits: bool = False
    composed: bool = False
    whole: bool = False
    starts: bool = False


_LLAMA = Split(_LLAMA3, whole=True, starts=True)
SPLITS = {
    "default": Split(),
    "gpt-2": Split(),
    "phi-2": Split(),
    "smollm": Split(digits=True),
    "llama-bpe": _LLAMA,
    "llama3": _LLAMA,
    "llama-v3": _LLAMA,
    "smaug-bpe": Split(_LLAMA3),
    "dbrx": Split(_LLAMA3),
    "qwen2": Split(_QWEN2, composed=True),
    "deepseek-r1-qwen": Split(_QWEN2, composed=True),
    "tekken": Split(_TEKKEN, whole=True, starts=True),
    "gpt-4o": Split(_GPT4O),
}
"""By llama.cpp's name (tokenizer.ggml.pre). Phi-4 has dbrx or gpt-4o, Mistral's later models tekken."""


def byte_level(vocabulary: Vocabulary) -> tuple[Tokenizer, bool]:
    """The tokenizer without its control tokens, and whether every text begins with the start token.

    Raises:
        ModelError: for a split that is not known, or merges that do not fit.
    """
    path, name = vocabulary.path, vocabulary.settings.get(f"{KEY}pre")
    if name not in SPLITS:
        raise ModelError(f"{path}: {KEY}pre {name!r} is not supported, only {', '.join(SPLITS)}; {ADVICE}")
    split = SPLITS[name]
    merges = [merge.partition(" ")[::2] for merge in listed(path, vocabulary.settings, "merges", str)]
    kinds = vocabulary.kinds
    known = {token: index for index, token in enumerate(vocabulary.tokens) if kinds[index] != Kind.UNUSED}
    if len(known) != len(kinds) - list(kinds).count(Kind.UNUSED):
        raise ModelError(f"{path}: {KEY}tokens holds a token twice; {ADVICE}")
    try:
        model = BPE(known, merges, ignore_merges=split.whole)
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception
        raise ModelError(f"{path}: the tokenizer's merges do not fit its tokens ({error})") from None
    tokenizer = Tokenizer(model)
    if split.composed:
        tokenizer.normalizer = normalizers.NFC()
    words = [] if split.pattern is None else [pre_tokenizers.Split(Regex(split.pattern), "isolated")]
    digits = [pre_tokenizers.Digits(individual_digits=True)] if split.digits else []
    octets = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split.pattern is None)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, *words, octets])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, vocabulary.starts(split.starts)
