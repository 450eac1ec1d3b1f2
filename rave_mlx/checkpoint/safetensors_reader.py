"""Safetensors files that may have been made by anyone: checked by the `safetensors` library before MLX opens them.

The library refuses headers that are truncated, malformed or too long, and tensors that overlap, leave holes or do not
have the bytes that their type and shape need. MLX, which gives lazy arrays and the library does not, trusts a header.
What the library lets through, and is refused here nevertheless, says why. https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from safetensors import SafetensorError, safe_open

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
"""Bytes of the longest header that is read; the largest models published have headers of a few MB. The library's own
limit is 100 MB, of which the search for equal keys would make gigabytes."""
_SIDE_LIMIT, _AXES_LIMIT = 2**31 - 1, 16
"""What a shape of MLX can hold; it does not look."""
_FIELDS = {"dtype", "shape", "data_offsets"}
_METADATA = "__metadata__"
_AGAIN = "download or convert it again"
_SHOWN = 200
"""Characters of the library's message that are repeated."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file: where it lies and what it is."""

    file: Path
    dtype: mx.Dtype
    shape: tuple[int, ...]


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
        with safe_open(str(file), framework="np") as opened:
            slices = {name: opened.get_slice(name) for name in opened.offset_keys()}
            described = {name: (s.get_dtype(), s.get_shape()) for name, s in slices.items()}
        _check_keys(file)
    except SafetensorError as error:
        raise _broken(file, str(error).removeprefix("Error while deserializing header: ")) from None
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror or error})") from None
    return {name: read_entry(name, code, shape, file) for name, (code, shape) in described.items()}


def read_entry(name: str, code: str, shape: Sequence[int], file: Path) -> Entry:
    """One tensor of a header.

    Args:
        name: of the tensor.
        code: the format's name of its type.
        shape: its sides.
        file: where it lies, for errors too.

    Raises:
        ModelError: for what can be neither shown nor read.
    """
    # Names are shown in messages, and must not steer a terminal.
    if not name or len(name) > 1000 or not name.isprintable():
        raise _broken(file, f"{name[:80]!r} is no name of a tensor")
    if code not in DTYPES:
        raise ModelError(
            f"{file}: tensor {name} has type {code[:20]!r}, which is not read ({', '.join(DTYPES)} are); "
            "use the 16-bit version of the model"
        )
    if len(shape) > _AXES_LIMIT or any(not 0 <= side <= _SIDE_LIMIT for side in shape):
        raise _broken(file, f"tensor {name} has the shape {str(list(shape))[:80]}")
    return Entry(file, DTYPES[code], tuple(shape))


def _check_keys(file: Path) -> None:
    """Refuse keys that readers would take differently: equal ones, and unknown ones of a tensor."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > HEADER_LIMIT:
            raise _broken(file, f"a header of {length} bytes; {HEADER_LIMIT} is the most that is read")
        header = stream.read(length)
    try:
        parsed = json.loads(header, object_pairs_hook=_unique)
    except ValueError as error:
        raise _broken(file, f"in the header, {error}") from None
    for name, value in parsed.items():
        if name != _METADATA and value.keys() != _FIELDS:
            raise _broken(file, f"tensor {name[:80]} should have exactly dtype, shape and data_offsets")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, refused where a key occurs twice: readers differ in which of the two they take."""
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        again = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"key {again[:80]!r} occurs twice")
    return found


def _broken(file: Path, problem: str) -> ModelError:
    """The error for a file that is damaged or was made with intent."""
    # The library quotes the header, which may hold anything.
    clean = "".join(c if c.isprintable() else "?" for c in problem[:_SHOWN])
    return ModelError(f"{file}: not a complete safetensors file ({clean}); {_AGAIN}")


def _load(file: Path) -> dict[str, mx.array]:
    """All tensors of a file, lazy."""
    try:
        tensors = mx.load(str(file), format="safetensors")
    except (RuntimeError, ValueError) as error:
        raise _broken(file, str(error)) from None
    assert isinstance(tensors, dict)
    return tensors
