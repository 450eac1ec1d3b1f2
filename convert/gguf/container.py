"""Settings and tensors of GGUF files, through the `gguf` package; a model may lie in several files.

The package trusts a file: it reads past the end without a word, and makes an array for every number of a list. Both
are corrected here.
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType
from gguf.gguf_reader import ReaderField
from numpy.typing import DTypeLike, NDArray

from rave_mlx.errors import ModelError

_PART = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.gguf")
"""The name of one of several files, as llama.cpp's gguf-split writes it."""


@dataclass(frozen=True)
class Stored:
    """A tensor as it lies in a file: how, its shape (rows first), and its blocks (uint8) or numbers."""

    kind: GGMLQuantizationType
    shape: tuple[int, ...]
    data: NDArray[Any]

    def give_back(self) -> None:
        """Let go of the file's pages in memory: all of a file would else lie beside what was made of it."""
        whole: Any = self.data
        while isinstance(whole, np.ndarray):
            whole = whole.base
        if isinstance(whole, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            start = self.data.ctypes.data - np.frombuffer(whole, np.uint8).ctypes.data
            first = start // mmap.PAGESIZE * mmap.PAGESIZE
            whole.madvise(mmap.MADV_DONTNEED, first, start + self.data.nbytes - first)


@dataclass(frozen=True)
class Contents:
    """What a model's files hold: `settings` of the first, `tensors` of all."""

    files: tuple[Path, ...]
    settings: Mapping[str, Any]
    tensors: Mapping[str, Stored]


class _Reader(GGUFReader):
    """The package's reader, which stops at the end of the file, and reads a list in one go.

    A vocabulary of 150,000 tokens takes the package ten seconds, and a list of numbers 300 times its bytes.
    """

    def _get(self, offset: int, dtype: DTypeLike, count: int = 1, override_order: Any = None) -> NDArray[Any]:
        found: NDArray[Any] = super()._get(int(offset), dtype, count, override_order)
        if len(found) < count:
            raise ValueError("it ends within a value")
        return found

    def _get_field_parts(
        self, orig_offs: int, raw_type: int
    ) -> tuple[int, list[NDArray[Any]], list[int], list[GGUFValueType]]:
        if raw_type != GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind = GGUFValueType(int(self._get(orig_offs, np.uint32)[0]))
        count = int(self._get(orig_offs + 4, np.uint64)[0])
        start = orig_offs + 12
        if kind in self.gguf_scalar_to_np:
            parts = [self._get(start, self.gguf_scalar_to_np[kind], count)]
            end = start + parts[0].nbytes
        elif kind == GGUFValueType.STRING:
            parts, end = self._strings(start, count)
        else:
            raise ValueError(f"a list of {kind.name.lower()}s")
        return end - orig_offs, parts, list(range(len(parts))), [GGUFValueType.ARRAY, kind]

    def _strings(self, start: int, count: int) -> tuple[list[NDArray[Any]], int]:
        data = self.data.view(np.ndarray)
        found = []
        for _ in range(count):
            (length,) = struct.unpack_from("<Q", data.data, start)
            if start + 8 + length > len(data):
                raise ValueError("it ends within a list")
            found.append(data[start + 8 : start + 8 + length])
            start += 8 + length
        return found, start


def read_file(path: Path) -> tuple[dict[str, Any], dict[str, Stored]]:
    """Settings and tensors of one file; the bytes of the tensors are read when they are used.

    Raises:
        ModelError: when the file is truncated or malformed.
    """
    if not path.is_file():
        raise ModelError(f"{path}: no such file")
    try:
        with np.errstate(all="raise"):
            reader = _Reader(path)
            if reader.byte_order != "I":
                raise ValueError("its numbers are big-endian")
            settings = {name: _value(field) for name, field in reader.fields.items() if not name.startswith("GGUF.")}
            tensors = {
                tensor.name: Stored(tensor.tensor_type, tuple(reversed(tensor.shape.tolist())), tensor.data)
                for tensor in reader.tensors
            }
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValueError, KeyError, struct.error, ArithmeticError, RecursionError) as error:
        # The package writes numbers as NumPy shows them.
        reason = re.sub(r"np\.\w+\((-?\d+)\)", r"\1", str(error.args[0] if error.args else error))
        raise ModelError(f"{path}: cannot be read as GGUF ({reason}); download it again") from None
    for name, stored in tensors.items():
        if not 1 <= len(stored.shape) <= 4 or 0 in stored.shape:
            raise ModelError(f"{path}: cannot be read as GGUF (tensor {name} has the shape {list(stored.shape)})")
    return settings, tensors


def read_files(path: Path) -> Contents:
    """A model from its file, or from the first of its files.

    Raises:
        ModelError: for a file that is not the first, or when another one is missing or does not belong to it.
    """
    settings, tensors = read_file(path)
    count = settings.get("split.count", 1)
    if not isinstance(count, int) or count < 2:
        return Contents((path,), settings, tensors)
    files = _parts(path, settings.get("split.no"), count)
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise ModelError(f"{path}: the model lies in {count} files, and {', '.join(missing)} is not beside this one")
    for number, file in enumerate(files[1:], 1):
        part, more = read_file(file)
        if (part.get("split.no"), part.get("split.count")) != (number, count):
            raise ModelError(f"{file}: is not part {number + 1} of {count} by its settings; download it again")
        twice = min(more.keys() & tensors.keys(), default=None)
        if twice is not None:
            raise ModelError(f"{file}: tensor {twice} is in an earlier part too; download it again")
        tensors |= more
    total = settings.get("split.tensors.count", len(tensors))
    if total != len(tensors):
        raise ModelError(f"{path}: its {count} files hold {len(tensors)} tensors instead of {total}; download it again")
    return Contents(files, settings, tensors)


def _parts(path: Path, number: Any, count: int) -> tuple[Path, ...]:
    """The files of a model in several files, by the name of the first."""
    name = _PART.fullmatch(path.name)
    if name is None or int(name[3]) != count:
        raise ModelError(
            f"{path}: is one of {count} files of a model, and its name does not end in -00001-of-{count:05d}.gguf, "
            "by which the others are found"
        )
    files = tuple(path.with_name(f"{name[1]}-{i:05d}-of-{count:05d}.gguf") for i in range(1, count + 1))
    if number != 0 or path != files[0]:
        raise ModelError(f"{path}: is one of {count} files of a model; open the first, {files[0].name}")
    return files


def _value(field: ReaderField) -> Any:
    value = field.contents()
    # The shortest decimal that means the same 32 bits.
    return float(str(np.float32(value))) if field.types == [GGUFValueType.FLOAT32] else value
