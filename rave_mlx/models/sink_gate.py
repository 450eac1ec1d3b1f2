"""Layer-wise sink gating (LSG, arXiv 2604.03316): visual keys of a layer scaled by what the prompt's last token says.

Before decoder layer i, with h the state of the last input token as it enters the layer:

    (rho_sink, rho_rest) = softmax(W2 gelu(layer_norm(W1 h + b1)) + b2)
    k_j <- rho_g(j) k_j      for visual tokens j; keys of text stay

g(j) tells the visual tokens that come out of the vision encoder as sinks from all others. The scale multiplies the
finished key (a rotation commutes with it) for all heads and for all queries. It is kept with the key, so nothing is
left to do for a written token.

Stated by the paper: the formula, 64 hidden units, softmax over two groups, one gate for all heads of a layer, a start
at (0.5, 0.5), everything else frozen. Assumed here: GELU; the place of the layer norm, over the hidden units, which is
where it agrees with the published count of parameters; how sinks of the encoder are found (`outliers`); and what the
last input token of a conversation is (`inputs.prompt.positions.last_inputs`): that of the turn that shows the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from numpy.typing import NDArray

from rave_mlx.config import SinkGateConfig
from rave_mlx.inputs.prompt.positions import last_inputs
from rave_mlx.inputs.prompt.prompt import TokenMap


@dataclass(frozen=True, eq=False)
class VisualGroups:
    """What sink gates have to know about the new tokens of a pass. B sequences, L tokens.

    Attributes:
        reader: (B, L) int32, for a visual token the index, among the new tokens, of the last input token of its turn.
        sink: (B, L) marks of visual tokens that are sinks of the encoder.
        visual: (B, L) marks of visual tokens.
    """

    reader: mx.array
    sink: mx.array
    visual: mx.array

    def taken(self, index: mx.array) -> VisualGroups:
        """What is left where only the tokens `index` (B, n) go on, the readers among them."""
        readers = mx.take_along_axis(self.reader, index, axis=1)
        moved = mx.argmax((index[:, None] == readers[..., None]).astype(mx.int32), axis=-1)
        sink, visual = (mx.take_along_axis(x, index, axis=1) for x in (self.sink, self.visual))
        return VisualGroups(moved.astype(mx.int32), sink, visual)


class SinkGate(nn.Module):
    """The network of one layer. Shapes: fc1 (width, hidden), norm (width), fc2 (2, width), float32."""

    def __init__(self, hidden: int, config: SinkGateConfig):
        super().__init__()
        self.fc1 = nn.Linear(hidden, config.width)
        self.norm = nn.LayerNorm(config.width)
        self.fc2 = nn.Linear(config.width, 2)
        self.fc2.weight = mx.zeros_like(self.fc2.weight)
        self.fc2.bias = mx.zeros_like(self.fc2.bias)

    def shares(self, x: mx.array) -> mx.array:
        """(rho_sink, rho_rest) of states x (..., hidden): (..., 2) float32, which sum to 1."""
        hidden = nn.gelu(self.norm(self.fc1(x.astype(mx.float32))))
        return mx.softmax(self.fc2(hidden), axis=-1)

    def __call__(self, x: mx.array, groups: VisualGroups) -> mx.array:
        """What the keys of the new tokens are multiplied with: (B, L) float32, 1 for text.

        Args:
            x: states that enter the layer (B, L, hidden).
            groups: of the same tokens.
        """
        shares = self.shares(x)
        where = mx.broadcast_to(groups.reader[..., None], shares.shape)
        picked = mx.take_along_axis(shares, where, axis=1)
        scale = mx.where(groups.sink, picked[..., 0], picked[..., 1])
        return mx.where(groups.visual, scale, 1.0)


def outliers(x: mx.array, image: NDArray[np.int32], factor: float) -> mx.array:
    """Which visual tokens are sinks of the encoder: those whose norm is `factor` times their image's median, or more.

    The paper finds them before the projector, where one dimension of the encoder (650 of CLIP) reaches a threshold, and
    notes that they enter the decoder with a large norm. This looks at what enters the decoder, in all dimensions: it
    needs no table of dimensions and holds for connectors that merge patches.

    Args:
        x: what enters the decoder (B, L, hidden), all tokens of every image among them.
        image: (B, L) index of the image a visual token belongs to, -1 for the others.
        factor: see above.

    Returns:
        Marks (B, L).
    """
    norms = mx.linalg.norm(mx.stop_gradient(x).astype(mx.float32), axis=-1)
    limits = mx.full(norms.shape, mx.inf)
    for row, indices in enumerate(image):
        for each in np.unique(indices[indices >= 0]):
            own = mx.array(np.flatnonzero(indices == each))
            limits[row, own] = factor * mx.median(norms[row, own])
    return norms >= limits


def prompt_groups(
    config: SinkGateConfig | None, x: mx.array, maps: Sequence[TokenMap], start: int, stop: int
) -> VisualGroups | None:
    """What sink gates have to know of tokens [start, stop) of prompts; None without gates or visual tokens.

    Args:
        config: of the gates; None for a model without.
        x: input embeddings of the tokens (B, stop - start, hidden).
        maps: of one prompt; or of several, whole ones that are padded on the left to the length `stop`.
        start, stop: see above.

    Raises:
        ValueError: when the tokens end before one that a visual one depends on.
    """
    if config is None:
        return None
    readers, images = [], []
    for each in maps:
        pad = stop - len(each.role) if len(maps) > 1 else 0
        reader = np.pad(last_inputs(each.role, each.image) + pad, (pad, 0))
        readers.append(reader[start:stop] - start)
        images.append(np.pad(each.image, (pad, 0), constant_values=-1)[start:stop])
    return visual_groups(config, x, np.stack(readers), np.stack(images))


def visual_groups(
    config: SinkGateConfig, x: mx.array, reader: NDArray[np.int32], image: NDArray[np.int32]
) -> VisualGroups | None:
    """The groups of a pass; None without visual tokens.

    Args:
        config: of the gates.
        x: what enters the decoder (B, L, hidden), all tokens of every image among them.
        reader: as of `VisualGroups`.
        image: (B, L) index of the image a visual token belongs to, -1 for the others.

    Raises:
        ValueError: when the pass ends before the token that a visual one depends on.
    """
    visual = image >= 0
    if not visual.any():
        return None
    if int(reader[visual].max()) >= reader.shape[1]:
        raise ValueError("with sink gates, a prompt is read from an image to the end of its turn in one pass")
    return VisualGroups(mx.array(reader), outliers(x, image, config.outlier), mx.array(visual))
