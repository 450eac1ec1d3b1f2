"""Redirect functions that a loaded shared library imports, by rewriting its global offset table.

A library calls an imported function through a slot that the dynamic linker has filled. Storing another address
there redirects the calls of this one library, whatever was loaded first and whatever names other libraries
export: neither LD_PRELOAD nor RTLD_GLOBAL gives that. Linux with 64-bit little-endian ELF (x86-64, aarch64) only;
everything read is checked against the library's own segments, and anything unexpected raises `ImportTableError`. No
library does it: pyelftools and lief read and write files, while this changes a library that is loaded already.
Format: System V ABI, chapter 5 (dynamic linking), with the psABI relocation types of the two processors.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import platform
import struct
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NEEDED, _DT_PLTRELSZ, _DT_STRTAB, _DT_SYMTAB, _DT_RELA, _DT_RELASZ, _DT_RELAENT = 1, 2, 5, 6, 7, 8, 9
_DT_STRSZ, _DT_SYMENT, _DT_PLTREL, _DT_JMPREL = 10, 11, 20, 23
_SLOT_TYPES = {"x86_64": (6, 7), "aarch64": (1025, 1026)}
"""R_*_GLOB_DAT and R_*_JUMP_SLOT."""
_RELA = struct.Struct("<QQq")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")


class ImportTableError(Exception):
    """The library's dynamic section is not what this module knows how to change."""


@dataclass(frozen=True)
class Image:
    """A loaded library: file name, load bias and its segments as (type, address, size)."""

    path: str
    base: int
    segments: tuple[tuple[int, int, int], ...]

    def check(self, address: int, size: int) -> int:
        """The address, if [address, address + size) lies within one loaded segment."""
        for kind, start, length in self.segments:
            if kind == _PT_LOAD and start <= address and address + size <= start + length:
                return address
        raise ImportTableError(f"{self.path}: a table lies outside the loaded file")

    def read(self, address: int, size: int) -> bytes:
        """Bytes of the mapped library."""
        return ctypes.string_at(self.check(address, size), size)


class _HeaderInfo(ctypes.Structure):
    """struct dl_phdr_info, the part that all C libraries share."""

    _fields_ = (
        ("base", ctypes.c_uint64),
        ("name", ctypes.c_char_p),
        ("headers", ctypes.c_void_p),
        ("count", ctypes.c_uint16),
    )


def loaded() -> list[Image]:
    """All shared libraries of this process.

    Raises:
        ImportTableError: on a system other than 64-bit little-endian Linux.
    """
    if sys.platform != "linux" or sys.byteorder != "little" or platform.machine() not in _SLOT_TYPES:
        raise ImportTableError(f"not supported on {sys.platform} {platform.machine()}")
    images: list[Image] = []
    signature = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(_HeaderInfo), ctypes.c_size_t, ctypes.c_void_p)

    def visit(info: ctypes._Pointer[_HeaderInfo], _size: int, _data: int | None) -> int:
        entry = info.contents
        raw = ctypes.string_at(entry.headers, entry.count * _PROGRAM_HEADER.size)
        rows = _PROGRAM_HEADER.iter_unpack(raw)
        segments = tuple((kind, entry.base + address, size) for kind, _, _, address, _, _, size, _ in rows)
        images.append(Image(os.fsdecode(entry.name or b""), entry.base, segments))
        return 0

    ctypes.CDLL(None).dl_iterate_phdr(signature(visit), None)
    return images


class ImportTable:
    """The imported functions of one loaded library and where their addresses are kept."""

    def __init__(self, image: Image) -> None:
        self.image = image
        self._dynamic = self._read_dynamic()
        for tag, size in ((_DT_RELAENT, _RELA.size), (_DT_SYMENT, 24), (_DT_PLTREL, _DT_RELA)):
            if self._dynamic.get(tag, [size])[0] != size:
                raise ImportTableError(f"{image.path}: dynamic entry {tag} is {self._dynamic[tag][0]}, expected {size}")
        self._strings = image.read(self._pointer(_DT_STRTAB), self._number(_DT_STRSZ))

    @property
    def needed(self) -> list[str]:
        """Names of the libraries it is linked against."""
        return [self._string(offset) for offset in self._dynamic.get(_DT_NEEDED, [])]

    def slots(self, names: set[str]) -> dict[str, list[int]]:
        """Addresses of the slots through which the functions `names` are called."""
        found: dict[str, list[int]] = {}
        symbols = self._pointer(_DT_SYMTAB)
        for offset, info in self._relocations():
            if info & 0xFFFFFFFF in _SLOT_TYPES[platform.machine()] and info >> 32:
                (name_at,) = struct.unpack("<I", self.image.read(symbols + 24 * (info >> 32), 4))
                name = self._string(name_at)
                if name in names:
                    slot = self.image.check(self.image.base + offset, 8)
                    if slot % 8:
                        raise ImportTableError(f"{self.image.path}: the slot of {name} is not aligned")
                    found.setdefault(name, []).append(slot)
        return found

    def _relocations(self) -> Iterator[tuple[int, int]]:
        for table, size in ((_DT_JMPREL, _DT_PLTRELSZ), (_DT_RELA, _DT_RELASZ)):
            if table in self._dynamic:
                raw = self.image.read(self._pointer(table), self._number(size))
                if len(raw) % _RELA.size:
                    raise ImportTableError(f"{self.image.path}: a relocation table is cut short")
                yield from ((offset, info) for offset, info, _ in _RELA.iter_unpack(raw))

    def _read_dynamic(self) -> dict[int, list[int]]:
        section = [(start, size) for kind, start, size in self.image.segments if kind == _PT_DYNAMIC]
        if len(section) != 1:
            raise ImportTableError(f"{self.image.path}: no dynamic section")
        start, size = section[0]
        entries: dict[int, list[int]] = {}
        for tag, value in struct.iter_unpack("<QQ", self.image.read(start, size // 16 * 16)):
            if tag == 0:
                break
            entries.setdefault(tag, []).append(value)
        return entries

    def _number(self, tag: int) -> int:
        try:
            return self._dynamic[tag][0]
        except KeyError:
            raise ImportTableError(f"{self.image.path}: dynamic entry {tag} is missing") from None

    def _pointer(self, tag: int) -> int:
        # glibc turns these entries into addresses when it loads a library, musl leaves the file's offsets.
        value = self._number(tag)
        return value if value >= self.image.base else value + self.image.base

    def _string(self, offset: int) -> str:
        end = self._strings.find(b"\0", offset)
        if not 0 <= offset <= end:
            raise ImportTableError(f"{self.image.path}: a name lies outside the string table")
        return os.fsdecode(self._strings[offset:end])


def store(values: Mapping[int, int]) -> dict[int, int]:
    """Write addresses into slots and return what stood there, in the same form.

    Raises:
        ImportTableError: when a page cannot be made writable; slots written before it are put back.
    """
    before: dict[int, int] = {}
    try:
        for slot, value in values.items():
            before[slot] = _store_one(slot, value)
    except ImportTableError:
        for slot, value in before.items():
            _store_one(slot, value)
        raise
    return before


def _store_one(slot: int, value: int) -> int:
    protection = _protection(slot)
    writable = bool(protection & mmap.PROT_WRITE)
    if not writable:
        _protect(slot, protection | mmap.PROT_WRITE)
    cell = ctypes.c_uint64.from_address(slot)
    before = cell.value
    cell.value = value
    if not writable:
        _protect(slot, protection)
    return before


def _protection(address: int) -> int:
    """The access a page allows now, as mmap.PROT_* bits."""
    bits = {"r": mmap.PROT_READ, "w": mmap.PROT_WRITE, "x": mmap.PROT_EXEC}
    try:
        with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as maps:  # noqa: PTH123
            for line in maps:
                span, access, _ = line.split(" ", 2)
                start, end = (int(x, 16) for x in span.split("-"))
                if start <= address < end:
                    return sum(bits.get(letter, 0) for letter in access)
    except OSError as error:
        raise ImportTableError(f"the memory map cannot be read ({error.strerror})") from None
    raise ImportTableError("a slot lies outside the memory map")


def _protect(slot: int, protection: int) -> None:
    page = slot & -mmap.PAGESIZE
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mprotect(ctypes.c_void_p(page), ctypes.c_size_t(mmap.PAGESIZE), protection):
        raise ImportTableError(f"mprotect: {os.strerror(ctypes.get_errno())}")
