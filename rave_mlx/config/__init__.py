"""The one model description that the runtime knows: `LMMConfig` and its parts.

`convert/` translates foreign configurations into these classes; a rave directory stores them as `config.json`.
"""

from rave_mlx.config.connector import (
    CellConnectorConfig,
    Connector,
    ConnectorConfig,
    ConvConnectorConfig,
    DownsampleConnectorConfig,
    MeanConnectorConfig,
    MlpConnectorConfig,
    PathConnectorConfig,
    PoolConnectorConfig,
    ResamplerConfig,
    RowConnectorConfig,
    ShuffleConnectorConfig,
    ViewConnectorConfig,
)
from rave_mlx.config.experts import ExpertsConfig
from rave_mlx.config.image import DenseTiles, ImageConfig, Images, Overview, Resample, TileConfig
from rave_mlx.config.layer_inputs import LayerInputsConfig
from rave_mlx.config.linear_attention import LinearAttentionConfig
from rave_mlx.config.model import FORMAT, AddedTokenConfig, GateConfig, LMMConfig, QuantizationConfig, TokenConfig
from rave_mlx.config.patch_vision import PatchVisionConfig
from rave_mlx.config.query_vision import QueryVisionConfig
from rave_mlx.config.rope import RopeConfig, RopeScaling
from rave_mlx.config.sink_gate import SinkGateConfig
from rave_mlx.config.text import TextConfig
from rave_mlx.config.tower import Tower
from rave_mlx.config.vision import (
    Activation,
    AxialVisionConfig,
    GridVisionConfig,
    TileVisionConfig,
    VisionConfig,
    WindowVisionConfig,
)

__all__ = [
    "FORMAT",
    "Activation",
    "AddedTokenConfig",
    "AxialVisionConfig",
    "CellConnectorConfig",
    "Connector",
    "ConnectorConfig",
    "ConvConnectorConfig",
    "DenseTiles",
    "DownsampleConnectorConfig",
    "ExpertsConfig",
    "GateConfig",
    "GridVisionConfig",
    "ImageConfig",
    "Images",
    "LMMConfig",
    "LayerInputsConfig",
    "LinearAttentionConfig",
    "MeanConnectorConfig",
    "MlpConnectorConfig",
    "Overview",
    "PatchVisionConfig",
    "PathConnectorConfig",
    "PoolConnectorConfig",
    "QuantizationConfig",
    "QueryVisionConfig",
    "Resample",
    "ResamplerConfig",
    "RopeConfig",
    "RopeScaling",
    "RowConnectorConfig",
    "ShuffleConnectorConfig",
    "SinkGateConfig",
    "TextConfig",
    "TileConfig",
    "TileVisionConfig",
    "TokenConfig",
    "Tower",
    "ViewConnectorConfig",
    "VisionConfig",
    "WindowVisionConfig",
]
