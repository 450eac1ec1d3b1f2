"""Safetensors files that may have been made by anyone: headers are checked here before MLX opens the file.

A file is eight bytes with the length of its header, the header (a JSON object: tensor name to dtype, shape and byte
range), and the bytes. What is accepted is what the format's own documentation allows: every byte belongs to exactly
one tensor. https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from rave_mlx.errors import ModelError

DTYPES: dict[str, mx.Dtype] = {
    "F32": mx.float32,
    "F16": mx.float16,
    "BF16": mx.bfloat16,
    "I8": mx.int8,
    "I16": mx.int16,
    "I32": mx.int32,
    "I64": mx.int64,
    "U8": mx.uint8,
    "U16": mx.uint16,
    "U32": mx.uint32,
    "U64": mx.uint64,
    "BOOL": mx.bool_,
}
"""Types that are read, by the format's name of them."""
CODES = {dtype: code for code, dtype in DTYPES.items()}
HEADER_LIMIT = 25_000_000
"""Bytes of the longest header that is read; the largest models published have headers of a few MB."""
_SIDE_LIMIT, _AXES_LIMIT = 2**31 - 1, 16
_FIELDS = {"dtype", "shape", "data_offsets"}
_METADATA = "__metadata__"
_AGAIN = "download or convert it again"


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: where it lies and what it is; `first` and `end` count from the end of the header."""

    file: Path
    dtype: mx.Dtype
    shape: tuple[int, ...]
    first: int
    end: int


class Tensors(Mapping[str, mx.array]):
    """Lazy tensors of several files by name.

    An access gives a new array whose bytes are read when it is evaluated, and none but the latest is kept: what the
    caller drops is out of memory. Asked for the latest again (several slices of one tensor), it is the same array.
    """

    def __init__(self, entries: Mapping[str, Entry]):
        self.entries = entries
        self._opened: dict[Path, dict[str, mx.array]] = {}
        self._latest: tuple[str, mx.array] | None = None

    def __getitem__(self, name: str) -> mx.array:
        if self._latest is not None and self._latest[0] == name:
            return self._latest[1]
        file = self.entries[name].file
        if name not in self._opened.get(file, {}):
            self._opened[file] = _load(file)
        self._latest = name, self._opened[file].pop(name)
        return self._latest[1]

    def __contains__(self, name: object) -> bool:
        return name in self.entries

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


def open_files(files: Iterable[Path]) -> Tensors:
    """The tensors of these files.

    Raises:
        ModelError: for a file that is no complete safetensors file (see `read_entries`), or a name that occurs twice.
    """
    entries: dict[str, Entry] = {}
    for file in files:
        part = read_entries(file)
        twice = part.keys() & entries.keys()
        if twice:
            name = min(twice)
            raise ModelError(f"{file}: tensor {name} is also in {entries[name].file.name}; remove the stale file")
        entries |= part
    return Tensors(entries)


def read_entries(file: Path) -> dict[str, Entry]:
    """The checked header of a file, in the order of the bytes.

    Raises:
        ModelError: when the file is truncated or malformed, or holds a type that is not read.
    """
    try:
        # A device or a pipe of this name could be read for ever.
        if not stat.S_ISREG(file.stat().st_mode):
            raise ModelError(f"{file}: is not a regular file; {_AGAIN}")
        with file.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            length = int.from_bytes(stream.read(8), "little")
            if size < 8 or length > size - 8:
                raise _broken(file, f"the header should have {length} bytes, the file has {size}")
            if length > HEADER_LIMIT:
                raise _broken(file, f"a header of {length} bytes; {HEADER_LIMIT} is the most that is read")
            header = stream.read(length)
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror})") from None
    return parse_header(header, size - 8 - length, file)


def parse_header(header: bytes, data_bytes: int, file: Path) -> dict[str, Entry]:
    """The entries of a header that is followed by `data_bytes` bytes, in their order.

    Raises:
        ModelError: naming the tensor and what is wrong with it.
    """
    try:
        parsed = json.loads(header.decode("utf-8"), object_pairs_hook=_unique)
    except UnicodeDecodeError:
        raise _broken(file, "the header is not UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise _broken(file, f"the header is not valid JSON: {error}") from None
    if not isinstance(parsed, dict) or not header.startswith(b"{"):
        raise _broken(file, "the header is not a JSON object")
    _check_metadata(parsed.pop(_METADATA, {}), file)
    entries = {name: _entry(name, value, file) for name, value in parsed.items()}
    entries = dict(sorted(entries.items(), key=lambda item: (item[1].first, item[1].end)))
    reached = 0
    for name, entry in entries.items():
        if entry.first != reached:
            kind = "overlaps the tensor before it" if entry.first < reached else "leaves a hole before it"
            raise _broken(file, f"tensor {name} {kind} (bytes {entry.first} to {entry.end})")
        reached = entry.end
    if reached != data_bytes:
        raise _broken(file, f"its tensors have {reached} bytes, {data_bytes} are there")
    return entries


def _entry(name: str, value: Any, file: Path) -> Entry:
    if not name or len(name) > 1000 or not name.isprintable():
        raise _broken(file, f"{name[:80]!r} is no name of a tensor")
    if not isinstance(value, dict) or value.keys() != _FIELDS:
        raise _broken(file, f"tensor {name} should have exactly dtype, shape and data_offsets")
    code, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(code, str) or code not in DTYPES:
        raise ModelError(
            f"{file}: tensor {name} has type {str(code)[:20]!r}, which is not read ({', '.join(DTYPES)} are); "
            "use the 16-bit version of the model"
        )
    if not _naturals(shape) or len(shape) > _AXES_LIMIT or any(side > _SIDE_LIMIT for side in shape):
        raise _broken(file, f"tensor {name} has the shape {_shown(shape)}")
    if not _naturals(offsets) or len(offsets) != 2:
        raise _broken(file, f"tensor {name} has the byte range {_shown(offsets)}")
    first, end = offsets
    need = math.prod(shape) * DTYPES[code].size
    if end - first != need:
        raise _broken(file, f"tensor {name} needs {need} bytes for {code} {_shown(shape)} and has {end - first}")
    return Entry(file, DTYPES[code], tuple(shape), first, end)


def _check_metadata(metadata: Any, file: Path) -> None:
    # MLX writes null where it is given no metadata.
    if metadata is not None and not (isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())):
        raise _broken(file, f"{_METADATA} is not an object of strings")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys are all different. Parsers differ in which of two equal keys they take."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        again = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {again[:80]!r} occurs twice")
    return found


def _naturals(value: Any) -> bool:
    """Whether this is a list of non-negative integers."""
    return isinstance(value, list) and all(type(v) is int and v >= 0 for v in value)


def _shown(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _broken(file: Path, problem: str) -> ModelError:
    return ModelError(f"{file}: not a complete safetensors file ({problem}); {_AGAIN}")


def _load(file: Path) -> dict[str, mx.array]:
    try:
        tensors = mx.load(str(file), format="safetensors")
    except (RuntimeError, ValueError) as error:
        raise _broken(file, str(error)) from None
    assert isinstance(tensors, dict)
    return tensors
