"""The configuration of what a token gives to every decoder layer besides the stream."""

from __future__ import annotations

from dataclasses import dataclass

from rave_mlx.config.part import Part, positive
from rave_mlx.errors import ConfigError


@dataclass(frozen=True)
class LayerInputsConfig(Part):
    """Per-layer embeddings (Gemma 3n, Gemma 4): a second, narrow embedding of every token for each layer, and a
    projection of its first one, added to each other; a layer adds them to the stream, behind a gate.

    Attributes:
        vocab_size: rows of the second embedding.
        width: numbers for one layer.
        visual: the row that visual tokens take.
    """

    vocab_size: int
    width: int
    visual: int = 0

    def __post_init__(self) -> None:
        positive(self, "vocab_size", "width")
        if not 0 <= self.visual < self.vocab_size:
            raise ConfigError(f"text.layer_inputs.visual {self.visual}: the table has rows 0 to {self.vocab_size - 1}")
