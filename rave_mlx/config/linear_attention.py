"""The configuration of layers with linear attention."""

from __future__ import annotations

from dataclasses import dataclass

from rave_mlx.config.part import Part, positive
from rave_mlx.errors import ConfigError


@dataclass(frozen=True)
class LinearAttentionConfig(Part):
    """Layers that keep a state of one size instead of keys and values: Gated DeltaNet (arXiv 2412.06464).

    Attributes:
        layers: decoder layers of this kind; the others have attention.
        key_heads, value_heads: heads of queries and keys, each of which serves several heads of values.
        key_dim, value_dim: widths of a head of queries and keys, and of one of values.
        kernel: tokens that the convolution before it sees, the token itself included.
    """

    layers: tuple[int, ...]
    key_heads: int
    value_heads: int
    key_dim: int
    value_dim: int
    kernel: int = 4

    def __post_init__(self) -> None:
        positive(self, "key_heads", "value_heads", "key_dim", "value_dim", "kernel")
        if self.value_heads % self.key_heads:
            raise ConfigError(
                f"text.linear: value_heads {self.value_heads} is not a multiple of key_heads {self.key_heads}"
            )

    @property
    def channels(self) -> int:
        """Queries, keys and values of a token side by side, as they are convolved."""
        return 2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim

    @property
    def state_numbers(self) -> int:
        """Numbers of a layer's state, and of what the convolution still sees."""
        return self.value_heads * self.key_dim * self.value_dim + (self.kernel - 1) * self.channels
