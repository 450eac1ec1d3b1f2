"""The configuration of a tower whose visual tokens are learned queries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rave_mlx.config.image import TileConfig
from rave_mlx.config.part import Part, positive
from rave_mlx.config.rope import RopeConfig
from rave_mlx.config.text import TextConfig
from rave_mlx.config.vision import Activation, WindowVisionConfig
from rave_mlx.errors import ConfigError


@dataclass(frozen=True)
class QueryVisionConfig(Part):
    """A tower that reads the features of a view as a decoder reads text (DeepSeek-OCR 2, arXiv 2601.20552).

    A tower of the SAM shape gives features, two convolutions halve their sides. Learned queries follow the features of
    a view as further tokens of an encoder with a decoder's layers: features see all features, a query sees them, itself
    and the queries before it. What becomes of the queries are the visual tokens.

    Attributes:
        patches: the tower below. Its `tile_size` is the side that its learned positions are for; views of other sides
            have them scaled.
        middle_size: width between the two convolutions, after which features are as wide as the encoder.
        depth, hidden_size, intermediate_size, num_heads, num_kv_heads, head_dim: of the encoder.
        rope: its rotary positions.
        queries: numbers of queries, few before many: a view is read with the first that are no fewer than its features,
            else with the last.
        norm_eps, activation: of the encoder.
    """

    patches: WindowVisionConfig
    middle_size: int
    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: RopeConfig
    queries: tuple[int, ...]
    norm_eps: float = 1e-6
    activation: Activation = "silu"
    kind: Literal["queries"] = "queries"

    def __post_init__(self) -> None:
        positive(self, "middle_size", "depth")
        if not self.queries or list(self.queries) != sorted(set(self.queries)) or self.queries[0] < 1:
            raise ConfigError(f"vision.queries {list(self.queries)}: numbers from 1 on are needed, few before many")
        if self.rope.sections is not None or (self.rope.scaling is not None and self.rope.scaling.follows_length):
            raise ConfigError("vision.rope: sections, and a scaling that follows the length, are not supported")
        self.encoder()  # which checks its own sizes

    @property
    def patch_size(self) -> int:
        """Side of a patch, in pixels."""
        return self.patches.patch_size

    def encoder(self) -> TextConfig:
        """The encoder's layers as those of a decoder."""
        return TextConfig(
            vocab_size=1,
            hidden_size=self.hidden_size,
            intermediate_size=self.intermediate_size,
            num_layers=self.depth,
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            rope=self.rope,
            max_positions=1,
            norm_eps=self.norm_eps,
            qkv_bias=True,
            activation=self.activation,
        )

    def asked(self, features: int) -> int:
        """Which of `queries` read a view of so many features."""
        enough = (index for index, count in enumerate(self.queries) if count >= features)
        return next(enough, len(self.queries) - 1)

    def tokens(self, side: int) -> int:
        """Visual tokens of a view of `side` x `side` pixels."""
        # Two convolutions of stride 2, each of which rounds up.
        across = -(-(side // self.patch_size) // 4)
        return self.queries[self.asked(across**2)]


def check_views(vision: QueryVisionConfig, image: TileConfig) -> None:
    """Refuse tiles of which a tower makes another number of tokens than the images count.

    Raises:
        ConfigError: naming the number.
    """
    if image.overview is None:
        raise ConfigError("image: a tower with queries reads tiles beside an overview; image.overview is missing")
    views = {"tile_tokens": (image.tile_size, image.tile_tokens)}
    views["overview.tokens"] = (image.overview.size, image.overview.tokens)
    for name, (side, tokens) in views.items():
        if side < vision.patch_size:
            raise ConfigError(f"image: views of {side} pixels are smaller than a patch ({vision.patch_size})")
        if vision.tokens(side) != tokens:
            raise ConfigError(f"image.{name} {tokens}: of {side} pixels the tower makes {vision.tokens(side)} tokens")
