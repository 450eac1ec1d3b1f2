"""What a forward pass of the decoder knows about its tokens."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import mlx.core as mx

from rave_mlx.attention import Mask, Path
from rave_mlx.models.kv_cache import Rows
from rave_mlx.models.rope import Rotation


class Lent(NamedTuple):
    """What a layer lends to later ones: the new tokens' keys before rotation, keys and values (B, G, L, d), and the
    keys and values of all tokens (B, G, K, d)."""

    raw: mx.array
    keys: mx.array
    values: mx.array
    all_keys: Rows
    all_values: Rows


@dataclass(frozen=True)
class Step:
    """What every layer needs to know about the tokens of one forward pass.

    Attributes:
        rotation: rotary positions of the new tokens; with policies, a table.
        mask: attention mask over all keys, old and new.
        sliding_mask: the same for layers with a sliding window.
        visual: (B, L) marks of the new tokens that are visual; None when none is.
        gate_span: key positions with visual tokens, empty when there are none yet; None switches the gates off.
        path: forced attention path, None for the backend's choice.
        sliding_rotation: rotary positions in layers with a sliding window, where they have their own; None: `rotation`.
        real: (B, L) marks of the new tokens that are no padding; None where all are real.
        key_scale: (B, L) what the layer's new keys are multiplied with; None for nothing. Of one layer only.
        layer_inputs: what the new tokens give to every layer besides, (B, L, width) each; None where they do not.
        lent: keys and values by layer, of those whose keys and values later layers use. It fills during the pass.
    """

    rotation: Rotation
    mask: Mask
    sliding_mask: Mask
    visual: mx.array | None
    gate_span: tuple[int, int] | None
    path: Path | None = None
    sliding_rotation: Rotation | None = None
    real: mx.array | None = None
    key_scale: mx.array | None = None
    layer_inputs: tuple[mx.array, ...] | None = None
    lent: dict[int, Lent] = field(default_factory=dict)
