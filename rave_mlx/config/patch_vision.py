"""The configuration of images that reach the decoder without a vision tower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rave_mlx.config.part import Part, positive


@dataclass(frozen=True)
class PatchVisionConfig(Part):
    """No tower: a matrix takes the pixels of a large patch to a feature, between layer norms, and learned positions of
    its column and its row are added (Gemma 4's unified models).

    Attributes:
        hidden_size: width of a feature.
        patch_size: side of a patch in pixels, each of which becomes one visual token.
        positions: learned positions of each axis, and so the most patches a side.
        norm_eps: epsilon of the layer norms.
    """

    hidden_size: int
    patch_size: int
    positions: int
    channels: int = 3
    norm_eps: float = 1e-5
    kind: Literal["patches"] = "patches"

    def __post_init__(self) -> None:
        positive(self, "hidden_size", "patch_size", "positions", "channels")

    @property
    def depth(self) -> int:
        """Layers, of which there are none."""
        return 0

    @property
    def merge_size(self) -> int:
        """Patches a side of a visual token."""
        return 1
