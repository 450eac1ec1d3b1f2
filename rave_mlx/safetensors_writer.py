"""Write safetensors files as a stream: the header first, then one tensor after the other.

MLX tells shape and type of an array before it is computed, so sizes and headers are known before the first byte is
read. Each tensor is then evaluated, written and dropped; whatever the size of the model, memory holds one of them
(and what its computation takes).
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import BinaryIO

import mlx.core as mx
import numpy as np

from rave_mlx.errors import ModelError
from rave_mlx.safetensors_files import CODES

SHARD_BYTES = 5 * 10**9
"""Largest file that is written, save for a tensor that is larger by itself."""
_ALIGNMENT = 8
_WORDS = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32, 8: mx.uint64}

Named = tuple[str, mx.array]
Evaluate = Callable[[str, mx.array], None]
"""Computes a tensor, given its name."""
Progress = Callable[[int, int], None]
"""Told the bytes written and the bytes in all."""


def write_files(
    folder: Path,
    tensors: Iterable[Named],
    *,
    metadata: str = "mlx",
    evaluate: Evaluate | None = None,
    progress: Progress | None = None,
) -> None:
    """Write `model.safetensors`, or several numbered files with an index.

    Args:
        folder: where to.
        tensors: lazy tensors by name.
        metadata: who reads them ("mlx", "pt"): the `format` that other programs look for.
        evaluate: computes a tensor before it is written; None for `mx.eval`.
        progress: called after each tensor.

    Raises:
        ModelError: when there is not enough room on the disk, or a tensor cannot be read.
        OSError: when a file cannot be written.
    """
    waiting = list(tensors)
    total = sum(tensor.nbytes for _, tensor in waiting)
    check_room(folder, total)
    shards = _split(waiting)
    # From here on only `shards` refers to the arrays, and lets go of each.
    del waiting
    names = file_names(len(shards))
    if len(shards) > 1:
        index = {name: file for file, shard in zip(names, shards, strict=True) for name, _ in shard}
        text = json.dumps({"metadata": {"total_size": total}, "weight_map": index}, indent=1)
        (folder / "model.safetensors.index.json").write_text(text + "\n", encoding="utf-8")
    done = 0
    for file, shard in zip(names, shards, strict=True):
        with (folder / file).open("wb") as stream:
            stream.write(_header(shard, metadata))
            shard.reverse()
            while shard:
                name, tensor = shard.pop()
                _evaluate(name, tensor, evaluate)
                _write(stream, tensor)
                done += tensor.nbytes
                del tensor
                mx.clear_cache()
                if progress is not None:
                    progress(done, total)


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
    header: dict[str, object] = {"__metadata__": {"format": metadata}}
    first = 0
    for name, tensor in tensors:
        end = first + tensor.nbytes
        header[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [first, end]}
        first = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _evaluate(name: str, tensor: mx.array, evaluate: Evaluate | None) -> None:
    try:
        if evaluate is None:
            mx.eval(tensor)
        else:
            evaluate(name, tensor)
    except RuntimeError as error:
        raise ModelError(f"tensor {name} cannot be read ({error}); download or convert the model again") from None


def _write(stream: BinaryIO, tensor: mx.array) -> None:
    if tensor.nbytes:
        # NumPy has no bfloat16; words of the same width have the same bytes.
        stream.write(np.ascontiguousarray(np.asarray(tensor.view(_WORDS[tensor.dtype.size]))).data)
