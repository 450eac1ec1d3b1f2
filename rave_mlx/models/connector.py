"""From vision features to decoder embeddings. Every connector is called with the tower's output and the image."""

from __future__ import annotations

import mlx.core as mx
import mlx.nn as nn

from rave_mlx.config import (
    Connector,
    ConnectorConfig,
    MlpConnectorConfig,
    ShuffleConnectorConfig,
    Tower,
    VisionConfig,
)
from rave_mlx.elementwise import ACTIVATIONS, gelu
from rave_mlx.images import ImagePatches
from rave_mlx.models.resampler import Resampler


def build_connector(config: Connector, vision: Tower) -> nn.Module:
    """The connector of a configuration, without weights."""
    if isinstance(config, ConnectorConfig):
        assert isinstance(vision, VisionConfig)
        return PatchMerger(config, vision)
    if isinstance(config, MlpConnectorConfig):
        return MlpConnector(config)
    return ShuffleConnector(config) if isinstance(config, ShuffleConnectorConfig) else Resampler(config)


class PatchMerger(nn.Module):
    """RMS norm, the merge_size^2 patches of a cell side by side, then a two-layer MLP (Qwen2-VL)."""

    def __init__(self, config: ConnectorConfig, vision: VisionConfig):
        super().__init__()
        self._wide = vision.hidden_size * vision.merge_size**2
        self.norm = nn.RMSNorm(vision.hidden_size, config.norm_eps)
        self.fc1 = nn.Linear(self._wide, config.hidden_size)
        self.fc2 = nn.Linear(config.hidden_size, config.output_size)

    def __call__(self, x: mx.array, image: ImagePatches) -> mx.array:
        """(patches, vision hidden) in merge-block order -> (visual tokens, decoder hidden)."""
        return self.fc2(gelu(self.fc1(self.norm(x).reshape(-1, self._wide))))


class MlpConnector(nn.Module):
    """Two layers on every feature (LLaVA)."""

    def __init__(self, config: MlpConnectorConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.input_size, config.hidden_size, bias=config.bias)
        self.fc2 = nn.Linear(config.hidden_size, config.output_size, bias=config.bias)
        self._activate = ACTIVATIONS[config.activation]

    def __call__(self, x: mx.array, image: ImagePatches) -> mx.array:
        """(tiles, features, tower width) -> (visual tokens, decoder hidden)."""
        return self.fc2(self._activate(self.fc1(x))).reshape(image.tokens, -1)


class ShuffleConnector(nn.Module):
    """Pixel shuffle, then a linear layer (Idefics3) or an MLP (InternVL)."""

    def __init__(self, config: ShuffleConnectorConfig):
        super().__init__()
        raise NotImplementedError

    def __call__(self, x: mx.array, image: ImagePatches) -> mx.array:
        """(tiles, features, tower width) -> (visual tokens, decoder hidden)."""
        raise NotImplementedError
