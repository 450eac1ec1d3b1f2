"""The word pieces of a finder: those of BERT's English vocabulary that pages and questions are made of."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from rave_mlx import synthetic
from rave_mlx.errors import ModelError

FILE = "vocab.txt"
"""Of a published encoder: a piece a line."""
FREQUENT = 18_000
"""BERT's pieces are sorted by how frequent they are; so many are looked at whether the generator has them or not."""
_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
_SIGNS = "€•–—‘’“”…₂£¥°™"
_LATIN = 0x250
"""The first character behind Latin letters."""
_LONGEST_WORD = 60


def read_pieces(folder: Path) -> list[str]:
    """The pieces of a published encoder, by number.

    Raises:
        ModelError: where it has none.
    """
    file = folder / FILE
    if not file.is_file():
        raise ModelError(f"{file}: is missing; --start takes an encoder with {FILE}, a finder's folder, or a run's")
    return file.read_text(encoding="utf-8").rstrip("\n").split("\n")


def generator_words() -> frozenset[str]:
    """Every word, in lower case, of the sources that pages are made from."""
    sources = sorted(Path(next(iter(synthetic.__path__))).rglob("*.py"))
    return frozenset(
        word for file in sources for word in re.findall(r"[a-z]+", file.read_text(encoding="utf-8").lower())
    )


def choose_pieces(pieces: Sequence[str], words: frozenset[str], frequent: int = FREQUENT) -> list[int]:
    """The numbers of the pieces to keep: of Latin letters, and frequent, or a word of the pages, or short.

    Args:
        pieces: by number.
        words: of the pages, in lower case.
        frequent: so many of the first pieces are frequent.
    """
    kept = []
    for number, piece in enumerate(pieces):
        core = piece.removeprefix("##")
        if piece in _SPECIAL:
            kept.append(number)
        elif piece.startswith("[") and len(piece) > 1:
            continue
        elif all(ord(c) < _LATIN or c in _SIGNS for c in core) and (
            number < frequent or core in words or len(core) <= 2
        ):
            kept.append(number)
    return kept


def make_tokenizer(pieces: Sequence[str]) -> Tokenizer:
    """A tokenizer into word pieces, as BERT's for text without regard to case and accents."""
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    model = models.WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=_LONGEST_WORD)
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer
