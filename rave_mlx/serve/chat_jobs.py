"""From a checked request to jobs of the scheduler; runs in a thread of the engine's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rave_mlx.chat.jobs import make_job
from rave_mlx.errors import PromptError
from rave_mlx.generation.job import Constraint, Job
from rave_mlx.generation.json_constraint import json_constraint, json_object_constraint
from rave_mlx.generation.sampling import Sampling
from rave_mlx.inputs.prompt.chat_template import ChatTemplate
from rave_mlx.inputs.prompt.message import Message, TextPart
from rave_mlx.inputs.prompt.parse_messages import read_messages
from rave_mlx.inputs.prompt.prompt import Prompt, build_prompt
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.parse import steering
from rave_mlx.policies.policy import Steering
from rave_mlx.serve.chat_fields import ChatFields, CompletionFields, ResponseFormat, SamplingFields
from rave_mlx.serve.errors import ApiError
from rave_mlx.serve.settings import Limits
from rave_mlx.serve.shelf import ServedModel
from rave_mlx.serve.token_chances import LikelyTokens
from rave_mlx.serve.tools import call_constraint, check_template, split_calls, with_tools

_PLAIN = ChatTemplate("{% for message in messages %}{{ message['content'] }}{% endfor %}")
_SEEDS = 1 << 63


def chat_jobs(
    served: ServedModel,
    fields: ChatFields,
    messages: Sequence[Mapping[str, Any]],
    tools: Sequence[dict[str, Any]],
    limits: Limits,
) -> list[Job]:
    """The jobs of a chat completion, one a choice.

    Args:
        served: the model.
        fields: of the request.
        messages: with their images as bytes.
        tools: that the answer may call.
        limits: how much is done for a request.

    Raises:
        RaveError, ApiError: for what cannot be read or done.
    """
    lmm, chosen = served.lmm, policy_of(fields.attention)
    asked = fields.max_completion_tokens or fields.max_tokens
    budget = fields.image_tokens
    if budget is not None and budget > limits.image_tokens:
        raise ApiError(400, f"image_tokens is {budget}, at most {limits.image_tokens} are read", param="image_tokens")
    default = lmm.config.attention if chosen is None else chosen
    originals = any(each.originals for each in steering(default).policies)
    split = [split_calls(message, f"messages.{i}") for i, message in enumerate(messages)]
    read = read_messages([rest for rest, _ in split], lmm.config.image, budget, originals=originals)
    calls = [each for _, each in split]
    if tools or any(calls):
        check_template(lmm.template)
        read = with_tools(read, calls, tools)
    must_call = bool(tools) and fields.tool_choice not in (None, "auto")
    jobs = []
    for index in range(fields.n or 1):
        job = make_job(
            lmm,
            read,
            policy=chosen,
            max_tokens=min(asked or limits.max_tokens, limits.max_tokens),
            sampling=sampling_of(fields, index),
            features=served.scheduler.features,
            prefixes=served.scheduler.prefixes,
            constraint=call_constraint(lmm, tools) if must_call else _constraint(lmm, fields.response_format),
            ends_loops=asked is None,
        )
        jobs.append(_watched(job, fields.top_logprobs or 0))
    return jobs


def completion_jobs(served: ServedModel, fields: CompletionFields, limits: Limits) -> list[Job]:
    """The jobs of a completion: for each prompt one a choice.

    Args:
        served: the model.
        fields: of the request.
        limits: how much is done for a request.

    Raises:
        RaveError: for what cannot be read or done.
    """
    lmm = served.lmm
    steer = policy_of(fields.attention) or Steering()
    if steer.policies:
        raise ApiError(400, "attention: a completion has no image to look at; leave it out", param="attention")
    jobs: list[Job] = []
    for text in fields.prompts:
        prompt = _plain_prompt(lmm, text)
        most = min(fields.max_tokens or limits.max_tokens, limits.max_tokens)
        most = min(most, lmm.config.text.max_positions - len(prompt))
        for _ in range(fields.n or 1):
            job = Job(prompt, most, sampling_of(fields, len(jobs)), gate=steer.gate, ends_loops=not fields.max_tokens)
            jobs.append(_watched(job, fields.logprobs or 0))
    return jobs


def sampling_of(fields: SamplingFields, index: int) -> Sampling:
    """How the tokens of a choice are drawn: greedily, unless the request says otherwise.

    Args:
        fields: of the request.
        index: of the choice; each has a seed of its own.
    """
    seed = None if fields.seed is None else (fields.seed + index) % _SEEDS
    return Sampling(
        temperature=fields.temperature or 0.0,
        top_p=1.0 if fields.top_p is None else fields.top_p,
        top_k=max(0, fields.top_k or 0),
        min_p=fields.min_p or 0.0,
        repetition_penalty=1.0 if fields.repetition_penalty is None else fields.repetition_penalty,
        seed=seed,
    )


def policy_of(text: str | None) -> Steering | None:
    """The attention policy that a client names; None for the model's own.

    Raises:
        UsageError: for one that there is not.
        ApiError: for one that reads a file of the server's.
    """
    if text is None:
        return None
    chosen = steering(text)
    for each in chosen.policies:
        if getattr(each, "router", None) is not None:
            raise ApiError(400, f"attention: {each.name} with a file of the server's is not taken", param="attention")
    return chosen


def _constraint(lmm: LMM, wanted: ResponseFormat | None) -> Constraint | None:
    """What holds an answer to a format; a fresh one."""
    if wanted is None or wanted.type == "text":
        return None
    if wanted.json_schema is None:
        return json_object_constraint(lmm)
    return json_constraint(lmm, wanted.json_schema.json_schema)


def _watched(job: Job, likely: int) -> Job:
    """A job that keeps the likeliest tokens of every place, where they are asked for."""
    return replace(job, processors=(*job.processors, LikelyTokens(likely))) if likely else job


def _plain_prompt(lmm: LMM, text: str) -> Prompt:
    """A prompt of a text as it is; control tokens in it are text."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise PromptError("the prompt has half characters (surrogates); send whole ones") from None
    if not text:
        raise PromptError("the prompt is empty; give a text to go on with")
    config = lmm.config
    prompt = build_prompt(
        [Message("user", (TextPart(text),), plain=True)], lmm.tokenizer, _PLAIN, tokens=config.tokens,
        vocab_size=config.text.vocab_size, add_generation_prompt=True,
    )  # fmt: skip
    if len(prompt) >= config.text.max_positions:
        raise PromptError(
            f"the prompt has {len(prompt)} tokens, the model's context is {config.text.max_positions}, answer "
            "included: shorten the text"
        )
    return prompt
