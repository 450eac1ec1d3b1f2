"""Found words (`--attention words`): a second look that reads the whole page as words and finds the answer among them.

A small reader knows letters better than questions: asked for what people call "what do I owe", it often gives the
neighbour of the amount. So the page is read once, line by line, by the reader of lines in the model's folder
(`models/line_reader`) or, where it has none, by the model itself; and a *finder* (`models/finder`, in the model's
folder), an encoder of question and words that knows where each word stands, gives the probability that some words are
the answer, or that it is not there. Where the model is not sure of its own answer, what was found and what it would
write are weighed against each other, token by token (`answer_mixture`): the answer is

    p(y) = t sum_s p(s) r(s) [y = s] + (the rest) P(y)

with t how far the finder is trusted (less where it finds nothing), p(s) its probability of the words s, r(s) the least
probability with which one of them was read, and P the model. A conversation reads each page once.

Near to it: reading a page with OCR and asking a layout-aware encoder (LayoutLM, arXiv 1912.13318).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import ClassVar

from rave_mlx.errors import UsageError
from rave_mlx.generation.logits_processors import LogitsProcessor
from rave_mlx.inputs.prompt.message import ImagePart, Message, TextPart
from rave_mlx.models.finder.config import FOLDER
from rave_mlx.models.finder.finder import Finder, Found, load_finder
from rave_mlx.models.line_reader.reader import load_line_reader
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.rereading.answer_mixture import AnswerMixture, KnownAnswer
from rave_mlx.policies.rereading.auxiliary_pass import AuxiliaryPasses
from rave_mlx.policies.rereading.crops import Latest, is_reduced
from rave_mlx.policies.rereading.policy import RereadingPolicy
from rave_mlx.policies.rereading.read_words import ReadWord, printed_words, read_words

_PAGE_GAP = 3.0
"""Space between two pages that are read as one, in page heights."""


@dataclass(frozen=True)
class FoundWords(RereadingPolicy):
    """Answers with the words of the page that a finder finds, where that is surer than what the model would write.

    Attributes:
        trust: share of the answer's probability that the finder may decide about.
        trust_absent: the same where it finds nothing: what it overlooks the model may know.
        sure: probability of the model's best token up to which it writes alone, unless it begins to say that nothing is
            found, or saw a page in a smaller size than it has.
        absent: what is answered where nothing is found.
    """

    name: ClassVar[str] = "words"

    trust: float = 0.9
    trust_absent: float = 0.7
    sure: float = 0.95
    absent: str = "not found"

    def __post_init__(self) -> None:
        if not (0 < self.trust < 1 and 0 < self.trust_absent < 1):
            given = f"trust {self.trust:g}, trust_absent {self.trust_absent:g}"
            raise UsageError(f"--attention words: {given} must be above 0 and below 1")

    def logits_processor(self, messages: Sequence[Message], passes: AuxiliaryPasses) -> LogitsProcessor | None:
        """Weighs what is found on the pages of the latest message with images against what the model writes."""
        latest, question = Latest.of(messages), _question(messages)
        pictures = () if latest is None else latest.parts
        # Images of a saved conversation have no original: of some of the pages nothing would be known.
        if not pictures or not question or any(part.original is None for part in pictures):
            return None
        finder = _finder_of(passes.lmm)
        tokenizer, config = passes.lmm.tokenizer, passes.lmm.config.image
        reduced = config is not None and any(is_reduced(part.patches, config) for part in pictures)
        return AnswerMixture(
            lambda: self._known(finder, question, pictures, passes),
            sure=2.0 if reduced else self.sure,
            doubted=tokenizer.encode(self.absent, first=False)[0][:1],
        )

    def _known(
        self,
        finder: Finder,
        question: str,
        pictures: Sequence[ImagePart],
        passes: AuxiliaryPasses,
    ) -> list[KnownAnswer]:
        """The answers that the finder finds, with their probabilities."""
        lmm = passes.lmm
        words = _words_of(pictures, finder.config.instruction, passes)
        found = answers_of(finder.find(question, [read.word for read in words]), words, self.absent) if words else []
        tokenizer, stop = lmm.tokenizer, lmm.config.tokens.stop[0]
        return [
            KnownAnswer((*tokenizer.encode(text, first=False)[0], stop), self._trust_in(text) * probability)
            for text, probability in found
        ]

    def _trust_in(self, text: str) -> float:
        return self.trust_absent if text == self.absent else self.trust


def answers_of(found: Found, words: Sequence[ReadWord], absent: str) -> list[tuple[str, float]]:
    """Answers with their probabilities, which sum to 1 at most.

    Args:
        found: what the finder makes of the question.
        words: of the page, as they were given to it.
        absent: the answer where nothing is found.
    """
    kinds = found.kinds
    on_page = kinds["span"] + kinds["absent"]
    out = [(absent, on_page * found.absent), ("yes", kinds["yes"]), ("no", kinds["no"])]
    for span in found.spans:
        read = min(words[number].certainty for number in span.words)
        out.append((span.text, on_page * span.probability * read))
    return out


def _question(messages: Sequence[Message]) -> str:
    """What the user asked last."""
    asked = next((message for message in reversed(messages) if message.role == "user"), None)
    if asked is None or messages[-1].role == "assistant":
        return ""
    return " ".join(part.text for part in asked.parts if isinstance(part, TextPart)).strip()


def _folder_of(lmm: LMM) -> Path | None:
    return None if lmm.path is None else Path(lmm.path) / FOLDER


def _finder_of(lmm: LMM) -> Finder:
    folder = _folder_of(lmm)
    if folder is None or not folder.is_dir():
        raise UsageError(
            f"--attention words: {lmm.path or 'this model'} has no folder {FOLDER!r} with a finder, which the built-in "
            "model has; leave the policy out"
        )
    return load_finder(folder)


def _words_of(pictures: Sequence[ImagePart], instruction: str, passes: AuxiliaryPasses) -> list[ReadWord]:
    """The words of all pictures, one page below the other."""
    folder, out = _folder_of(passes.lmm), list[ReadWord]()
    reader = None if folder is None else load_line_reader(folder)
    offset = 0.0
    for part in pictures:
        assert part.original is not None
        picture = part.original.picture
        digest, gate = hashlib.sha256(picture.tobytes()).hexdigest(), passes.steering.gate
        if reader is not None:
            read = passes.note(f"words {digest} {picture.size} {folder}", partial(printed_words, reader, picture))
        else:
            key = f"words {digest} {picture.size} {gate} {instruction}"
            read = passes.note(key, partial(read_words, passes.lmm, picture, instruction, gate))
        out += [word.moved_down(offset) for word in read]
        offset += picture.height * _PAGE_GAP
    return out
