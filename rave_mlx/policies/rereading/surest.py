"""What `attention.policies.panes` does with a conversation: answer from many images, keep the surest."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from dataclasses import dataclass

import mlx.core as mx

from rave_mlx.generation.confidence import Watched
from rave_mlx.generation.decode import decode, encode, prefill
from rave_mlx.generation.sampling import Sampling
from rave_mlx.inputs.prompt.message import ImagePart, Message
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.rereading.crop_grid import panes, strips
from rave_mlx.policies.rereading.crops import Latest, is_reduced
from rave_mlx.policies.rereading.tiled_crops import Panes


@dataclass(frozen=True)
class Answer:
    """A greedy answer and the probability of its least likely token."""

    text: str
    certainty: float


class Best:
    """The image whose answer is the surest so far; the page while none has found anything."""

    def __init__(self, policy: Panes, page: ImagePart) -> None:
        self.policy, self.image, self.certainty = policy, page, -1.0

    def hear(self, image: ImagePart, given: Answer) -> None:
        """Another image's answer."""
        if counts(given, self.policy) and given.certainty > self.certainty:
            self.image, self.certainty = image, given.certainty


def surest(
    policy: Panes,
    lmm: LMM,
    messages: Sequence[Message],
    gate: bool | None,
    features: MutableMapping[str, mx.array],
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
    shown = list(latest.parts)
    for index, part in enumerate(latest.parts):
        original = part.original
        if original is None or not is_reduced(part.patches, config):
            continue

        def ask(image: ImagePart, index: int = index) -> Answer:
            images = [image if i == index else other for i, other in enumerate(shown)]
            read = latest.put(messages, [[each] for each in images])
            return answer(lmm, read, tokens=policy.tokens, gate=gate, features=features)

        best = Best(policy, part)
        best.hear(part, ask(part))
        for cut in (panes, strips):
            if best.certainty >= policy.sure:
                break
            for pane in cut(part, original, config, most=policy.most, overlap=policy.overlap):
                best.hear(pane, ask(pane))
        shown[index] = best.image
    return latest.put(messages, [[image] for image in shown])


def counts(given: Answer, policy: Panes) -> bool:
    """Whether an answer says something else than that there is nothing to find."""
    return given.text.strip().lower() not in ("", policy.absent.lower())


def answer(
    lmm: LMM,
    messages: Sequence[Message],
    *,
    tokens: int,
    gate: bool | None,
    features: MutableMapping[str, mx.array],
) -> Answer:
    """Answer greedily, `tokens` at most.

    Args:
        lmm: the model.
        messages: the conversation.
        tokens: limit of the answer's length.
        gate: whether pair gates are used; None: where the model has any that do something.
        features: of images by digest; those of the conversation's images are added.
    """
    prompt = lmm.prompt(messages)
    for image in prompt.images:
        if image.digest not in features:
            features[image.digest] = encode(lmm, image)
    cache = lmm.make_cache(gate=gate)
    logits = prefill(lmm, prompt, cache, features=features)
    limit = min(tokens, lmm.config.text.max_positions - len(prompt))
    watched = Watched.of(Sampling())
    ids = list(decode(lmm, prompt, cache, logits, watched, max_tokens=limit, features=features))
    said = ids[:-1] if ids[-1] in lmm.config.tokens.stop else ids
    return Answer(lmm.tokenizer.decode(said), watched.certainty(len(ids)))
