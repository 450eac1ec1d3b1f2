"""How alike two longer texts are: BLEU, METEOR, shared words and edit distance, as OCRBench v2 takes their mean."""

from __future__ import annotations

import re
import warnings
from functools import cache
from typing import Any

from rave_mlx.errors import UsageError
from rave_mlx.evaluate.metrics import edit_distance
from rave_mlx.evaluate.scores.tables import missing

_CHINESE = re.compile("[\u4e00-\u9fa5]")


def text_similarity(answer: str, truth: str) -> float:
    """The mean of BLEU, METEOR, F1 of the sets of words, and 1 minus the edit distance by the longer text.

    Args:
        answer: a text.
        truth: the right one, not empty. Where either has Chinese characters, jieba tells the words apart.

    Raises:
        UsageError: without the `evaluate` extra, or without WordNet, which METEOR takes synonyms from.
    """
    meteor, bleu = check_packages()
    said, true = _words(answer, truth)
    with warnings.catch_warnings():
        # Texts without any four words in common: BLEU is 0, which is what is wanted.
        warnings.simplefilter("ignore")
        figures = [float(bleu([true], said)), float(meteor([true], said))]
    shared = len(set(said) & set(true))
    figures.append(2 * shared / (len(set(said)) + len(set(true))) if said and true else 0.0)
    figures.append(1 - edit_distance(answer, truth) / max(len(answer), len(truth)))
    return sum(figures) / len(figures)


@cache
def check_packages() -> tuple[Any, Any]:
    """METEOR and BLEU of nltk.

    Raises:
        UsageError: where they or the WordNet that they need are not there.
    """
    try:
        from nltk.corpus import wordnet
        from nltk.translate import bleu
        from nltk.translate.meteor_score import meteor_score
    except ImportError:
        raise missing("nltk") from None
    try:
        wordnet.ensure_loaded()
    except LookupError:
        raise UsageError(
            "this benchmark's measure needs WordNet for METEOR: python -m nltk.downloader wordnet"
        ) from None
    return meteor_score, bleu


def _words(answer: str, truth: str) -> tuple[list[str], list[str]]:
    if not _CHINESE.search(truth) and not _CHINESE.search(answer):
        return answer.split(), truth.split()
    try:
        import jieba
    except ImportError:
        raise missing("jieba") from None
    return jieba.lcut(answer), jieba.lcut(truth)
