"""Process 0 of a split model: it has the tokenizer, the vision tower, the embedding and the head, chooses every token,
and tells the others what goes through their parts of the decoder.

The others know no prompts, no jobs and no clock. For each pass of the decoder they are told its inputs, for each change
of a cache which one, in the order in which both happen here: nothing is decided twice, so nothing can be decided
differently.
"""

from __future__ import annotations

import itertools
import threading
import weakref
from collections import deque
from collections.abc import Callable, Sequence

import mlx.core as mx
import numpy as np

from rave_mlx.attention import Path
from rave_mlx.backend.channel import Arrays, Link, Message, encoded
from rave_mlx.config import LMMConfig
from rave_mlx.errors import UsageError
from rave_mlx.models.decoder_layer import DecoderLayer
from rave_mlx.models.hooks import PassHooks
from rave_mlx.models.kv_cache import Cache, Mirror
from rave_mlx.models.lmm import LMM
from rave_mlx.models.rope import Consecutive, Positions
from rave_mlx.models.sink_gate import VisualGroups
from rave_mlx.models.split.decoder import PartDecoder, packed_input, unpacked_input
from rave_mlx.models.step import Step

NOT_SPLIT = (
    "attention policies that look into layers (panes among them), and `look`, need all heads of a layer, which no "
    "process of a split model has: choose --attention rave or none, or run the model in one process"
)


class Followers:
    """The other processes, as process 0 sees them."""

    def __init__(self, links: Sequence[Link]):
        self._links = links
        self._numbers = itertools.count()
        # Caches may be given up in any thread, at any time: that is told with the next message.
        self._dropped: deque[int] = deque()
        self.turn = threading.RLock()

    def tell(self, message: Message, arrays: Arrays | None = None) -> None:
        """Send a message to all."""
        with self.turn:
            dropped = [self._dropped.popleft() for _ in range(len(self._dropped))]
            frame = encoded({**message, "dropped": dropped}, arrays)
            for link in self._links:
                link.put(frame)

    def number(self, owner: object) -> int:
        """A new number of a cache, given up with its owner."""
        number = next(self._numbers)
        weakref.finalize(owner, self._dropped.append, number).atexit = False
        return number


class FollowersCache:
    """The further heads of a cache, in the other processes.

    Args:
        followers: the processes.
    """

    def __init__(self, followers: Followers):
        self._followers = followers
        self.number = followers.number(self)

    def trim(self, length: int) -> None:
        """As of `Cache.trim`."""
        self._tell("trim", length=length)

    def keep_states(self) -> None:
        """As of `Cache.keep_states`."""
        self._tell("keep_states")

    def keep_first(self, counts: Sequence[int], length: int) -> None:
        """As of `StateCache.keep_first`, of every state."""
        self._tell("keep_first", counts=list(counts), length=length)

    def fork(self, length: int) -> FollowersCache:
        """That of a cache of the first tokens."""
        copy = FollowersCache(self._followers)
        copy._tell("fork", of=self.number, length=length)
        return copy

    def side_by_side(self, rows: Sequence[tuple[Mirror | None, int, Sequence[int]]], length: int) -> FollowersCache:
        """That of rows of several caches as one; arguments as of `Mirror.side_by_side`."""
        batch = FollowersCache(self._followers)
        held = [(mirror.number, row, slots) for mirror, row, slots in rows if isinstance(mirror, FollowersCache)]
        arrays = {str(index): np.array(slots, np.int32) for index, (_, _, slots) in enumerate(held)}
        message: Message = {"rows": [[number, row] for number, row, _ in held], "length": length}
        self._followers.tell({"do": "side_by_side", "cache": batch.number, **message}, arrays)
        return batch

    def _tell(self, do: str, **message: object) -> None:
        self._followers.tell({"do": do, "cache": self.number, **message})


class LeadingDecoder(PartDecoder):
    """Process 0's part of the decoder, which takes the others along in every pass."""

    def __init__(self, config: LMMConfig, group: mx.distributed.Group, followers: Followers):
        super().__init__(config, group)
        self._followers = followers
        self._last: mx.array | None = None

    def hidden(
        self,
        x: mx.array,
        positions: Positions,
        visual: mx.array | None,
        *,
        ids: mx.array | None = None,
        cache: Cache | None = None,
        gate_span: tuple[int, int] | None = None,
        groups: VisualGroups | None = None,
        valid: mx.array | None = None,
        lookahead: mx.array | None = None,
        deepstack: mx.array | None = None,
        longest: int | None = None,
        path: Path | None = None,
        hooks: PassHooks | None = None,
        call: Callable[[int, DecoderLayer, mx.array, Step], mx.array] | None = None,
    ) -> mx.array:
        """As of `Decoder.hidden`; begun at once, since the others begin as soon as they are told.

        Raises:
            UsageError: for attention policies.
        """
        if hooks is not None or call is not None:
            raise UsageError(NOT_SPLIT)
        sent = packed_input(x, deepstack)
        message: Message = {
            "do": "pass",
            "cache": cache.mirror.number if cache is not None and isinstance(cache.mirror, FollowersCache) else None,
            "shape": sent.shape,
            "type": str(sent.dtype).removeprefix("mlx.core."),
            "first": positions.first if isinstance(positions, Consecutive) else None,
            "gate_span": gate_span,
            "longest": longest,
            "path": path,
        }
        arrays = {"visual": visual, "valid": valid, "lookahead": lookahead}
        if not isinstance(positions, Consecutive):
            arrays["positions"] = positions
        known = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
        length = 0 if cache is None else cache.length
        with self._followers.turn:
            # The processes add up in the order of the passes, whatever is evaluated first.
            sent = sent if self._last is None else mx.depends([sent], [self._last])[0]
            x, deepstack = unpacked_input(self.shared(sent))
            try:
                out = super().hidden(
                    x,
                    positions,
                    visual,
                    cache=cache,
                    gate_span=gate_span,
                    valid=valid,
                    lookahead=lookahead,
                    deepstack=deepstack,
                    longest=longest,
                    path=path,
                )
            except BaseException:
                if cache is not None:
                    cache.trim(length)
                raise
            try:
                self._followers.tell(message, known)
            finally:
                mx.async_eval(out)
            self._last = out
        return out


class SplitLMM(LMM):
    """A model whose decoder is split over processes, in process 0: it is used as any other.

    Args:
        whole: the model without weights.
        decoder: process 0's part.
        followers: the other processes.

    Attributes:
        gates_act: whether any of the pair gates, in whatever process, does something.
    """

    has_all_heads = False

    def __init__(self, whole: LMM, decoder: LeadingDecoder, followers: Followers):
        super().__init__(whole.config, whole.tokenizer, whole.template, whole.path)
        self.decoder = decoder
        self._followers = followers
        self.gates_act = False

    def make_cache(self, *, gate: bool | None = None, hooks: PassHooks | None = None) -> Cache:
        """As of `LMM.make_cache`, in all processes.

        Raises:
            UsageError: for attention policies.
        """
        if hooks is not None:
            raise UsageError(NOT_SPLIT)
        gate = self.gates_act if gate is None else gate
        cache = super().make_cache(gate=gate)
        cache.gated = gate and self.config.gate is not None
        mirror = FollowersCache(self._followers)
        self._followers.tell({"do": "make", "cache": mirror.number, "kv_bits": self.kv_bits})
        cache.mirror = mirror
        return cache
