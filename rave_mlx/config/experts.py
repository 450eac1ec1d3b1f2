"""The configuration of layers with experts (mixture of experts)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rave_mlx.config.part import Part, positive
from rave_mlx.errors import ConfigError


@dataclass(frozen=True)
class ExpertsConfig(Part):
    """Many MLPs in the place of one, of which a router chooses a few for every token (arXiv 1701.06538).

    Attributes:
        count: experts of a layer.
        chosen: how many of them a token passes through: those with the largest shares of the router's softmax.
        intermediate_size: width of an expert.
        normalize: whether the shares of the chosen experts, which their outputs are multiplied with, are scaled to add
            up to 1 (Qwen3) or stay as they are (Qwen2).
        layers: decoder layers with experts; the others have one MLP.
        shared_size: width of an MLP that every token passes through besides, whose output is multiplied with a number
            from 0 to 1 that depends on the token (Qwen2, Qwen3.5); None: there is none.
    """

    count: int
    chosen: int
    intermediate_size: int
    normalize: bool = True
    layers: Literal["all"] | tuple[int, ...] = "all"
    shared_size: int | None = None

    def __post_init__(self) -> None:
        positive(self, "count", "chosen", "intermediate_size")
        if self.chosen > self.count:
            raise ConfigError(f"text.experts: a token cannot pass through {self.chosen} of {self.count} experts")
        if self.shared_size is not None:
            positive(self, "shared_size")

    def in_layer(self, layer: int) -> bool:
        """Whether decoder layer `layer` has experts."""
        return self.layers == "all" or layer in self.layers
