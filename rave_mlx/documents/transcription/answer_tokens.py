"""Which tokens of an answer wrote which characters, and how certain the model was of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rave_mlx.documents.transcription.blocks import Block
from rave_mlx.generation.job import Answer
from rave_mlx.models.lmm import LMM


@dataclass(frozen=True, eq=False)
class AnswerText:
    """The text of an answer and where its tokens end in it.

    Attributes:
        text: of the answer.
        ends: (tokens,) the character behind each token.
        probabilities: (tokens,) of each token.
    """

    text: str
    ends: np.ndarray
    probabilities: np.ndarray

    def certainty(self, start: int, stop: int) -> float | None:
        """The least probability of the tokens that wrote characters [start, stop); None where there are none."""
        first = int(np.searchsorted(self.ends, start, side="right"))
        last = int(np.searchsorted(self.ends, stop, side="left")) + 1
        part = self.probabilities[first:last]
        return float(part.min()) if len(part) else None

    def of_blocks(self, blocks: Sequence[Block]) -> list[Block]:
        """Blocks with the certainty of what they were read from."""
        return [b if b.span is None else replace(b, certainty=self.certainty(*b.span)) for b in blocks]


def answer_text(lmm: LMM, answer: Answer, *, control: bool = False) -> AnswerText:
    """The text of an answer with the place of every token.

    Args:
        lmm: that wrote it.
        answer: with ids and probabilities.
        control: whether control tokens are part of the text, as the tags of DocTags are for some models.
    """
    names = {token.id: content for content, token in lmm.tokenizer.control.items()} if control else {}
    stops = set(lmm.config.tokens.stop)
    stream, text, ends = lmm.tokenizer.stream(), "", []
    for token in answer.ids:
        if token in stops:
            break
        if token in names:
            # What was incomplete before a tag stays so.
            text += stream.finish() + names[token]
            stream = lmm.tokenizer.stream()
        else:
            text += stream.add(token)
        ends.append(len(text))
    text += stream.finish()
    if ends:
        ends[-1] = len(text)
    probabilities = answer.probabilities if answer.probabilities is not None else np.zeros(0)
    return AnswerText(text, np.array(ends, np.int64), np.asarray(probabilities)[: len(ends)])
