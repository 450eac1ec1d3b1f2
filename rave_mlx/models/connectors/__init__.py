"""From vision features to decoder embeddings. Every connector is called with the tower's output and the image."""

from __future__ import annotations

import mlx.nn as nn

from rave_mlx.config import (
    CellConnectorConfig,
    Connector,
    ConnectorConfig,
    ConvConnectorConfig,
    DownsampleConnectorConfig,
    MeanConnectorConfig,
    MlpConnectorConfig,
    PathConnectorConfig,
    PoolConnectorConfig,
    RowConnectorConfig,
    ShuffleConnectorConfig,
    TileVisionConfig,
    Tower,
    ViewConnectorConfig,
    VisionConfig,
)
from rave_mlx.models.connectors.cells import CellConnector
from rave_mlx.models.connectors.convolutions import ConvConnector
from rave_mlx.models.connectors.downsample import DownsampleConnector
from rave_mlx.models.connectors.means import MeanConnector
from rave_mlx.models.connectors.merger import PatchMerger
from rave_mlx.models.connectors.mlp import MlpConnector
from rave_mlx.models.connectors.paths import PathConnector
from rave_mlx.models.connectors.pool import PoolConnector
from rave_mlx.models.connectors.resampler import Resampler
from rave_mlx.models.connectors.rows import RowConnector
from rave_mlx.models.connectors.shuffle import ShuffleConnector
from rave_mlx.models.connectors.views import ViewConnector


def build_connector(config: Connector, vision: Tower) -> nn.Module:
    """The connector of a configuration, without weights."""
    if isinstance(config, ConnectorConfig):
        assert isinstance(vision, VisionConfig)
        return PatchMerger(config, vision)
    if isinstance(config, MlpConnectorConfig):
        return MlpConnector(config)
    if isinstance(config, CellConnectorConfig):
        return CellConnector(config)
    if isinstance(config, DownsampleConnectorConfig):
        return DownsampleConnector(config)
    if isinstance(config, ConvConnectorConfig):
        return ConvConnector(config)
    if isinstance(config, PoolConnectorConfig):
        return PoolConnector(config)
    if isinstance(config, MeanConnectorConfig):
        return MeanConnector(config)
    if isinstance(config, PathConnectorConfig):
        assert isinstance(vision, TileVisionConfig)
        return PathConnector(config, vision)
    if isinstance(config, ViewConnectorConfig):
        return ViewConnector(config)
    if isinstance(config, RowConnectorConfig):
        return RowConnector(config)
    return ShuffleConnector(config) if isinstance(config, ShuffleConnectorConfig) else Resampler(config)
