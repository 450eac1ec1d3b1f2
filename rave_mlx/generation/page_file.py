"""The file of an entry of the page cache: tensors, and a check that it is whole and what its name says.

A SHA-256 over its name and its contents comes first, then the contents, in the manner of safetensors: the length of a
header, the header (JSON: type, shape and place of each tensor), and the tensors' bytes.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import mlx.core as mx
import numpy as np

_CHECK = hashlib.sha256().digest_size
_LAYOUT = "rave-mlx page 1"
"""Stands for what an entry looks like; files of another layout fail the check."""
_LENGTH = 8
"""Bytes of the number in front of the header."""
_WORDS = {1: (mx.uint8, np.uint8), 2: (mx.uint16, np.uint16), 4: (mx.uint32, np.uint32)}
"""Unsigned words of a size in bytes, in MLX and NumPy, which has no bfloat16."""
TYPES = {
    "float32": mx.float32,
    "float16": mx.float16,
    "bfloat16": mx.bfloat16,
    "uint32": mx.uint32,
    "uint8": mx.uint8,
}
"""Types that are kept, by name."""


def write(key: str, tensors: Mapping[str, mx.array], out: BinaryIO) -> None:
    """Write an entry; its tensors are computed one at a time.

    Args:
        key: its name.
        tensors: of the types in `TYPES`.
        out: an empty file.

    Raises:
        OSError: when it cannot be written.
    """
    check = _begun(key)
    out.write(bytes(_CHECK))
    for piece in _pieces(tensors):
        check.update(piece)
        out.write(piece)
    out.seek(0)
    out.write(check.digest())


def read(key: str, data: bytes) -> dict[str, mx.array] | None:
    """The tensors of an entry; None where these bytes are not the whole of it.

    Args:
        key: its name.
        data: all of the file.
    """
    content, check = memoryview(data)[_CHECK:], _begun(key)
    check.update(content)
    return dict(_tensors(content)) if data[:_CHECK] == check.digest() else None


def _begun(key: str) -> hashlib._Hash:
    """The check of an entry of this name, to which its contents are still to be added."""
    return hashlib.sha256(f"{_LAYOUT} {key}\n".encode())


def _pieces(tensors: Mapping[str, mx.array]) -> Iterator[bytes | memoryview]:
    """The contents of an entry, one tensor in memory at a time."""
    header, place = {}, 0
    for name, x in tensors.items():
        kind = str(x.dtype).removeprefix("mlx.core.")
        header[name] = {"dtype": kind, "shape": x.shape, "data_offsets": [place, place + x.nbytes]}
        place += x.nbytes
    text = json.dumps(header).encode()
    yield len(text).to_bytes(_LENGTH, "little") + text
    for x in tensors.values():
        yield np.asarray(mx.contiguous(x).view(_WORDS[x.dtype.size][0])).reshape(-1).data


def _tensors(content: memoryview) -> Iterator[tuple[str, mx.array]]:
    """The tensors of an entry by name."""
    start = _LENGTH + int.from_bytes(content[:_LENGTH], "little")
    for name, entry in json.loads(bytes(content[_LENGTH:start])).items():
        kind, (first, last) = TYPES[entry["dtype"]], entry["data_offsets"]
        words = np.frombuffer(content[start + first : start + last], _WORDS[kind.size][1])
        yield name, mx.array(words.reshape(entry["shape"])).view(kind)
