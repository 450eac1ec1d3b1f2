"""Shape of a finder, and the classes that it sorts questions into."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from rave_mlx.errors import ConfigError

FOLDER = "finder"
"""Folder of a model directory that holds its finder."""
SETTINGS, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
"""Files of that folder."""
FILES = (SETTINGS, WEIGHTS, TOKENIZER)
LICENSE = "LICENSE"
LINES = ("lines.json", "lines.safetensors", "lines.NOTICE")
"""Of a line reader (`models.line_reader`): its shape, its weights, and whose they are."""
OPTIONAL = (LICENSE, *LINES)
"""Beside `FILES`, where there are any: a licence for weights that come from somebody who asks for it, a line reader."""
KINDS = ("span", "absent", "yes", "no", "unclear", "greeting", "about", "summary", "list", "whole")
"""What a question asks for: words of the page; what is not on it; yes; no; the others are not for a finder."""
_LEAST_POSITIONS = 128
"""With fewer, a long question would leave no room for a page."""


@dataclass(frozen=True)
class FinderConfig:
    """Shape of a finder: a BERT encoder (arXiv 1810.04805) that knows where words stand.

    Attributes:
        vocab_size: word pieces.
        hidden_size, intermediate_size, num_layers, num_heads: of the encoder.
        max_positions: tokens of question and page together.
        instruction: what the model is asked of a picture of one line, to read it; where there is no line reader.
        temperature: scores of spans are divided by it.
        norm_eps: of layer norms.
    """

    vocab_size: int
    hidden_size: int = 384
    intermediate_size: int = 1536
    num_layers: int = 6
    num_heads: int = 12
    max_positions: int = 512
    instruction: str = "Read the first line."
    temperature: float = 1.0
    norm_eps: float = 1e-12

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], where: str) -> FinderConfig:
        """From a JSON object.

        Args:
            data: the object.
            where: its place, for messages.

        Raises:
            ConfigError: for unknown or missing fields, and values that no finder has.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(data) - known)
        if unknown or "vocab_size" not in data:
            raise ConfigError(f"{where}: {', '.join(unknown) or 'no vocab_size'}: not the configuration of a finder")
        config = cls(**data)
        counts = (config.vocab_size, config.hidden_size, config.intermediate_size, config.num_layers, config.num_heads)
        whole = all(type(count) is int and count > 0 for count in (*counts, config.max_positions))
        if not whole or config.hidden_size % config.num_heads:
            raise ConfigError(f"{where}: sizes must be whole numbers above 0, and heads must divide hidden_size")
        if config.max_positions < _LEAST_POSITIONS:
            raise ConfigError(f"{where}: max_positions is {config.max_positions}; {_LEAST_POSITIONS} is the least")
        for name, value in (("temperature", config.temperature), ("norm_eps", config.norm_eps)):
            if type(value) not in (int, float) or not 0 < value < math.inf:
                raise ConfigError(f"{where}: {name} is {value!r}; it must be a number above 0")
        if not isinstance(config.instruction, str):
            raise ConfigError(f"{where}: instruction is {config.instruction!r}; it must be a text")
        return config
