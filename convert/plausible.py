"""Sizes in a config.json that the weight files cannot fill are refused before anything of that size is made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

from rave_mlx.config import LMMConfig
from rave_mlx.config.part import Part
from rave_mlx.convert.source import Source
from rave_mlx.errors import ConfigError

_LAYERS = {"depth", "num_layers", "num_hidden_layers"}
_LARGEST = 2**31 - 1
_NOT_SIZES = {"max_positions", "sliding_window", "window_size", "feature_layers", "full_attention_layers"}
"""Numbers that shape no tensor and no module."""
_PACKING = 16
"""Weights in the bytes of one tensor element, at most: two-bit ones in 32-bit words."""


def check_layers(source: Source) -> None:
    """Compare the layers that config.json claims, in all its sections, with the number of tensors.

    Before anything else: settings of one value a layer are spelled out while it is read.

    Raises:
        ConfigError: naming the number.
    """
    count = len(source.tensors)
    sections = [source.config]
    while sections:
        section = sections.pop()
        for name, value in section.items():
            if isinstance(value, dict):
                sections.append(value)
            elif name in _LAYERS and isinstance(value, int) and not 0 <= value <= count:
                where = source.path / "config.json"
                raise ConfigError(f"{where}: {name} is {value}; the weight files have {count} tensors")


def check_plausible(config: LMMConfig, source: Source) -> None:
    """Compare the sizes of a canonical configuration with the tensors at hand.

    Raises:
        ConfigError: naming the number, and what the weight files allow.
    """
    where = source.path / "config.json"
    sizes = [math.prod(tensor.shape) for tensor in source.tensors.values()]
    weights, count = sum(sizes) * _PACKING, len(sizes)
    for name, value in _sizes(config):
        field = name.rpartition(".")[2]
        if field in _NOT_SIZES:
            most, why = _LARGEST, ""
        elif field in _LAYERS:
            most, why = count, f": the weight files have {count} tensors"
        else:
            most, why = weights, f": the weight files have room for {weights} weights"
        if not 0 <= value <= most:
            raise ConfigError(f"{where}: {name} is {value}; it must be from 0 to {most}{why}")
    vocabulary, image = config.text.vocab_size, config.tokens.image
    if image is not None and not 0 <= image < vocabulary:
        raise ConfigError(f"{where}: the image token {image} is outside the vocabulary of {vocabulary}")


def unused_stops(config: LMMConfig, source: Source) -> list[str]:
    """A warning about stop tokens outside the vocabulary. They never come: transformers takes such models too."""
    outside = [str(i) for i in config.tokens.stop if not 0 <= i < config.text.vocab_size]
    if not outside:
        return []
    only = ", and there is no other: answers end at their longest" if len(outside) == len(config.tokens.stop) else ""
    return [
        f"warning: {source.path}: the stop token {', '.join(outside)} is outside the vocabulary of "
        f"{config.text.vocab_size}{only}"
    ]


def _sizes(config: LMMConfig) -> Iterator[tuple[str, int]]:
    """(name, value) of every number that some tensor must be as large as."""
    for part, section in (
        ("vision", config.vision),
        ("vision.patches", getattr(config.vision, "patches", None)),
        ("connector", config.connector),
        ("text", config.text),
        ("text.experts", config.text.experts),
        ("gate", config.gate),
        ("sink_gate", config.sink_gate),
    ):
        if isinstance(section, Part):
            for field in dataclasses.fields(section):
                value = getattr(section, field.name)
                if type(value) is int:
                    yield f"{part}.{field.name}", value
    text, vision = config.text, config.vision
    yield "text.num_heads * text.head_dim", text.num_heads * text.head_dim
    yield "text.num_kv_heads * text.head_dim", text.num_kv_heads * text.head_dim
    if config.gate is not None:
        yield "the size of a gate", config.gate.rank * text.num_heads * text.head_dim
    if vision is not None and vision.kind == "native":
        pixels = vision.channels * vision.temporal_patch_size * vision.patch_size**2
        yield "the pixels of a patch of vision", pixels
