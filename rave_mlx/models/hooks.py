"""How something outside of the model takes part in a forward pass: the protocols that attention policies plug into.

The decoder, its cache and `LMM` know these shapes and no policy. `PassHooks` belongs to one conversation's cache (or to
one call of `LMM.logits`), is told of every pass before it runs, and hands out one `LayerHooks` a decoder layer.
`rave_mlx.policies.runtime` implements both.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx.attention import GateTerms, Mask, Packed, Path
from rave_mlx.inputs.prompt.prompt import Prompt, TokenMap

Sublayer = Literal["attention", "mlp"]


@dataclass(frozen=True)
class KeptTokens:
    """The tokens of a pass that go on to the next layers, where the others are pruned.

    Attributes:
        index: (B, n) their indices among the pass's tokens, ascending where order matters; the last token is the last.
        x: (B, n, hidden) their states; None to take them as they are.
        positions: (B, 3, n) rotary positions from here on; None keeps them.
        shift: how many positions earlier the tokens that follow stand, where positions are packed again.
    """

    index: mx.array
    x: mx.array | None = None
    positions: mx.array | None = None
    shift: int = 0


class LayerKeys(Protocol):
    """What is known of the keys that a layer holds."""

    def __len__(self) -> int:
        """How many keys there are."""

    @property
    def positions(self) -> NDArray[np.int32]:
        """(B, 3, K) rotary positions."""


class LayerHooks(Protocol):
    """One decoder layer's pass through the hooks."""

    def edit(
        self, q_pre: mx.array, k_pre: mx.array, q: mx.array, k: mx.array, v: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        """Rotated queries (B, H, L, d), keys and values (B, G, L, d) of the new tokens, as they are to be.

        Args:
            q_pre, k_pre: queries and keys before rotation.
            q, k, v: rotated queries and keys, and values.
        """

    def attend(
        self,
        q: mx.array,
        k: mx.array | Packed,
        v: mx.array | Packed,
        *,
        scale: float,
        mask: Mask,
        gate: GateTerms | None,
        path: Path | None,
    ) -> mx.array:
        """Attention in place of `attention.attend`.

        Args:
            q: rotated queries of the new tokens (B, H, L, d).
            k, v: rotated keys and values of all tokens (B, G, K, d), or packed ones.
            scale, mask, gate, path: as of `attention.attend`.

        Returns:
            The heads' outputs (B, H, L, d).
        """

    @property
    def edits_sublayers(self) -> bool:
        """Whether `sublayer` is to be called."""

    def sublayer(self, kind: Sublayer, output: mx.array) -> mx.array:
        """What attention or the MLP adds to the residual stream (B, L, hidden), as it is to be."""

    def leave(self, x: mx.array) -> KeptTokens | None:
        """The tokens that go on, from the block's output (B, L, hidden); None for all."""


class PassHooks(Protocol):
    """What goes with the passes over one conversation."""

    @property
    def prefix_reusable(self) -> bool:
        """Whether a cache may be trimmed to a shorter prefix and read on from there."""

    @property
    def chunkable(self) -> bool:
        """Whether a prompt may be read in chunks."""

    @property
    def arrays(self) -> list[mx.array]:
        """Arrays of the state, for evaluation."""

    @property
    def tokens(self) -> LayerKeys:
        """The keys of the first layer: everything read so far."""

    def plan(self, prompts: Sequence[Prompt], features: Mapping[str, mx.array]) -> None:
        """Look at prompts that are about to be read; features by image digest."""

    def read(self, tokens: TokenMap, start: int, stop: int) -> None:
        """Announce a pass over tokens [start, stop) of a prompt, which follow those of the cache.

        Args:
            tokens: what the prompt's tokens are.
            start: index of the first token of the pass.
            stop: index after the last one.
        """

    def read_batch(self, tokens: Sequence[TokenMap], length: int) -> None:
        """Announce a pass over whole prompts, padded on the left to one length."""

    def write(self, position: int) -> None:
        """Announce a pass over one generated token at a rotary position."""

    def trim(self, length: int) -> None:
        """Forget every token from position `length` on."""

    def tokens_of(self, layer: int) -> LayerKeys:
        """The keys of a layer; those after a pruning one may be fewer."""

    def enter(self, layer: int, x: mx.array) -> LayerHooks:
        """Begin a layer's pass over the announced tokens; x (B, L, hidden) is the block's input."""

    def prune(self, layer: int, kept: KeptTokens) -> None:
        """Later layers hold only these of the announced tokens."""

    def pruned_now(self, layer: int) -> bool:
        """Whether the tokens of a layer became fewer in this very pass."""
