"""Training with modality-mutual attention (AKI, arXiv 2503.02597) on a model whose own mask is causal.

The rule is the model's where it has that mask (`positions.lookahead_spans`): each image sees the rest of its turn, up
to and including the control token with which the answer begins. AKI has a token for that, <|assistant|>; here it is the
last control token that the chat template writes between a question and its answer, whether the answer is there already
or not (ChatML: the second <|im_start|>). Every image of every turn sees its own turn only. Answers stay closed to
images.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import takewhile

import numpy as np

from rave_mlx.errors import UsageError
from rave_mlx.inputs.prompt.message import Message, Role, TextPart
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.lmm import LMM

_QUESTION, _REPLY = "What is the total of all of these?", "It is the sum of what is written there."


def use_mutual_mask(lmm: LMM) -> None:
    """Give a model the mutual mask, in place; one that has it stays as it is.

    Raises:
        UsageError: when it reads text only, or its chat template begins answers with no control token.
    """
    if lmm.config.mask == "mutual":
        return
    if lmm.config.vision is None:
        raise UsageError("--mask mutual: this model reads text only and has no images that could see a question")
    if lmm.config.mask in ("image", "windows", "whole"):
        raise UsageError(
            f"--mask mutual: the images of this {lmm.config.family} model see themselves and not the question; another "
            "mask is not what it was trained with, choose another base model"
        )
    tokens = replace(lmm.config.tokens, answer=answer_token(lmm))
    lmm.config = replace(lmm.config, mask="mutual", tokens=tokens)


def answer_token(lmm: LMM) -> int:
    """The control token with which the chat template lets answers begin.

    Raises:
        UsageError: when there is none.
    """
    question, reply = (Message(role, (TextPart(text),), plain=True) for role, text in (
        ("user", _QUESTION), ("assistant", _REPLY)
    ))  # fmt: skip
    asked = _between(lmm, lmm.prompt([question]))
    answered = _between(lmm, lmm.prompt([question, reply], add_generation_prompt=False))
    same = [first for first, _ in takewhile(lambda pair: pair[0] == pair[1], zip(asked, answered, strict=False))]
    if not same:
        raise UsageError(
            "--mask mutual: this model's chat template begins an answer with no token of its own, so nothing says how "
            "far an image may see; choose another base model"
        )
    return same[-1]


def _between(lmm: LMM, prompt: Prompt) -> list[int]:
    """The template's control tokens behind the question, up to an answer that may be there."""
    role, ids = prompt.token_map.role, prompt.ids[0].tolist()
    first = int(np.flatnonzero(role == Role.USER)[-1]) + 1
    answer = np.flatnonzero(role == Role.ASSISTANT)
    stop = int(answer[0]) if answer.size else len(ids)
    return [i for i in ids[first:stop] if lmm.tokenizer.token(i) in lmm.tokenizer.control]
