"""The layout of a GGUF file: settings and a table of tensors, every number of it checked against the file's size.

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian)
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rave_mlx.convert.gguf_blocks import BLOCKS, Block
from rave_mlx.errors import ModelError

_STRING, _ARRAY, _FLOAT = 8, 9, 6
_NUMBERS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", _FLOAT: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_OTHERS = {
    10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS", 18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL",
    21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 29: "IQ1_M", 34: "TQ1_0", 35: "TQ2_0", 39: "MXFP4",
}  # fmt: skip
"""Names of types that are not read, for messages."""


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in the file: how, its shape (rows first), and its bytes."""

    block: Block
    shape: tuple[int, ...]
    data: NDArray[np.uint8]


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    """Settings and tensors of a file; the bytes of the tensors are read when they are used.

    Raises:
        ModelError: when the file is truncated or malformed, or holds a type of tensor that is not read.
    """
    try:
        with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
            settings, table = _read(path, _Reader(data))
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    except (struct.error, ValueError, OverflowError) as error:
        raise ModelError(f"{path}: cannot be read as GGUF ({error}); download it again") from None
    whole = np.memmap(path, np.uint8, "r")
    return settings, {
        name: Stored(block, shape, whole[first : first + size]) for name, (block, shape, first, size) in table.items()
    }


class _Reader:
    """Reads one value after the other. ValueError, struct.error: where the file ends too early."""

    def __init__(self, data: mmap.mmap):
        self.data = data
        self.at = 0

    def number(self, form: str) -> Any:
        (value,) = struct.unpack_from(form, self.data, self.at)
        self.at += struct.calcsize(form)
        return value

    def string(self) -> str:
        length = self.number("<Q")
        return self.take(length).decode("utf-8")

    def take(self, length: int) -> bytes:
        if length > len(self.data) - self.at:
            raise ValueError("it ends within a value")
        self.at += length
        return self.data[self.at - length : self.at]

    def value(self, kind: int) -> Any:
        if kind == _STRING:
            return self.string()
        if kind == _ARRAY:
            return self.array()
        if kind not in _NUMBERS:
            raise ValueError(f"a value of unknown type {kind}")
        number = self.number(_NUMBERS[kind])
        # The shortest decimal that means the same 32 bits.
        return float(str(np.float32(number))) if kind == _FLOAT else number

    def array(self) -> list[Any]:
        kind, count = self.number("<I"), self.number("<Q")
        if kind == _STRING:
            if count > len(self.data) // 8:
                raise ValueError("it ends within a list")
            return [self.string() for _ in range(count)]
        if kind not in _NUMBERS:
            raise ValueError(f"a list of type {kind}")
        form = np.dtype(_NUMBERS[kind])
        numbers: list[Any] = np.frombuffer(self.take(count * form.itemsize), form).tolist()
        return numbers


def _read(path: Path, file: _Reader) -> tuple[dict[str, Any], dict[str, tuple[Block, tuple[int, ...], int, int]]]:
    """Settings; and of every tensor its kind, shape, first byte and size in bytes."""
    if file.take(4) != b"GGUF":
        raise ValueError("it does not begin with GGUF")
    version = file.number("<I")
    if version not in (2, 3):
        raise ValueError(f"its version is {version}, only 2 and 3 are known")
    tensors, values = file.number("<Q"), file.number("<Q")
    settings: dict[str, Any] = {}
    for _ in range(values):
        name = file.string()
        if name in settings:
            raise ValueError(f"{name} is given twice")
        settings[name] = file.value(file.number("<I"))
    table: dict[str, tuple[Block, tuple[int, ...], int]] = {}
    for _ in range(tensors):
        name = file.string()
        if name in table:
            raise ValueError(f"tensor {name} is there twice")
        sides = [file.number("<Q") for _ in range(min(file.number("<I"), 5))]
        table[name] = (_block(path, name, file.number("<I"), sides), tuple(reversed(sides)), file.number("<Q"))
    alignment = settings.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment < 1:
        raise ValueError(f"general.alignment is {alignment!r}")
    start = -(-file.at // alignment) * alignment
    placed = {}
    for name, (block, shape, offset) in table.items():
        size = math.prod(shape) // block.weights * block.bytes
        if start + offset + size > len(file.data):
            raise ValueError(f"it ends within tensor {name}")
        placed[name] = (block, shape, start + offset, size)
    return settings, placed


def _block(path: Path, name: str, kind: int, sides: list[int]) -> Block:
    if kind not in BLOCKS:
        raise ModelError(
            f"{path}: tensor {name} has type {_OTHERS.get(kind, kind)}, which is not read, only "
            f"{', '.join(block.name for block in BLOCKS.values())}; take a file of one of these"
        )
    if not 1 <= len(sides) <= 4 or 0 in sides or sides[0] % BLOCKS[kind].weights:
        raise ValueError(f"tensor {name} has the shape {sides}")
    return BLOCKS[kind]
