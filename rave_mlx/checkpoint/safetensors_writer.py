"""Write safetensors files as a stream: the header first, then one tensor after the other.

MLX tells shape and type of an array before it is computed, so sizes and headers are known before the first byte is
read. Each tensor is then computed, written and dropped, while the next ones are being computed already; whatever the
size of the model, memory holds a few of them (and what their computation takes).

No library does this: `safetensors` and MLX write tensors that all are in memory.
"""

from __future__ import annotations

import json
import shutil
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import mlx.core as mx
import numpy as np

from rave_mlx.checkpoint.safetensors_reader import CODES
from rave_mlx.errors import ModelError

SHARD_BYTES = 5 * 10**9
"""Largest file that is written, save for a tensor that is larger by itself."""
_ALIGNMENT = 8
"""Bytes; the format wants the header padded with spaces so that the tensors begin at a multiple."""
_AHEAD = 3
"""Tensors computed while one is written: the scales and biases of a packed weight, and the next weight."""
_WORDS = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}

Named = tuple[str, mx.array]
Progress = Callable[[int, int], None]
"""Told the bytes written and the bytes in all."""


class Watch(Protocol):
    """Somebody who looks at what tensors are computed from, while that is in memory."""

    def beside(self, name: str) -> list[mx.array]:
        """What to compute with the tensor called `name`."""

    def computed(self, name: str) -> None:
        """That is computed now; it may be let go."""


def write_files(
    folder: Path,
    tensors: Iterable[Named],
    *,
    metadata: str = "mlx",
    watch: Watch | None = None,
    progress: Progress | None = None,
) -> None:
    """Write `model.safetensors`, or several numbered files with an index.

    Args:
        folder: where to.
        tensors: lazy tensors by name.
        metadata: who reads them ("mlx", "pt"): the `format` that other programs look for.
        watch: sees each tensor once it is computed.
        progress: called after each tensor.

    Raises:
        ModelError: when there is not enough room on the disk, or a tensor cannot be read.
        OSError: when a file cannot be written.
    """
    waiting = list(tensors)
    total = sum(tensor.nbytes for _, tensor in waiting)
    check_room(folder, total)
    shards = _split(waiting)
    # From here on only the queue refers to the arrays, and lets go of each.
    del waiting
    names = file_names(len(shards))
    if len(shards) > 1:
        index = {name: file for file, shard in zip(names, shards, strict=True) for name, _ in shard}
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=1)
        (folder / "model.safetensors.index.json").write_text(text + "\n", encoding="utf-8")
    headers = [_header(shard, metadata) for shard in shards]
    counts = [len(shard) for shard in shards]
    queue = _Queue(shards, watch)
    done = 0
    for file, header, count in zip(names, headers, counts, strict=True):
        with (folder / file).open("wb") as stream:
            stream.write(header)
            for _ in range(count):
                try:
                    done += _write(stream, queue.take())
                    mx.clear_cache()
                except RuntimeError as error:
                    # Of this tensor or of one that is being computed: MLX tells at its next call.
                    raise ModelError(
                        f"the weights cannot be read ({error}); download or convert the model again"
                    ) from None
                if progress is not None:
                    progress(done, total)


class _Queue:
    """Tensors in order, the next ones being computed: three at most, and no more bytes than the largest has."""

    def __init__(self, shards: list[list[Named]], watch: Watch | None):
        self._waiting = deque(named for shard in shards for named in shard)
        self._started: deque[Named] = deque()
        self._most = max((tensor.nbytes for _, tensor in self._waiting), default=0)
        self._watch = watch
        for shard in shards:
            shard.clear()

    def take(self) -> mx.array:
        """The next tensor, computed."""
        if not self._started:
            self._start()
        name, tensor = self._started.popleft()
        self._start_others()
        mx.eval(tensor, *self._beside(name))
        if self._watch is not None:
            self._watch.computed(name)
        return tensor

    def _start_others(self) -> None:
        """Let the next tensors be computed, as many as there is room for."""
        while self._waiting and len(self._started) < _AHEAD:
            if sum(t.nbytes for _, t in self._started) + self._waiting[0][1].nbytes > self._most:
                return
            self._start()

    def _start(self) -> None:
        """Let the next tensor be computed, whatever its size."""
        name, tensor = self._waiting.popleft()
        mx.async_eval(tensor, *self._beside(name))
        self._started.append((name, tensor))

    def _beside(self, name: str) -> list[mx.array]:
        return [] if self._watch is None else self._watch.beside(name)


def file_names(count: int) -> list[str]:
    """Names of this many weight files."""
    if count == 1:
        return ["model.safetensors"]
    return [f"model-{i:05d}-of-{count:05d}.safetensors" for i in range(1, count + 1)]


def check_room(folder: Path, need: int) -> None:
    """Refuse to start what does not fit on the disk.

    Raises:
        ModelError: with both sizes.
    """
    free = shutil.disk_usage(folder).free
    if need > free:
        raise ModelError(
            f"{folder.parent}: {need / 1e9:.2f} GB are needed on the disk, {free / 1e9:.2f} GB are free; "
            "make room or choose another place"
        )


def _split(tensors: Iterable[Named]) -> list[list[Named]]:
    """The tensors of each file, in order; a file is closed before it would exceed `SHARD_BYTES`."""
    shards: list[list[Named]] = [[]]
    size = 0
    for name, tensor in tensors:
        if shards[-1] and size + tensor.nbytes > SHARD_BYTES:
            shards.append([])
            size = 0
        shards[-1].append((name, tensor))
        size += tensor.nbytes
    return shards


def _header(tensors: Sequence[Named], metadata: str) -> bytes:
    """What stands before the tensors in a file: length of the JSON in 8 bytes, and the JSON."""
    header: dict[str, object] = {"__metadata__": {"format": metadata}}
    first = 0
    for name, tensor in tensors:
        end = first + tensor.nbytes
        header[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [first, end]}
        first = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _write(stream: BinaryIO, tensor: mx.array) -> int:
    """Write the bytes of a computed tensor; returns how many."""
    if tensor.nbytes:
        # NumPy has no bfloat16; words of the same width have the same bytes.
        stream.write(np.ascontiguousarray(np.asarray(tensor.view(_WORDS[tensor.dtype.size]))).data)
    return tensor.nbytes
