"""Settings of the sink gates: visual keys scaled by what the prompt's last token says (arXiv 2604.03316)."""

from __future__ import annotations

from dataclasses import dataclass

from rave_mlx.config.part import Part, positive
from rave_mlx.errors import ConfigError

WIDTH = 64
"""Hidden width of a gate's network in the paper."""
OUTLIER = 2.0
"""Norm, in medians of its image, from which on a visual token counts as a sink of the vision encoder; our choice."""


@dataclass(frozen=True)
class SinkGateConfig(Part):
    """Layer-wise sink gating (LSG).

    Attributes:
        layers: decoder layers whose visual keys are scaled; each reads the states that enter it, so layer 0 is none.
        width: hidden width of the network.
        outlier: norm of what enters the decoder, in medians of the image's tokens, from which on a visual token
            belongs to the first of the two groups.
    """

    layers: tuple[int, ...]
    width: int = WIDTH
    outlier: float = OUTLIER

    def __post_init__(self) -> None:
        positive(self, "width")
        if not self.layers or list(self.layers) != sorted(set(self.layers)):
            raise ConfigError(f"sink_gate.layers {list(self.layers)}: give each layer once, in ascending order")
        if self.layers[0] < 1:
            raise ConfigError(f"sink_gate.layers {list(self.layers)}: a gate reads what a layer before it gave; from 1")
        if not self.outlier > 0:
            raise ConfigError(f"sink_gate.outlier is {self.outlier}; it is a multiple of the median norm, above 0")
