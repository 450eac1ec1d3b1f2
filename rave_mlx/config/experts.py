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
        shared_size: width of an MLP that every token passes through besides; None: there is none.
        shared_gate: whether that MLP's output is multiplied with a number from 0 to 1 that depends on the token (Qwen2,
            Qwen3.5) or added as it is (DeepSeek).
        scale: factor of the chosen experts' shares (DeepSeek).
        groups, chosen_groups: the experts are so many groups of one size, one after the other; a token chooses among
            the experts of the groups whose best experts have the largest shares (DeepSeek-V2, arXiv 2405.04434). One
            group: among all.
        beside: whether a layer's MLP stays and experts work beside it: on the stream itself, which the router norms for
            itself, both behind norms of their own, the shares times a number of each expert (Gemma 4).
    """

    count: int
    chosen: int
    intermediate_size: int
    normalize: bool = True
    layers: Literal["all"] | tuple[int, ...] = "all"
    shared_size: int | None = None
    shared_gate: bool = True
    scale: float = 1.0
    groups: int = 1
    chosen_groups: int = 1
    beside: bool = False

    def __post_init__(self) -> None:
        positive(self, "count", "chosen", "intermediate_size", "groups", "chosen_groups")
        if self.chosen > self.count:
            raise ConfigError(f"text.experts: a token cannot pass through {self.chosen} of {self.count} experts")
        if self.count % self.groups or self.chosen_groups > self.groups:
            raise ConfigError(
                f"text.experts: {self.chosen_groups} of {self.groups} groups cannot be chosen of {self.count} experts"
            )
        if self.chosen > self.count // self.groups * self.chosen_groups:
            raise ConfigError(
                f"text.experts: {self.chosen_groups} of {self.groups} groups have fewer than {self.chosen} experts"
            )
        if self.shared_size is not None:
            positive(self, "shared_size")
        if self.beside and (self.shared_size is not None or self.groups > 1 or self.scale != 1 or not self.normalize):
            raise ConfigError("text.experts.beside: the MLP is the shared one, and shares add up to 1")

    def in_layer(self, layer: int) -> bool:
        """Whether decoder layer `layer` has experts."""
        return self.layers == "all" or layer in self.layers
