"""The package's main functions; `import rave_mlx` offers them by name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, cast, overload

import mlx.core as mx

from rave_mlx import backend
from rave_mlx.chat.jobs import make_job
from rave_mlx.chat.session import Session
from rave_mlx.checkpoint import build
from rave_mlx.checkpoint.adapters import put_on
from rave_mlx.convert.adapters import open_adapter
from rave_mlx.convert.open import MODEL_VARIABLE, find, open_model
from rave_mlx.errors import RaveError, UsageError
from rave_mlx.generation.decode import Piece
from rave_mlx.generation.job import Failed, Job
from rave_mlx.generation.page_store import PageStore
from rave_mlx.generation.sampling import Sampling
from rave_mlx.generation.scheduler import Scheduler
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.policy import Attention

__all__ = ["MODEL_VARIABLE", "load"]


def load(
    path_or_hub_id: str | os.PathLike[str] | None = None,
    *,
    dtype: str | mx.Dtype | None = None,
    adapter: str | os.PathLike[str] | None = None,
    revision: str | None = None,
    mmproj: str | os.PathLike[str] | None = None,
    kv_bits: int | None = None,
) -> LMM:
    """Open a model for inference or training.

    Args:
        path_or_hub_id: a rave directory, a checkpoint directory in the Hub's layout, or a Hub id
            ("owner/name"). None: $RAVE_MLX_MODEL, and without it the built-in model.
        dtype: compute type, "float32", "float16" or "bfloat16". None: float32 on a CPU, else the checkpoint's own.
        adapter: directory of an adapter to put on the model: rave-mlx's own, PEFT's or mlx-lm's.
        revision: branch, tag or commit of a Hub id.
        mmproj: the vision tower of a GGUF model (llama.cpp's second file); None takes the only one beside it.
        kv_bits: keep keys and values in 8 or 4 bits a number; None keeps them whole.

    Raises:
        UsageError: for `kv_bits` that the model cannot have.
        ModelError: when there is no such model, or it is incomplete or not supported, or the adapter is another's.
        MemoryLimitError: when it does not fit into memory.
    """
    backend.prepare()
    folder = find(path_or_hub_id, revision)
    lmm, tensors = open_model(folder, None if mmproj is None else Path(mmproj))
    lmm.kv_bits = kv_bits
    build.fill(lmm, tensors, build.read_dtype(dtype), str(folder))
    if adapter is None:
        return lmm
    config, weights = open_adapter(adapter, folder)
    return put_on(lmm, config, weights, Path(adapter))


def stream(
    lmm: LMM,
    messages: Sequence[Mapping[str, Any]],
    *,
    max_tokens: int = 256,
    image_tokens: int | None = None,
    policy: Attention = None,
    page_cache: bool = False,
    **sampling: Any,
) -> Iterator[Piece]:
    """Answer a conversation once, piece by piece.

    Args:
        lmm: the model, as of `load`.
        messages: as in `LMM.prepare`.
        max_tokens: limit of the answer's length.
        image_tokens: budget of visual tokens an image; None for the default.
        policy: attention policy, as of `Session`.
        page_cache: whether what is read of pages is kept on disk, and found again by the next process.
        sampling: fields of `Sampling`: temperature, top_p, top_k, min_p, repetition_penalty, repetition_window, seed.

    Raises:
        UsageError: for an option that does not exist or has no valid value.
        ImageError, PromptError: for messages that cannot be read.
        MemoryLimitError: for a prompt that does not fit.
        ModelError: when the model computes no numbers.
    """
    chosen = _sampling(lmm, sampling)
    pages = PageStore.open(lmm) if page_cache else None
    session = Session(
        lmm, policy=policy, max_tokens=max_tokens, image_tokens=image_tokens, sampling=chosen, pages=pages
    )
    return session.answer(messages)


@overload
def generate(lmm: LMM, messages: Sequence[Mapping[str, Any]], **options: Any) -> str: ...
@overload
def generate(lmm: LMM, messages: Sequence[Sequence[Mapping[str, Any]]], **options: Any) -> list[str]: ...
def generate(
    lmm: LMM, messages: Sequence[Mapping[str, Any]] | Sequence[Sequence[Mapping[str, Any]]], **options: Any
) -> str | list[str]:
    """Answer a conversation once: the whole text of `stream`, which has the arguments and the errors.

    A list of conversations gives the list of their answers. They are written together, which takes less time than one
    after the other, and are what they would be by themselves.
    """
    if messages and not any(isinstance(each, Mapping) for each in messages):
        return _generate_all(lmm, cast(Sequence[Sequence[Mapping[str, Any]]], messages), **options)
    return "".join(piece.text for piece in stream(lmm, cast(Sequence[Mapping[str, Any]], messages), **options))


def _generate_all(
    lmm: LMM,
    conversations: Sequence[Sequence[Mapping[str, Any]]],
    *,
    max_tokens: int = 256,
    image_tokens: int | None = None,
    policy: Attention = None,
    page_cache: bool = False,
    **sampling: Any,
) -> list[str]:
    """The answers to conversations; the first error of one ends it, and says which one it was."""
    chosen = _sampling(lmm, sampling)
    scheduler = Scheduler(lmm, pages=PageStore.open(lmm) if page_cache else None)

    def job(number: int, messages: Sequence[Mapping[str, Any]]) -> Job | Failed:
        try:
            return make_job(
                lmm,
                messages,
                policy=policy,
                max_tokens=max_tokens,
                image_tokens=image_tokens,
                sampling=chosen,
                features=scheduler.features,
                prefixes=scheduler.prefixes,
                key=number,
                ends_loops=False,
            )
        except RaveError as error:
            return Failed(error, number)

    texts = []
    for answer in scheduler.run(job(number, messages) for number, messages in enumerate(conversations, 1)):
        if answer.error is not None:
            raise type(answer.error)(f"conversation {answer.key}: {answer.error}") from answer.error
        texts.append(answer.text)
    return texts


def _sampling(lmm: LMM, options: Mapping[str, Any]) -> Sampling:
    """How tokens are drawn, from options by name, once the model is one."""
    if not isinstance(lmm, LMM):
        raise UsageError(f"the model is a {type(lmm).__name__}; open one with rave_mlx.load(...) first")
    known = [field.name for field in fields(Sampling)]
    for name in options:
        if name not in known:
            there = ["max_tokens", "image_tokens", "policy", "page_cache", *known]
            near = get_close_matches(name, there, 1, 0.5)
            hint = f"do you mean {near[0]}?" if near else f"there are {', '.join(there)}"
            raise UsageError(f"there is no option {name!r}: {hint}")
    return Sampling(**options)
