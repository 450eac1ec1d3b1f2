"""Tiled crops (`--attention panes`): a page too large to be read whole is read in parts as well. Ours, untrained.

A model that reads a page of 1,600 x 2,200 pixels with 1,000 visual tokens reads a small copy, on which small print is
gone. So it answers from the page and from each of some overlapping panes, cut from the original, that are as large as
the model reads in full: squares first, and where none is sure, strips as wide as what is printed, on which a label and
the value at the other margin stand together. How sure an answer is, is the probability of its least likely token, the
stop token included:

    c = min_t p(y_t | y_1 .. y_{t-1}, image, question)

The image whose answer has the largest c is read instead of the page. Answers that say that nothing was found do not
count: what is asked for is absent from most panes. Panes come in the order in which the page's own answer looked at
them, by the attention of its first token in the last third of the layers; the first few of each shape are read, and the
first answer that is sure ends the search: where what is asked for can be read, two or three readings find it as a rule.

Near to it: ZoomEye (arXiv 2411.16044) searches a tree of crops by the model's confidence that it can answer.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import mlx.core as mx

from rave_mlx.errors import UsageError
from rave_mlx.generation.confidence import TokenConfidence
from rave_mlx.generation.decode import decode
from rave_mlx.generation.encoding import encode_missing
from rave_mlx.generation.prefill import prefill
from rave_mlx.generation.sampling import Sampling
from rave_mlx.inputs.prompt.message import ImagePart, Message
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.rereading.crop_grid import panes, strips
from rave_mlx.policies.rereading.crops import Latest, is_reduced
from rave_mlx.policies.rereading.first_look import FirstLook
from rave_mlx.policies.rereading.policy import RereadingPolicy


@dataclass(frozen=True)
class TiledCrops(RereadingPolicy):
    """Reads, of a large page, the part from which the model answers most surely.

    Attributes:
        most: how many panes of a shape a page is cut into at most; one with more is cut from a smaller copy.
        reads: how many panes of a shape are read at most: those to which the page's answer looked most. All of them
            where a model's attention has no place on the page.
        sure: the certainty from which an answer is taken and nothing more is read, the page's own or a pane's; above
            1: all are read, and the surest answer counts.
        overlap: share of a pane's side that the next one repeats, so that no line is cut in all of them.
        tokens: longest answer that is compared.
        absent: what the model answers where there is nothing to find.
    """

    name: ClassVar[str] = "panes"

    most: int = 16
    reads: int = 3
    sure: float = 0.9
    overlap: float = 0.35
    tokens: int = 64
    absent: str = "not found"

    def __post_init__(self) -> None:
        if self.most < 1 or self.reads < 1 or self.tokens < 1:
            raise UsageError("--attention panes: most, reads and tokens must be at least 1")
        if not 0 <= self.overlap < 1 or self.sure < 0:
            raise UsageError(
                f"--attention panes: overlap {self.overlap:g} must be in [0, 1), sure {self.sure:g} 0 or more"
            )

    def revise(
        self, lmm: LMM, messages: Sequence[Message], gate: bool | None, features: MutableMapping[str, mx.array]
    ) -> list[Message]:
        """The conversation with the pane that answers most surely in place of each reduced image of its latest images.

        Images that are read in their own size stay, and so do those without an original (of a saved conversation). Of
        several images each is decided in turn, the others as they are by then.

        Raises:
            PromptError, MemoryLimitError: where a pane does not fit.
        """
        latest, config = Latest.of(messages), lmm.config.image
        if latest is None or config is None:
            return list(messages)
        current = list(latest.parts)
        for index, part in enumerate(latest.parts):
            original = part.original
            if original is None or not is_reduced(part.patches, config):
                continue

            def ask(image: ImagePart, looks: FirstLook | None = None, index: int = index) -> Answer:
                images = [image if i == index else other for i, other in enumerate(current)]
                read = latest.put(messages, [[each] for each in images])
                return answer(lmm, read, tokens=self.tokens, gate=gate, features=features, looks=looks)

            best, looks = _SurestAnswer(self, part), FirstLook(lmm, latest.first + index)
            best.consider(part, ask(part, looks))
            for cut in (panes, strips):
                found = cut(part, original, config, most=self.most, overlap=self.overlap) if best.in_doubt else []
                found = looks.sort(found, part.patches, original.picture.size)
                for pane in found[: self.reads] if looks.knows_where else found:
                    best.consider(pane.image, ask(pane.image))
                    if not best.in_doubt:
                        break
            current[index] = best.image
        return latest.put(messages, [[image] for image in current])


@dataclass(frozen=True)
class Answer:
    """A greedy answer and the probability of its least likely token."""

    text: str
    certainty: float


class _SurestAnswer:
    """The image whose answer is the surest so far; the page while none has found anything."""

    def __init__(self, policy: TiledCrops, page: ImagePart) -> None:
        self.policy, self.image, self.certainty = policy, page, -1.0

    @property
    def in_doubt(self) -> bool:
        """Whether no answer so far is sure."""
        return self.certainty < self.policy.sure

    def consider(self, image: ImagePart, given: Answer) -> None:
        """Another image's answer."""
        if found_something(given, self.policy) and given.certainty > self.certainty:
            self.image, self.certainty = image, given.certainty


def found_something(given: Answer, policy: TiledCrops) -> bool:
    """Whether an answer says something else than that there is nothing to find."""
    return given.text.strip().lower() not in ("", policy.absent.lower())


def answer(
    lmm: LMM,
    messages: Sequence[Message],
    *,
    tokens: int,
    gate: bool | None,
    features: MutableMapping[str, mx.array],
    looks: FirstLook | None = None,
) -> Answer:
    """Answer greedily, `tokens` at most.

    Args:
        lmm: the model.
        messages: the conversation.
        tokens: limit of the answer's length.
        gate: whether pair gates are used; None: where the model has any that do something.
        features: of images by digest; those of the conversation's images are added.
        looks: told where the answer's first token looked.
    """
    prompt = lmm.prompt(messages)
    encode_missing(lmm, prompt.images, features)
    cache = lmm.make_cache(gate=gate) if looks is None else looks.cache(prompt, gate)
    logits = prefill(lmm, prompt, cache, features=features)
    if looks is not None:
        looks.take(prompt, cache)
    limit = min(tokens, lmm.config.text.max_positions - len(prompt))
    confidence = TokenConfidence()
    written = decode(
        lmm, prompt, cache, logits, Sampling(), max_tokens=limit, processors=[confidence], features=features
    )
    ids = list(written)
    text = ids[:-1] if ids[-1] in lmm.config.tokens.stop else ids
    return Answer(lmm.tokenizer.decode(text), confidence.least(ids))
