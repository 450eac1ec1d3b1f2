"""The one model description that the runtime knows: `LMMConfig` and its parts.

`convert/` translates foreign configurations into these classes; a rave directory stores them as `config.json`.
"""

from rave_mlx.config.connector import (
    CellConnectorConfig,
    Connector,
    ConnectorConfig,
    ConvConnectorConfig,
    DownsampleConnectorConfig,
    MlpConnectorConfig,
    PathConnectorConfig,
    PoolConnectorConfig,
    ResamplerConfig,
    RowConnectorConfig,
    ShuffleConnectorConfig,
)
from rave_mlx.config.experts import ExpertsConfig
from rave_mlx.config.image import DenseTiles, ImageConfig, Images, Resample, TileConfig
from rave_mlx.config.linear_attention import LinearAttentionConfig
from rave_mlx.config.model import FORMAT, AddedTokenConfig, GateConfig, LMMConfig, QuantizationConfig, TokenConfig
from rave_mlx.config.sink_gate import SinkGateConfig
from rave_mlx.config.text import RopeConfig, RopeScaling, TextConfig
from rave_mlx.config.vision import (
    Activation,
    GridVisionConfig,
    TileVisionConfig,
    Tower,
    VisionConfig,
    WindowVisionConfig,
)

__all__ = [
    "FORMAT",
    "Activation",
    "AddedTokenConfig",
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
    "LinearAttentionConfig",
    "MlpConnectorConfig",
    "PathConnectorConfig",
    "PoolConnectorConfig",
    "QuantizationConfig",
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
    "VisionConfig",
    "WindowVisionConfig",
]
