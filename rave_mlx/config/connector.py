"""The ways from tower features to decoder embeddings."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rave_mlx.config.part import Part, positive
from rave_mlx.config.vision import Activation
from rave_mlx.errors import ConfigError


@dataclass(frozen=True)
class ConnectorConfig(Part):
    """Qwen-VL: a norm, the merge_size^2 patches of a cell side by side, a two-layer MLP with GELU.

    The norm of DeepStack's mergers comes after the patches stand side by side.

    Attributes:
        hidden_size: width between the two layers.
        output_size: width of the decoder.
        norm_eps, norm: epsilon and kind of the norm.
    """

    hidden_size: int
    output_size: int
    norm_eps: float = 1e-6
    norm: Literal["rms", "layer"] = "rms"
    kind: Literal["merger"] = "merger"


@dataclass(frozen=True)
class MlpConnectorConfig(Part):
    """LLaVA (arXiv 2310.03744): a two-layer MLP on every feature.

    Attributes:
        input_size: width of a feature of the tower.
        hidden_size: width between the two layers.
        output_size: width of the decoder.
        activation, bias: of the layers.
        newline: whether a learned vector ends every row of an image made of several tiles (LLaVA-NeXT), and the
            features of padding are dropped.
    """

    input_size: int
    hidden_size: int
    output_size: int
    activation: Activation = "gelu"
    bias: bool = True
    newline: bool = False
    kind: Literal["mlp"] = "mlp"


@dataclass(frozen=True)
class ShuffleConnectorConfig(Part):
    """Pixel shuffle: `scale` x `scale` neighbouring features become one, `scale`^2 times as wide.

    Then one linear layer without bias (Idefics3, arXiv 2408.12637), or, with `hidden_size`, layer norm and a two-layer
    MLP of that width (InternVL, arXiv 2404.16821).
    """

    input_size: int
    scale: int
    output_size: int
    hidden_size: int | None = None
    activation: Activation = "gelu"
    norm_eps: float = 1e-5
    kind: Literal["shuffle"] = "shuffle"

    def __post_init__(self) -> None:
        positive(self, "input_size", "scale", "output_size")


@dataclass(frozen=True)
class ResamplerConfig(Part):
    """Perceiver resampler (Flamingo, arXiv 2204.14198), as AKI uses it: learned latents attend to the features of a
    tile (and to themselves) `depth` times; then a linear layer to the decoder.

    Attributes:
        hidden_size: width of the latents, which is the tower's.
        latents: how many; each becomes a visual token.
        head_dim: width of a head; heads times head_dim need not be hidden_size.
        mlp_ratio: width of the MLP in multiples of hidden_size.
    """

    hidden_size: int
    output_size: int
    latents: int
    depth: int
    num_heads: int
    head_dim: int
    mlp_ratio: int = 4
    norm_eps: float = 1e-5
    kind: Literal["resampler"] = "resampler"

    def __post_init__(self) -> None:
        positive(self, "hidden_size", "output_size", "latents", "depth", "num_heads", "head_dim", "mlp_ratio")


@dataclass(frozen=True)
class CellConnectorConfig(Part):
    """Features of patches at native resolution to the decoder: a two-layer MLP (Pixtral, arXiv 2410.07073), before
    which a norm and a linear layer without bias can join the patches of a cell (Mistral Small 3.1, LightOnOCR).

    Attributes:
        input_size: width of a feature of the tower.
        hidden_size: width between the two layers of the MLP.
        output_size: width of the decoder.
        merge_size: patches a side of a cell.
        join: whether the patches of a cell are normed and joined; without, a cell is one patch.
        activation, bias: of the MLP.
        norm_eps: epsilon of the norm.
    """

    input_size: int
    hidden_size: int
    output_size: int
    merge_size: int = 1
    join: bool = False
    activation: Activation = "gelu"
    bias: bool = True
    norm_eps: float = 1e-5
    kind: Literal["cells"] = "cells"

    def __post_init__(self) -> None:
        positive(self, "input_size", "hidden_size", "output_size", "merge_size")
        if self.merge_size > 1 and not self.join:
            raise ConfigError(f"connector: the {self.merge_size**2} patches of a cell are not joined to one")


@dataclass(frozen=True)
class DownsampleConnectorConfig(Part):
    """GLM-4V (arXiv 2507.01006): one linear layer joins the patches of a cell (a convolution whose stride is its size),
    then a linear layer, layer norm and GELU, then act(gate) * up.

    Attributes:
        input_size: width of a feature of the tower.
        merge_size: patches a side of a cell.
        hidden_size: width of the gated MLP.
        output_size: width of the decoder, and of everything between.
        activation: of the gate.
        norm_eps: epsilon of the norm.
    """

    input_size: int
    merge_size: int
    hidden_size: int
    output_size: int
    activation: Activation = "silu"
    norm_eps: float = 1e-5
    kind: Literal["downsample"] = "downsample"

    def __post_init__(self) -> None:
        positive(self, "input_size", "merge_size", "hidden_size", "output_size")


@dataclass(frozen=True)
class PoolConnectorConfig(Part):
    """Gemma 3 (arXiv 2503.19786): the mean of `pool` x `pool` neighbouring features, an RMS norm that multiplies by one
    plus its weight, and a matrix.

    Attributes:
        input_size: width of a feature of the tower.
        pool: features a side; what is left over at the right and bottom is not seen.
        output_size: width of the decoder.
        norm_eps: epsilon of the norm.
    """

    input_size: int
    pool: int
    output_size: int
    norm_eps: float = 1e-6
    kind: Literal["pool"] = "pool"

    def __post_init__(self) -> None:
        positive(self, "input_size", "pool", "output_size")


@dataclass(frozen=True)
class MeanConnectorConfig(Part):
    """Gemma 4: the mean of the patches of a cell, an RMS norm without a weight, and a matrix.

    Attributes:
        input_size: width of a feature of the tower.
        merge_size: patches a side of a cell.
        output_size: width of the decoder.
        norm_eps: epsilon of the norm.
        standardize: whether an offset is taken away before the norm, and what is left is multiplied with a vector.
        widen: whether the mean is multiplied with the square root of its width.
    """

    input_size: int
    merge_size: int
    output_size: int
    norm_eps: float = 1e-6
    standardize: bool = False
    widen: bool = True
    kind: Literal["means"] = "means"

    def __post_init__(self) -> None:
        positive(self, "input_size", "merge_size", "output_size")


@dataclass(frozen=True)
class RowConnectorConfig(Part):
    """HunyuanOCR: norm, one linear layer that joins the patches of a cell (a convolution whose stride is its size), an
    activation, a second linear layer; a learned feature at the end of every row of cells; a third linear layer, learned
    features before and after all rows, and a last norm.

    Attributes:
        input_size: width of a feature of the tower; that of a cell is twice, then four times as large.
        merge_size: patches a side of a cell.
        output_size: width of the decoder.
        activation: of the MLP.
        norm_eps: epsilon of the RMS norms.
    """

    input_size: int
    merge_size: int
    output_size: int
    activation: Activation = "gelu"
    norm_eps: float = 1e-5
    kind: Literal["rows"] = "rows"

    def __post_init__(self) -> None:
        positive(self, "input_size", "merge_size", "output_size")


@dataclass(frozen=True)
class ConvConnectorConfig(Part):
    """GOT-OCR 2.0 (arXiv 2409.01704): two convolutions of 3 x 3 that halve both sides, each without bias, then a linear
    layer.

    Attributes:
        input_size: width of a feature of the tower; it doubles in between.
        output_size: width of the decoder.
    """

    input_size: int
    output_size: int
    kind: Literal["convolutions"] = "convolutions"

    def __post_init__(self) -> None:
        positive(self, "input_size", "output_size")


@dataclass(frozen=True)
class PathConnectorConfig(Part):
    """Granite-Docling: a layer norm, pixel shuffle and a matrix, to which the fixed place of a token in its tile is
    added; a layer norm and GELU, a second matrix, a last layer norm. States of further layers of the tower are
    shuffled, too, and each passes through a layer norm and an MLP of its own (DeepStack, arXiv 2406.04334).

    Attributes:
        input_size: width of a state of the tower.
        scale: patches a side that become one token; of the fine path half as many.
        output_size: width of the decoder, and of everything between.
        states: further states of the tower, which follow its output as features.
        fine: whether there is a fine path beside the coarse one.
        path: which of the two tokens come from.
        token_scale: factor of the tokens, but not of what comes from further states (Granite scales its embeddings).
        router_size: inner width of the part that says for which pages the fine path is worth its tokens. It is kept,
            so that an export is whole, and never asked: `path` decides. None: there is none.
    """

    input_size: int
    scale: int
    output_size: int
    states: int = 0
    fine: bool = False
    path: Literal["coarse", "fine"] = "coarse"
    token_scale: float = 1.0
    router_size: int | None = None
    kind: Literal["paths"] = "paths"

    def __post_init__(self) -> None:
        positive(self, "input_size", "scale", "output_size")
        if self.output_size % 4:
            raise ConfigError(f"connector.output_size {self.output_size}: places in a tile need a multiple of 4")
        if self.fine and self.scale % 2:
            raise ConfigError(f"connector.scale {self.scale}: the fine path joins half as many patches a side")
        if not self.fine and (self.path == "fine" or self.router_size is not None):
            raise ConfigError("connector: there is no fine path to take")
        if self.router_size is not None:
            positive(self, "router_size")

    @property
    def taken_scale(self) -> int:
        """Patches a side that become one token on the path that is taken."""
        return self.scale if self.path == "coarse" else self.scale // 2


@dataclass(frozen=True)
class ViewConnectorConfig(Part):
    """DeepSeek-OCR 2 (arXiv 2601.20552): one linear layer on the visual tokens of all views of an image, and a learned
    vector after them, which ends the image.

    Attributes:
        input_size: width of a feature of the tower.
        output_size: width of the decoder.
    """

    input_size: int
    output_size: int
    kind: Literal["views"] = "views"

    def __post_init__(self) -> None:
        positive(self, "input_size", "output_size")


Connector = (
    ConnectorConfig
    | MlpConnectorConfig
    | ShuffleConnectorConfig
    | ResamplerConfig
    | CellConnectorConfig
    | DownsampleConnectorConfig
    | PoolConnectorConfig
    | RowConnectorConfig
    | ConvConnectorConfig
    | PathConnectorConfig
    | MeanConnectorConfig
    | ViewConnectorConfig
)
