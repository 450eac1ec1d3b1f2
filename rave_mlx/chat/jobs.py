"""From chat messages to a job: what a session does for one question, for the scheduler to write the answer."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any, cast

import mlx.core as mx

from rave_mlx.errors import UsageError
from rave_mlx.generation.job import Job
from rave_mlx.generation.prefix_store import PrefixStore
from rave_mlx.generation.sampling import Sampling
from rave_mlx.generation.turns import COMPUTING
from rave_mlx.inputs.prompt.message import Message, latest_turn
from rave_mlx.inputs.prompt.parse_messages import read_messages
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.parse import steering
from rave_mlx.policies.policy import Attention
from rave_mlx.policies.rereading.auxiliary_pass import AuxiliaryPasses
from rave_mlx.policies.rereading.policy import RereadingPolicy
from rave_mlx.policies.runtime import attach


def make_job(
    lmm: LMM,
    messages: Sequence[Mapping[str, Any]] | Sequence[Message],
    *,
    policy: Attention = None,
    max_tokens: int = 256,
    image_tokens: int | None = None,
    sampling: Sampling | None = None,
    features: MutableMapping[str, mx.array] | None = None,
    prefixes: PrefixStore | None = None,
    **rest: Any,
) -> Job:
    """The job of answering a conversation once, as `Session` would.

    Args:
        lmm: the model.
        messages: as in `LMM.prepare`, or already read: an image that is read once can stand in many jobs.
        policy: attention policy, as of `Session`.
        max_tokens: limit of the answer's length; the context may set a lower one.
        image_tokens: budget of visual tokens an image, for messages that are not read yet; None for the default.
        sampling: how tokens are drawn.
        features: of images by digest, to which those that a policy computes are added (`Scheduler.features`).
        prefixes: where policies that read a page in other ways as well find what others have read
            (`Scheduler.prefixes`); None: nowhere.
        rest: further fields of `Job`: constraint, drafts, ends_loops, key.

    Raises:
        UsageError: for a policy that does not exist, or that the model cannot take; for a limit below 1.
        ImageError, PromptError: for messages that cannot be read.
        MemoryLimitError: where a policy reads a part of a page that does not fit.
    """
    if max_tokens < 1:
        raise UsageError(f"max_tokens is {max_tokens}; an answer has at least 1")
    chosen = steering(lmm.config.attention if policy is None else policy)
    for each in chosen.policies:
        each.check(lmm.config)
    known = {} if features is None else features
    originals = any(each.originals for each in chosen.policies)
    read = _read(lmm, messages, image_tokens, originals=originals)
    revised = latest_turn(read) if lmm.config.turns == "last" else read
    rereading = [each for each in chosen.policies if isinstance(each, RereadingPolicy)]
    for each in rereading:
        if each.has("revise"):  # which lets the model answer
            with COMPUTING:
                revised = each.revise(lmm, revised, chosen.gate, known)
    prompt = lmm.prompt(revised)
    passes = AuxiliaryPasses(lmm, chosen, known, prefixes=prefixes)
    processors = [each.logits_processor(revised, passes) for each in rereading]
    steers = chosen.touches_layers(len(lmm.config.text.attention_layers))
    return Job(
        prompt,
        max_tokens=min(max_tokens, lmm.config.text.max_positions - len(prompt)),
        sampling=sampling or Sampling(),
        processors=tuple(each for each in processors if each is not None),
        hooks=(lambda: attach(lmm, chosen.policies)) if steers else None,
        gate=chosen.gate,
        **rest,
    )


def _read(
    lmm: LMM,
    messages: Sequence[Mapping[str, Any]] | Sequence[Message],
    image_tokens: int | None,
    *,
    originals: bool,
) -> list[Message]:
    """The messages with their images cut, where they are not yet."""
    known = [message for message in messages if isinstance(message, Message)]
    if known and len(known) == len(messages):
        return known
    given = cast(Sequence[Mapping[str, Any]], messages)
    return read_messages(given, lmm.config.image, image_tokens, originals=originals)
