"""The fields of a request for answers, checked: what would change the answer and is not understood is refused.

Fields that say nothing about the answer are taken and passed over; those of features that are not there are taken with
the value that means "without it".
"""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

HARMLESS = frozenset((
    *("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"),
    *("prediction", "parallel_tool_calls", "cache_prompt", "timeout"),
))  # fmt: skip
"""They concern bookkeeping or speed."""

_MOST = 1 << 31
"""No number of tokens, or answers, is larger; the limits of the server are far below."""
_NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "verbosity": ("medium",),
    "reasoning_effort": ("none",),
    "suffix": ("",),
    "echo": (False,),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "audio": (),
    "web_search_options": (),
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "ignore_eos": (False,),
    "min_tokens": (0,),
}
_REMEDIES = {
    "frequency_penalty": "use repetition_penalty",
    "presence_penalty": "use repetition_penalty",
    "functions": "use tools",
    "function_call": "use tool_choice",
    "continue_final_message": "an assistant's message at the end is gone on with in any case",
}


class StreamOptions(BaseModel):
    """How an answer is streamed."""

    model_config = ConfigDict(strict=True, extra="forbid")
    include_usage: bool | None = None
    include_obfuscation: bool | None = None


class SamplingFields(BaseModel):
    """What chat completions and completions have in common."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = Field(None, description="One of /v1/models; without it the base model.")
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1, le=_MOST)
    temperature: float | None = Field(None, ge=0, le=100, description="0, the default: the most likely token.")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=_MOST)
    min_p: float | None = Field(None, ge=0, le=1)
    repetition_penalty: float | None = Field(None, gt=0, le=100)
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    stop: str | list[str] | None = None
    n: int | None = Field(None, ge=1, le=_MOST)
    attention: str | None = Field(None, max_length=500, description="Attention policy, as of rave-mlx chat.")

    @model_validator(mode="after")
    def _check(self) -> Self:
        check_extra(self)
        if self.stream_options is not None and not self.stream:
            raise ValueError("stream_options go with stream: true")
        if len(self.stops) > 16 or not all(0 < len(stop) <= 1000 for stop in self.stops):
            raise ValueError("stop: at most 16 texts, each of 1 to 1,000 characters")
        return self

    @property
    def stops(self) -> list[str]:
        """The texts that end the answer."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or [])

    @property
    def with_usage(self) -> bool:
        """Whether the stream ends with a chunk of token counts."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)


class JsonSchemaFormat(BaseModel):
    """A schema that the answer has to follow."""

    model_config = ConfigDict(strict=True, extra="forbid")
    name: str | None = None
    description: str | None = None
    json_schema: dict[str, Any] = Field(alias="schema")
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """What the answer has to look like."""

    model_config = ConfigDict(strict=True, extra="forbid")
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaFormat | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError('json_schema goes with type "json_schema", and that needs it')
        return self


class ChatFields(SamplingFields):
    """The body of /v1/chat/completions."""

    messages: list[dict[str, Any]] = Field(
        min_length=1,
        description='{"role", "content"}; images as {"type": "image_url", "image_url": {"url": "data:..."}}',
    )
    max_completion_tokens: int | None = Field(None, ge=1, le=_MOST)
    logprobs: bool | None = None
    top_logprobs: int | None = Field(None, ge=0, le=20)
    response_format: ResponseFormat | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    image_tokens: int | None = Field(None, ge=1, le=_MOST, description="Most visual tokens an image may take.")

    @model_validator(mode="after")
    def _check_chat(self) -> Self:
        if self.top_logprobs and not self.logprobs:
            raise ValueError("top_logprobs goes with logprobs: true")
        both = self.max_tokens, self.max_completion_tokens
        if None not in both and both[0] != both[1]:
            raise ValueError("max_tokens and max_completion_tokens differ; give one of them")
        return self


class CompletionFields(SamplingFields):
    """The body of /v1/completions."""

    prompt: str | list[str] = Field(description="Read as it is, without the chat template.")
    logprobs: int | None = Field(None, ge=0, le=5)
    best_of: int | None = None

    @model_validator(mode="after")
    def _check_completion(self) -> Self:
        if self.best_of not in (None, self.n or 1):
            raise ValueError("best_of is not supported beyond n; leave it out")
        if isinstance(self.prompt, list) and not self.prompt:
            raise ValueError("prompt is empty; give a text, or several")
        return self

    @property
    def prompts(self) -> list[str]:
        """The texts to go on with."""
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt


def check_extra(fields: BaseModel) -> None:
    """Refuse a field that is not known, unless it changes nothing.

    Raises:
        ValueError: naming it.
    """
    for name, value in (fields.model_extra or {}).items():
        if name in HARMLESS or value is None:
            continue
        if name in _NEUTRAL:
            if value not in _NEUTRAL[name]:
                remedy = _REMEDIES.get(name, "leave it out")
                raise ValueError(f"{name} is not supported, and would change the answer; {remedy}")
            continue
        known = [*type(fields).model_fields, *_NEUTRAL]
        near = get_close_matches(name, known, 1, 0.6)
        hint = f"do you mean {near[0]}?" if near else "leave it out"
        raise ValueError(f"there is no field {name[:60]!r}; {hint}")
