"""SentencePiece's BPE of a GGUF file: pairs are merged by the score of what they become, unknown characters are bytes.

The `tokenizers` library merges by rank, so the pairs are listed by score (as transformers does for such vocabularies).
"""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from rave_mlx.convert.gguf.vocabulary import ADVICE, KEY, Kind, Vocabulary, listed
from rave_mlx.errors import ModelError

_SPACE = "\u2581"
"""What stands for a space in a token."""


def sentencepiece(vocabulary: Vocabulary) -> tuple[Tokenizer, bool]:
    """The tokenizer without its control tokens, and whether every text begins with the start token.

    Raises:
        ModelError: for a vocabulary without scores.
    """
    path, tokens = vocabulary.path, vocabulary.tokens
    scores = listed(path, vocabulary.settings, "scores", float)
    if len(scores) != len(tokens):
        raise ModelError(f"{path}: {KEY}tokens and scores differ in length; download it again")
    known = {token: index for index, token in enumerate(tokens)}
    if len(known) != len(tokens):
        raise ModelError(f"{path}: {KEY}tokens holds a token twice; {ADVICE}")
    unknown = vocabulary.id("unknown")
    try:
        model = BPE(
            known,
            _merges(vocabulary, known, scores),
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exception
        raise ModelError(f"{path}: the tokenizer's tokens do not fit ({error})") from None
    tokenizer = Tokenizer(model)
    _set_spaces(tokenizer, vocabulary)
    return tokenizer, vocabulary.starts(True)


def _set_spaces(tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
    """What becomes of spaces, and whether one precedes the first word.

    llama.cpp puts one before every stretch of text between control tokens, as the published tokenizers of Llama 2,
    Mistral 7B v0.1 and Phi-3 do. Mistral's later ones, which have [INST] as a control token, put it before a text
    that begins the prompt, and nowhere else.
    """
    prefix = vocabulary.settings.get(f"{KEY}add_space_prefix", True)
    instruction = vocabulary.find("[INST]")
    if prefix and instruction is not None and vocabulary.kinds[instruction] == Kind.CONTROL:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, prepend_scheme="first", split=False)
    else:
        steps = [normalizers.Prepend(_SPACE)] if prefix else []
        tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", _SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )


def _merges(vocabulary: Vocabulary, known: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """Every way to put a token together from two, the best token first; only what text can consist of takes part."""
    usable = {token: index for token, index in known.items() if vocabulary.kinds[index] in (Kind.NORMAL, Kind.USER)}
    found = []
    for token, index in usable.items():
        cuts = [(token[:at], token[at:]) for at in range(1, len(token))]
        pairs = [(left, right) for left, right in cuts if left in usable and right in usable]
        pairs.sort(key=lambda pair: (usable[pair[0]], usable[pair[1]]))
        found += [(scores[index], left, right) for left, right in pairs]
    # Equal scores: the longer parts first, as transformers has it.
    found.sort(key=lambda item: (item[0], len(item[1]), len(item[2])), reverse=True)
    return [(left, right) for _, left, right in found]
