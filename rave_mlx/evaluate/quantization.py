"""How far a quantized model is from its original: in its answers to a few documents, and weight by weight.

`check_cache` says the former of quantized keys and values. Both models read the same prompts: pages that this package
draws (or their text, for a text-only model), each followed by its transcript as the answer, and images that a person
adds, each followed by the original's own answer. Compared are the probabilities of the next token wherever that is
text; what a model would say after a visual token means nothing.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx import backend, synthetic
from rave_mlx.api import load, stream
from rave_mlx.checkpoint.packed import expand
from rave_mlx.convert.open import find, open_model
from rave_mlx.convert.quantize import describe, quantizable
from rave_mlx.errors import ModelError
from rave_mlx.inputs.images.preprocess import ImageSource
from rave_mlx.inputs.prompt.parse_messages import read_messages
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.lmm import LMM

Model = LMM | str | os.PathLike[str]
Weights = dict[str, mx.array]
Messages = list[dict[str, Any]]

PAGES: tuple[tuple[str, int], ...] = (("form", 1), ("receipt", 2), ("table", 3), ("letter", 4))
"""Kinds and seeds of the pages."""
SHOWN = 10
"""Matrices that a report lists."""
_QUESTION = "Read the text."
_ANSWER_TOKENS = 48
_KEPT_VALUES = 1 << 26
"""Logits of the original that are kept in memory, in float32: 256 MB."""
_ROWS = 16
"""Positions whose probabilities are in memory, in float64, at a time."""


@dataclass(frozen=True)
class WeightError:
    """Distance of a weight matrix from the original, relative to the original's norm."""

    module: str
    error: float
    setting: str


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Attributes:
        prompts, positions: how many prompts were read, and tokens of them compared.
        kl_mean, kl_99, kl_max: Kullback-Leibler divergence of the quantized model's next-token probabilities from the
            original's, in nats: mean, 99th percentile, largest.
        agreement: share of positions at which both find the same token the most likely.
        weights: the matrices farthest from the original, worst first.
    """

    prompts: int
    positions: int
    kl_mean: float
    kl_99: float
    kl_max: float
    agreement: float
    weights: tuple[WeightError, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self) | {"weights": [asdict(w) for w in self.weights]}

    def text(self) -> str:
        """A table for people."""
        lines = [
            f"compared with the original at {self.positions:,} tokens of {self.prompts} prompts",
            f"  KL divergence in nats   mean {self.kl_mean:.4f}, 99th percentile {self.kl_99:.4f}, "
            f"largest {self.kl_max:.4f}",
            f"  same most likely token  {100 * self.agreement:.1f} %",
        ]
        if self.weights:
            lines.append("  weights farthest from the original (relative error)")
            width = max(len(w.module) for w in self.weights)
            lines += [f"    {w.module:<{width}}  {w.error:.4f}  {w.setting}" for w in self.weights]
        return "\n".join(lines)


def check(reference: Model, quantized: Model, images: Sequence[ImageSource] = ()) -> Report:
    """Compare a quantized model with its original.

    Models given by folder or Hub id are opened one after the other, so that only one is in memory.

    Args:
        reference: the original.
        quantized: the quantized model.
        images: more documents to read, for models that read images.

    Raises:
        ModelError: when the two do not read the same tokens.
    """
    readings = _read_all(_opened(reference), images)
    report = _compare(readings, _opened(quantized))
    del readings
    weights = tuple(sorted(weight_errors(reference, quantized), key=lambda w: -w.error)[:SHOWN])
    return replace(report, weights=weights)


def check_cache(model: Model, bits: int, images: Sequence[ImageSource] = ()) -> Report:
    """Compare answers with quantized keys and values (`LMM.kv_bits`) with those with whole ones.

    Args:
        model: the model.
        bits: of a number of keys and values, 8 or 4.
        images: more documents to read, for models that read images.

    Raises:
        UsageError: for bits that the model cannot have.
    """
    lmm = _opened(model)
    before = lmm.kv_bits
    try:
        lmm.kv_bits = bits  # before anything is read
        lmm.kv_bits = None
        readings = _read_all(lmm, images)
        lmm.kv_bits = bits
        return _compare(readings, lmm)
    finally:
        lmm.kv_bits = before


@dataclass(frozen=True, eq=False)
class _Reading:
    """A conversation, its prompt, the positions that are compared, and the original's logits (n, vocabulary) there."""

    messages: Messages
    prompt: Prompt
    where: NDArray[np.intp]
    logits: NDArray[np.float32]


def _read_all(original: LMM, images: Sequence[ImageSource]) -> list[_Reading]:
    """What the original says to all prompts."""
    conversations = [*_conversations(original), *_answered(original, images)]
    prompts = [_prompt(original, c) for c in conversations]
    places = _places(prompts, original.config.text.vocab_size)
    return [
        _Reading(messages, prompt, where, _logits(original, prompt, where))
        for messages, prompt, where in zip(conversations, prompts, places, strict=True)
    ]


def _compare(readings: Sequence[_Reading], other: LMM) -> Report:
    """What another model says to the same prompts.

    Raises:
        ModelError: when it does not read the same tokens.
    """
    divergences, same = [], []
    for reading in readings:
        theirs = _prompt(other, reading.messages)
        if not np.array_equal(theirs.ids, reading.prompt.ids):
            raise ModelError("the two models read different tokens; compare a model with what it was quantized from")
        found = _logits(other, theirs, reading.where)
        divergences.append(divergence(reading.logits, found))
        same.append(reading.logits.argmax(-1) == found.argmax(-1))
    kl, agree = np.concatenate(divergences), np.concatenate(same)
    return Report(
        prompts=len(readings),
        positions=kl.size,
        kl_mean=float(kl.mean()),
        kl_99=float(np.percentile(kl, 99)),
        kl_max=float(kl.max()),
        agreement=float(agree.mean()),
    )


def divergence(expected: NDArray[np.float32], found: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL(expected || found) in nats (n,) of next-token logits (n, vocabulary), in float64."""
    values = np.empty(expected.shape[0])
    for first in range(0, expected.shape[0], _ROWS):
        p, q = (_log_softmax(x[first : first + _ROWS].astype(np.float64)) for x in (expected, found))
        values[first : first + _ROWS] = (np.exp(p) * (p - q)).sum(-1)
    return values.clip(0)


def weight_errors(reference: Model, quantized: Model) -> Iterator[WeightError]:
    """The relative error of every quantized matrix, one matrix in memory at a time."""
    original, _ = _weights(reference)
    packed, config = _weights(quantized)
    if config.quantization is None:
        return
    for name in [n for n in packed if n in original]:
        module = name.removesuffix(".weight")
        setting = config.quantization.of(module)
        if setting is None or not quantizable(name, packed[name].shape):
            continue
        parts = {n: packed.pop(n) for p in ("weight", "scales", "biases") if (n := f"{module}.{p}") in packed}
        found = dict(expand(parts, config.quantization))[name]
        expected = original.pop(name)
        if expected.shape != found.shape:
            raise ModelError(f"{name} is {list(found.shape)}, {list(expected.shape)} in the original")
        yield WeightError(module, _relative(found, expected), describe(setting))


def _conversations(lmm: LMM) -> Iterator[Messages]:
    """The pages with their transcripts, as images or as text."""
    for kind, seed in PAGES:
        page = synthetic.make(seed, synthetic.PageConfig(width=448, height=448, kind=kind, scan=False))
        text = "\n".join(page.lines)
        question = _QUESTION if lmm.config.vision else f"Repeat this text.\n\n{text}"
        yield [_user_message(question, page.image if lmm.config.vision else None), _assistant_message(text)]


def _answered(lmm: LMM, images: Iterable[ImageSource]) -> Iterator[Messages]:
    """A person's images, with what the model itself answers."""
    for image in images:
        question = _user_message(_QUESTION, image)
        pieces = stream(lmm, [question], max_tokens=_ANSWER_TOKENS)
        yield [question, _assistant_message("".join(piece.text for piece in pieces))]


def _user_message(question: str, image: ImageSource | None) -> dict[str, Any]:
    parts = [] if image is None else [{"type": "image", "image": image}]
    return {"role": "user", "content": [*parts, {"type": "text", "text": question}]}


def _assistant_message(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "text", "text": text}]}


def _prompt(lmm: LMM, messages: Messages) -> Prompt:
    return lmm.prompt(read_messages(messages, lmm.config.image), add_generation_prompt=False)


def _places(prompts: Sequence[Prompt], vocabulary: int) -> list[NDArray[np.intp]]:
    """Positions whose next token is text, evenly thinned out to what memory may hold."""
    textual = [np.flatnonzero(~p.token_map.visual[1:]) for p in prompts]
    room = max(1, _KEPT_VALUES // vocabulary // len(prompts))
    return [t[np.linspace(0, t.size - 1, min(room, t.size)).astype(int)] for t in textual]


def _logits(lmm: LMM, prompt: Prompt, where: NDArray[np.intp]) -> NDArray[np.float32]:
    """Logits (n, vocabulary) at some positions of a prompt."""
    with backend.row_parallel():
        hidden = lmm.read(prompt, lmm.make_cache(), len(prompt))
        logits = lmm.decoder.logits(hidden[:, mx.array(where)])[0].astype(mx.float32)
        return np.array(logits)


def _opened(model: Model) -> LMM:
    """The model itself, loaded where it is given by name."""
    return model if isinstance(model, LMM) else load(model)


def _weights(model: Model) -> tuple[Weights, Any]:
    """Tensors by canonical name, lazy where the model is given by name, and the configuration."""
    if isinstance(model, LMM):
        return model.named_weights(), model.config
    lmm, tensors = open_model(find(model))
    return tensors, lmm.config


def _relative(found: mx.array, expected: mx.array) -> float:
    """Relative L2 distance, summed up in float32."""
    expected = expected.astype(mx.float32)
    distance, norm = (float(np.asarray(mx.linalg.norm(x))) for x in (found - expected, expected))
    return distance / norm if norm else (math.inf if distance else 0.0)


def _log_softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    x = x - x.max(-1, keepdims=True)
    shifted: NDArray[np.float64] = x - np.log(np.exp(x).sum(-1, keepdims=True))
    return shifted
