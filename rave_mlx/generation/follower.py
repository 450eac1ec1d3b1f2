"""A process of a split model that is not the first: it does what process 0 says, with its part of the decoder."""

from __future__ import annotations

from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx import backend
from rave_mlx.backend.channel import Link, Message
from rave_mlx.backend.gpu_memory import CLEAR_EVERY, clear_cache, wired_memory
from rave_mlx.config import TextConfig
from rave_mlx.generation.batch_cache import CachedRow, layers_side_by_side
from rave_mlx.generation.prefix_store import fork
from rave_mlx.models.kv_cache import Cache
from rave_mlx.models.split.decoder import PartDecoder, positions_from, unpacked_input

_MANY_TOKENS = 32


class Follower:
    """Runs passes and keeps caches as process 0 says.

    Args:
        decoder: this process' part.
        link: to process 0.
    """

    def __init__(self, decoder: PartDecoder, link: Link):
        self._decoder, self._link = decoder, link
        self._caches: dict[int, Cache] = {}
        self._passes = 0
        self._last: mx.array | None = None

    def run(self) -> Message:
        """Work until process 0 opens another model, or ends; returns what it said."""
        with wired_memory():
            while True:
                message, arrays = self._link.take()
                for number in message.get("dropped", ()):
                    self._caches.pop(number, None)
                if message["do"] in ("load", "end"):
                    return message
                getattr(self, f"_{message['do']}")(message, arrays)

    def _pass(self, message: Message, arrays: dict[str, NDArray[Any]]) -> None:
        """Run the decoder over what process 0 sends along."""
        given = {name: mx.array(x) for name, x in arrays.items()}
        sent = mx.zeros(message["shape"], getattr(mx, message["type"]))
        # In the order of the passes, as in process 0.
        sent = sent if self._last is None else mx.depends([sent], [self._last])[0]
        x, deepstack = unpacked_input(self._decoder.shared(sent))
        cache = None if message["cache"] is None else self._caches[message["cache"]]
        span = message["gate_span"]
        self._last = self._decoder.hidden(
            x,
            positions_from(message["first"], x.shape[1], given.get("positions")),
            given.get("visual"),
            cache=cache,
            gate_span=None if span is None else (span[0], span[1]),
            valid=given.get("valid"),
            lookahead=given.get("lookahead"),
            deepstack=deepstack,
            longest=message["longest"],
            path=message["path"],
        )
        mx.async_eval(self._last, [] if cache is None else [a for layer in cache.layers for a in layer.arrays])
        self._passes += 1
        if x.shape[1] > _MANY_TOKENS or self._passes % CLEAR_EVERY == 0:
            clear_cache()

    def _make(self, message: Message, _: dict[str, NDArray[Any]]) -> None:
        text: TextConfig = self._decoder.text
        if backend.current().kind != "cpu":
            self._decoder.join()
        linear = () if text.linear is None else text.linear.layers
        self._caches[message["cache"]] = Cache(
            text.num_layers, gated=False, linear=linear, kv_bits=message["kv_bits"]
        )  # fmt: skip

    def _trim(self, message: Message, _: dict[str, NDArray[Any]]) -> None:
        self._caches[message["cache"]].trim(message["length"])

    def _keep_states(self, message: Message, _: dict[str, NDArray[Any]]) -> None:
        self._caches[message["cache"]].keep_states()

    def _keep_first(self, message: Message, _: dict[str, NDArray[Any]]) -> None:
        for state in self._caches[message["cache"]].states.values():
            state.keep_first(message["counts"], message["length"])

    def _fork(self, message: Message, _: dict[str, NDArray[Any]]) -> None:
        self._caches[message["cache"]] = fork(self._caches[message["of"]], message["length"])

    def _side_by_side(self, message: Message, arrays: dict[str, NDArray[Any]]) -> None:
        rows = []
        for index, (number, row) in enumerate(message["rows"]):
            slots = arrays[str(index)].astype(np.int64)
            rows.append(CachedRow(self._caches[number], row, slots, np.zeros(len(slots), bool)))
        batch = Cache(len(rows[0].cache.layers), gated=False)
        batch.layers = layers_side_by_side(rows, message["length"])
        self._caches[message["cache"]] = batch
