"""What a conversion would do, from the headers of the weight files alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx

from rave_mlx import backend
from rave_mlx.checkpoint.directory import is_gate
from rave_mlx.config import LMMConfig, TextConfig
from rave_mlx.convert.card import describe_gate, describe_quantization
from rave_mlx.convert.stored import Stored

CONTEXT = 8192
"""Tokens of the conversation that the memory of a plan is stated for, where the model's context is not shorter."""


@dataclass(frozen=True)
class Plan:
    """A conversion, planned. Sizes are bytes.

    Attributes:
        source, commit: what would be converted.
        config: of the model that would be written.
        parameters: numbers of weights by part: vision, connector, decoder, gate.
        before, after: bytes of weights now and then.
        dtypes: bytes written by type.
        weights: memory for the weights when the model runs on this machine.
        context: tokens that `cache` is for.
        undivided: matrices that stay as they are because the group size does not divide their rows.
        cache: memory of keys, values and gate keys for that many tokens.
    """

    source: str
    commit: str | None
    config: LMMConfig
    parameters: Mapping[str, int]
    before: int
    after: int
    dtypes: Mapping[str, int]
    weights: int
    context: int
    cache: int
    undivided: tuple[str, ...] = ()

    def lines(self) -> Iterator[str]:
        """The plan for a person."""
        text, vision = self.config.text, self.config.vision
        rows = {
            "source": self.source + (f" at {self.commit}" if self.commit else ""),
            "family": self.config.family,
            "text": f"{text.num_layers} layers, width {text.hidden_size}, vocabulary {text.vocab_size:,}, "
            f"context {text.max_positions:,}{_experts(text)}",
            "vision": "none" if vision is None else f"{vision.depth} layers, width {vision.hidden_size}",
            "parameters": f"{sum(self.parameters.values()):,} ("
            + ", ".join(f"{part} {count:,}" for part, count in self.parameters.items())
            + ")",
            "size": f"{gigabytes(self.before)} before, {gigabytes(self.after)} after",
            "types": ", ".join(f"{name} {gigabytes(size)}" for name, size in self.dtypes.items()),
            "quantization": describe_quantization(self.config.quantization),
            "gate": describe_gate(self.config.gate),
            "memory to run": f"{gigabytes(self.weights + self.cache)} here: weights {gigabytes(self.weights)}, "
            f"cache of {self.context:,} tokens {gigabytes(self.cache)}",
        }
        if self.undivided:
            rows["not quantized"] = f"{not_divided(self.undivided)}"
        width = max(map(len, rows))
        return (f"{name:<{width}}  {value}" for name, value in rows.items())


def make_plan(
    stored: Stored,
    config: LMMConfig,
    parameters: Mapping[str, mx.array],
    tensors: Mapping[str, mx.array],
    undivided: tuple[str, ...] = (),
) -> Plan:
    """Plan a conversion; nothing is evaluated.

    Args:
        stored: the model.
        config: of the model that would be written.
        parameters: weights by canonical name, as they are before quantization.
        tensors: what would be written, lazy.
        undivided: see `Plan`.
    """
    context = min(CONTEXT, config.text.max_positions)
    compute = backend.current().dtype
    counts = Counter[str]()
    for name, weight in parameters.items():
        counts["gate" if is_gate(name) else name.partition(".")[0]] += weight.size
    dtypes = Counter[str]()
    for tensor in tensors.values():
        dtypes[str(tensor.dtype).rpartition(".")[2]] += tensor.nbytes
    after = sum(tensor.nbytes for tensor in tensors.values())
    expanded = sum(weight.size for weight in parameters.values()) * 4
    width = _compute_bytes(tensors, compute)
    if config.quantization is not None:
        weights = expanded if backend.expand_quantized(after, expanded) else after
    else:
        weights = sum(weight.size * (4 if is_gate(name) else width) for name, weight in parameters.items())
    return Plan(
        source=stored.name,
        commit=stored.commit,
        config=config,
        parameters=dict(counts),
        before=stored.size,
        after=after,
        dtypes=dict(dtypes.most_common()),
        weights=weights,
        context=context,
        cache=context * _cache_bytes(config, width),
        undivided=undivided,
    )


def _experts(text: TextConfig) -> str:
    """What a plan says of experts."""
    if text.experts is None:
        return ""
    return f", {text.experts.chosen} of {text.experts.count} experts a token"


def not_divided(modules: Sequence[str]) -> str:
    """What a person should know about matrices that could not be packed."""
    names = ", ".join(modules[:10]) + (f" and {len(modules) - 10} more" if len(modules) > 10 else "")
    return f"{len(modules)} matrices whose rows the group size does not divide: {names}"


def gigabytes(size: float) -> str:
    """A size for a person, in powers of ten."""
    return f"{size / 1e9:.2f} GB" if size >= 1e7 else f"{size / 1e6:.2f} MB"


def _compute_bytes(tensors: Mapping[str, mx.array], compute: mx.Dtype | None) -> int:
    """Bytes of a number in computation: the backend's type, or the type that most weights have."""
    if compute is not None:
        return compute.size
    floating = Counter[int]()
    for tensor in tensors.values():
        if mx.issubdtype(tensor.dtype, mx.floating):
            floating[tensor.dtype.size] += tensor.size
    return floating.most_common(1)[0][0] if floating else 2


def _cache_bytes(config: LMMConfig, width: int) -> int:
    """Bytes a token takes in the cache."""
    text, gate = config.text, config.gate
    keys = text.key_numbers * width
    gated = [] if gate is None else [i for i in range(text.num_layers) if config.gates_layer(i)]
    groups = 0 if gate is None else sum(len(gate.groups(text.kv_heads_of(i))) * gate.width for i in gated)
    return 2 * keys + 4 * groups
