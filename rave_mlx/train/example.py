"""A conversation as the model reads it, and which of its tokens it is trained to write.

Those are every assistant turn's text and the token that ends it, never images, questions, padding or anything else that
the chat template writes. Which tokens they are is not searched for in the rendered text: the prompt's token map knows
whose every token is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rave_mlx.errors import PromptError
from rave_mlx.inputs.prompt.message import Message, Role, TextPart
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.lmm import LMM


@dataclass(frozen=True, eq=False)
class Example:
    """One conversation.

    Attributes:
        prompt: all of it, answers included.
        loss_mask: (L,) marks of the tokens that are targets.
        where: the row it comes from, for messages ("train.jsonl, line 3").
    """

    prompt: Prompt
    loss_mask: NDArray[np.bool_]
    where: str

    def __len__(self) -> int:
        return len(self.prompt)


def make_example(lmm: LMM, messages: Sequence[Message], where: str) -> Example:
    """The example of a conversation with answers.

    White space around answers is left away: it would stand between an answer and the token that ends it.

    Raises:
        PromptError: when the model or its chat template cannot take the conversation.
    """
    messages = [answer_of(message) if message.role == "assistant" else message for message in messages]
    prompt = lmm.prompt(messages, add_generation_prompt=False)
    mask = loss_mask(lmm, messages, prompt)
    if _sees_answers(prompt, mask):
        raise PromptError("under the mutual mask an image would see an answer; the chat template cannot be trained so")
    return Example(prompt, mask, where)


def _sees_answers(prompt: Prompt, mask: NDArray[np.bool_]) -> bool:
    """Whether a token sees a later one that the model is trained to write."""
    lookahead = prompt.token_map.lookahead
    if lookahead is None:
        return False
    before = np.concatenate([[0], np.cumsum(mask)])
    return bool((before[lookahead[1]] > before[lookahead[0]]).any())


def answer_of(message: Message) -> Message:
    """An assistant's message as one text without white space around it."""
    text = "".join(part.text for part in message.parts if isinstance(part, TextPart)).strip()
    return Message(message.role, (TextPart(text),), message.plain)


def loss_mask(lmm: LMM, messages: Sequence[Message], prompt: Prompt) -> NDArray[np.bool_]:
    """(L,) marks of the tokens that `messages`' assistant turns have in their prompt."""
    tokens, ids = prompt.token_map, prompt.ids[0]
    mask: NDArray[np.bool_] = tokens.role == Role.ASSISTANT
    for index, message in enumerate(messages):
        if message.role != "assistant":
            continue
        span = _answer(lmm, messages, index, prompt)
        if span is None:
            continue
        start, stop = span
        mask[start:stop] = True
        if stop < len(ids) and tokens.role[stop] == Role.TEMPLATE and int(ids[stop]) in lmm.config.tokens.stop:
            mask[stop] = True
    mask[:1] = False  # nothing comes before the first token that it could be predicted from
    return mask


def _answer(lmm: LMM, messages: Sequence[Message], index: int, prompt: Prompt) -> tuple[int, int] | None:
    """First and end of the tokens of one answer; None when no token holds any of it.

    A tokenizer may put the space before an answer and its first word into one token (`Assistant: Yes`). The map gives
    such a token to the template, where it begins; but it is what the model has to write.
    """
    tokens, ids = prompt.token_map, prompt.ids[0]
    own = np.flatnonzero(tokens.message == index)
    text = "".join(part.text for part in messages[index].parts if isinstance(part, TextPart))
    if own.size:
        start, stop = int(own[0]), int(own[-1]) + 1
        if _says(lmm, ids[start:stop], text) or not _free(lmm, prompt, start - 1):
            return start, stop
        return (start - 1, stop) if _says(lmm, ids[start - 1 : stop], text) else (start, stop)
    before, after = (np.flatnonzero((tokens.message >= 0) & side) for side in (
        tokens.message < index, tokens.message > index
    ))  # fmt: skip
    first = int(before[-1]) + 1 if before.size else 0
    last = int(after[0]) if after.size else len(ids)
    found = [i for i in range(first, last) if _free(lmm, prompt, i) and _says(lmm, ids[i : i + 1], text)]
    return (found[-1], found[-1] + 1) if found else None


def _says(lmm: LMM, ids: NDArray[np.int32], text: str) -> bool:
    return lmm.tokenizer.decode(ids.tolist()).strip() == text


def _free(lmm: LMM, prompt: Prompt, index: int) -> bool:
    """Whether a token is the template's own text: no control token, no image."""
    if index < 0 or prompt.token_map.role[index] != Role.TEMPLATE:
        return False
    return lmm.tokenizer.token(int(prompt.ids[0, index])) not in lmm.tokenizer.control
