"""The vision towers: patches at the image's own resolution (two shapes), and square tiles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rave_mlx.config.part import Part, positive
from rave_mlx.errors import ConfigError

Activation = Literal["silu", "gelu", "gelu_tanh", "quick_gelu"]
"""silu; GELU by erf, by tanh; x * sigmoid(1.702 x)."""


@dataclass(frozen=True)
class VisionConfig(Part):
    """A tower of the Qwen-VL shape (arXiv 2409.12191, 2502.13923): patches at native resolution, 2-D rotary
    positions, attention over the whole image or (with `window_size`) in windows outside `full_attention_layers`.

    Units: `patch_size` and `window_size` are pixels; `merge_size` patches a side become one visual token.

    Attributes:
        norm: RMS or layer norm; layer norm has biases.
        mlp: "gated" (act(gate) * up) or "plain" (two layers).
        patch_bias: whether the patch embedding has a bias.
        fused_qkv: whether queries, keys and values are one matrix; else three (PaddleOCR-VL).
        qkv_bias, output_bias, mlp_bias: biases of queries, keys and values, of the joined heads' projection, and of
            the MLP.
        qk_norm: RMS norm of every head's queries and keys (GLM-OCR).
        pre_norm, post_norm: whether a norm precedes the first layer (and the learned positions), and follows the last.
        rotary: whether queries and keys turn with the row and the column of their patch.
        position_side: side of a square of learned positions, interpolated to the image's grid and added (Qwen3-VL);
            None without.
        position_fit: what of that square falls on what of the image: "corners" on corners, or the edges of the first
            and last cell on the image's edges ("edges", PaddleOCR-VL, GLM-4V).
        position_class: whether the position of a class token, which is not used, precedes the square (HunyuanOCR).
        position_filter: how positions between those of the square are found.
        deepstack_layers: layers after which features are also merged and added to the decoder's first layers, one
            each (DeepStack, arXiv 2406.04334).
    """

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    patch_size: int
    window_size: int | None = None
    full_attention_layers: tuple[int, ...] = ()
    temporal_patch_size: int = 2
    merge_size: int = 2
    channels: int = 3
    rope_theta: float = 10000.0
    norm_eps: float = 1e-6
    norm: Literal["rms", "layer"] = "rms"
    mlp: Literal["gated", "plain"] = "gated"
    activation: Activation = "silu"
    patch_bias: bool = False
    fused_qkv: bool = True
    qkv_bias: bool = True
    output_bias: bool = True
    mlp_bias: bool = True
    qk_norm: bool = False
    pre_norm: bool = False
    post_norm: bool = False
    rotary: bool = True
    position_side: int | None = None
    position_class: bool = False
    position_fit: Literal["corners", "edges"] = "corners"
    position_filter: Literal["bilinear", "bicubic"] = "bilinear"
    deepstack_layers: tuple[int, ...] = ()
    kind: Literal["native"] = "native"

    def __post_init__(self) -> None:
        positive(self, "depth", "hidden_size", "intermediate_size", "num_heads", "patch_size", "merge_size")
        unit = 4 if self.rotary else 1
        if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % unit:
            raise ConfigError(
                f"vision: hidden_size {self.hidden_size} must split over {self.num_heads} heads of a multiple of 4"
            )
        if self.window_size is not None and self.window_size % (self.patch_size * self.merge_size):
            raise ConfigError(
                f"vision: window_size {self.window_size} is not a multiple of patch_size x merge_size "
                f"= {self.patch_size * self.merge_size}"
            )


@dataclass(frozen=True)
class TileVisionConfig(Part):
    """A vision transformer over square tiles: CLIP (arXiv 2103.00020), SigLIP (2303.15343), InternViT (2312.14238).

    Attributes:
        tile_size, patch_size: in pixels.
        class_token: whether a learned token precedes the patches.
        patch_bias, qkv_bias: biases of the patch embedding and of queries, keys and values.
        qk_norm: RMS norm of queries and keys over all heads together (InternViT).
        layer_scale: whether each branch is scaled by a learned vector (InternViT).
        pre_norm: a norm before the first layer (CLIP).
        post_norm: a norm after the last layer.
        norm: of the layers; `pre_norm` and `post_norm` are layer norms.
        feature_layers: which states are the features, side by side: i is the state after i layers (0 is the
            embeddings), as a non-negative number; the last state is not passed through post_norm, -1 is and stands
            for the tower's output.
        keep_class_token: whether the class token is one of the features.
    """

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    tile_size: int
    patch_size: int
    feature_layers: tuple[int, ...] = (-1,)
    activation: Activation = "gelu_tanh"
    norm: Literal["rms", "layer"] = "layer"
    norm_eps: float = 1e-6
    channels: int = 3
    class_token: bool = False
    keep_class_token: bool = False
    patch_bias: bool = True
    qkv_bias: bool = True
    qk_norm: bool = False
    layer_scale: bool = False
    pre_norm: bool = False
    post_norm: bool = True
    kind: Literal["tiles"] = "tiles"

    def __post_init__(self) -> None:
        positive(self, "depth", "hidden_size", "intermediate_size", "num_heads", "tile_size", "patch_size")
        if self.hidden_size % self.num_heads:
            raise ConfigError(f"vision: hidden_size {self.hidden_size} does not split over {self.num_heads} heads")
        if self.tile_size < self.patch_size:
            raise ConfigError(f"vision: tiles of {self.tile_size} pixels are smaller than a patch ({self.patch_size})")
        outside = [i for i in self.feature_layers if not -1 <= i <= self.depth]
        if outside or not self.feature_layers:
            raise ConfigError(f"vision.feature_layers {list(self.feature_layers)}: give states from -1 to {self.depth}")

    @property
    def side(self) -> int:
        """Patches a side of a tile; what is left over at the right and bottom is not seen."""
        return self.tile_size // self.patch_size

    @property
    def features(self) -> int:
        """Features a tile."""
        return self.side**2 + (self.class_token and self.keep_class_token)

    @property
    def feature_size(self) -> int:
        """Width of a feature."""
        return self.hidden_size * len(self.feature_layers)


@dataclass(frozen=True)
class GridVisionConfig(Part):
    """A tower of the Pixtral shape (arXiv 2410.07073): patches at native resolution, RMS norms, gated MLPs, no biases,
    2-D rotary positions, attention over the whole image.

    Attributes:
        patch_size: in pixels.
        merge_size: patches a side of the square that becomes one visual token; here it only says in which order the
            patches come.
        feature_layers: which states are the features, side by side: i is the state after i layers, 0 the normed
            embeddings.
        rope_theta: base of the frequencies, of which every other one turns with the row, the rest with the column.
    """

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    patch_size: int
    feature_layers: tuple[int, ...]
    merge_size: int = 1
    channels: int = 3
    rope_theta: float = 10000.0
    norm_eps: float = 1e-5
    activation: Activation = "silu"
    kind: Literal["grid"] = "grid"

    def __post_init__(self) -> None:
        positive(self, "depth", "hidden_size", "intermediate_size", "num_heads", "patch_size", "merge_size", "channels")
        if self.hidden_size % self.num_heads or (self.hidden_size // self.num_heads) % 2:
            raise ConfigError(
                f"vision: hidden_size {self.hidden_size} must split over {self.num_heads} heads of an even width"
            )
        outside = [i for i in self.feature_layers if not 0 <= i <= self.depth]
        if outside or not self.feature_layers:
            raise ConfigError(f"vision.feature_layers {list(self.feature_layers)}: give states from 0 to {self.depth}")

    @property
    def feature_size(self) -> int:
        """Width of a feature."""
        return self.hidden_size * len(self.feature_layers)


@dataclass(frozen=True)
class WindowVisionConfig(Part):
    """A tower of the SAM shape (arXiv 2304.02643) over square tiles: windowed attention with relative positions, then
    two convolutions to fewer channels (GOT-OCR 2.0).

    Attributes:
        tile_size, patch_size: in pixels.
        window_size: in patches; windows at the right and bottom are filled up with zeros, which are attended to. 0: the
            whole tile in every layer.
        full_attention_layers: layers that attend over the whole tile.
        output_size: width of a feature.
        qkv_bias: whether queries, keys and values have a bias.
        positions: whether a learned position is added to every patch.
        relative_positions: whether scores get a bias by the distance in rows and in columns.
    """

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    tile_size: int
    patch_size: int
    window_size: int
    output_size: int
    full_attention_layers: tuple[int, ...] = ()
    channels: int = 3
    norm_eps: float = 1e-6
    activation: Activation = "gelu"
    qkv_bias: bool = True
    positions: bool = True
    relative_positions: bool = True
    kind: Literal["windows"] = "windows"

    def __post_init__(self) -> None:
        positive(self, "depth", "hidden_size", "intermediate_size", "num_heads", "tile_size", "patch_size")
        positive(self, "output_size", "channels")
        if self.hidden_size % self.num_heads:
            raise ConfigError(f"vision: hidden_size {self.hidden_size} does not split over {self.num_heads} heads")
        if self.tile_size < self.patch_size or self.window_size < 0:
            raise ConfigError(
                f"vision: tiles of {self.tile_size} pixels, patches of {self.patch_size} and windows of "
                f"{self.window_size} patches do not fit"
            )

    @property
    def side(self) -> int:
        """Patches a side of a tile."""
        return self.tile_size // self.patch_size

    def window(self, layer: int) -> int:
        """Patches a side of what layer `layer` attends over."""
        return self.side if self.sees_all(layer) else self.window_size

    def sees_all(self, layer: int) -> bool:
        """Whether layer `layer` attends over the whole tile."""
        return not self.window_size or layer in self.full_attention_layers


@dataclass(frozen=True)
class AxialVisionConfig(Part):
    """A tower of the Gemma 4 shape: patches at native resolution, RMS norms before and after both parts of a layer and
    of every head, gated MLPs, no biases, attention over the whole image. A learned position of the column and one of
    the row are added to a patch; half of a head turns with the column, the other half with the row.

    Attributes:
        num_kv_heads: heads of keys and values, each of which serves several of queries.
        head_dim: width of a head, a multiple of 4.
        patch_size: in pixels.
        merge_size: patches a side of the square that becomes one visual token; here it only says in which order the
            patches come.
        positions: learned positions of each axis, and so the most patches a side.
        clipped: whether what enters and leaves a matrix is clipped to bounds of its own.
    """

    depth: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    patch_size: int
    positions: int
    merge_size: int = 3
    channels: int = 3
    rope_theta: float = 100.0
    norm_eps: float = 1e-6
    activation: Activation = "gelu_tanh"
    clipped: bool = False
    kind: Literal["axial"] = "axial"

    def __post_init__(self) -> None:
        positive(self, "depth", "hidden_size", "intermediate_size", "num_heads", "num_kv_heads", "head_dim")
        positive(self, "patch_size", "positions", "merge_size", "channels")
        if self.num_heads % self.num_kv_heads or self.head_dim % 4:
            raise ConfigError(
                f"vision: {self.num_heads} heads over {self.num_kv_heads} of keys, each of {self.head_dim} numbers: "
                "a multiple, and one of 4, are needed"
            )
