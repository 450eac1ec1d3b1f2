"""What the machine has: cores and memory that this process may really use, and a C++ compiler.

Containers and batch systems limit both through control groups (version 1 and 2) and the affinity mask; the
totals that the hardware reports are no use there.
"""

from __future__ import annotations

import math
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")
_UNLIMITED = 1 << 60


@dataclass(frozen=True)
class Memory:
    """Bytes of main memory: `total` that the process may use at most, `available` now without swapping."""

    total: int
    available: int


def cores() -> int:
    """Cores this process may use: the affinity mask, cut to the control group's quota."""
    try:
        allowed = len(os.sched_getaffinity(0))  # type: ignore[attr-defined,unused-ignore]  # not on macOS
    except AttributeError:
        allowed = os.cpu_count() or 1
    quotas = [_quota(folder) for folder in _folders("cpu")]
    return max(1, min([allowed, *(math.ceil(q) for q in quotas if q is not None)]))


def memory() -> Memory:
    """Memory of this process' machine or control group, whichever is smaller."""
    total, available = _physical()
    for folder in _folders("memory"):
        limit = _first_number(folder / "memory.max", folder / "memory.limit_in_bytes")
        used = _first_number(folder / "memory.current", folder / "memory.usage_in_bytes")
        if limit is None or used is None or limit > _UNLIMITED:
            continue
        total = min(total, limit)
        # File pages that nobody looks at count as used but are given back on demand.
        available = min(available, max(0, limit - used + _inactive_files(folder)))
    return Memory(total, available)


def compiler() -> str | None:
    """Path of the g++ that `mx.compile` calls on a CPU, or None."""
    return shutil.which("g++")


def _physical() -> tuple[int, int]:
    """Total and available bytes of the whole machine."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return total, total
    rows = {name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines)}
    return rows["MemTotal"], rows.get("MemAvailable", rows["MemFree"])


def _folders(controller: str) -> Iterator[Path]:
    """The process' control group for a controller and the groups around it, innermost first."""
    try:
        lines = _MEMBERSHIP.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, names, path = line.split(":", 2)
        if controller in names.split(","):
            root = _CGROUPS / controller
        elif not names:
            root = _CGROUPS
        else:
            continue
        group = root / path.strip("/")
        # Inside a container the path can name a group that only the host sees; what is mounted is the parent.
        yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(root) and folder.is_dir())


def _quota(folder: Path) -> float | None:
    """Cores' worth of time a control group may use, or None without a limit."""
    try:
        words = (folder / "cpu.max").read_text(encoding="ascii").split()
    except OSError:
        words = [str(_first_number(folder / f"cpu.cfs_{name}_us")) for name in ("quota", "period")]
    if len(words) != 2 or not all(w.isdigit() for w in words) or not int(words[1]):
        return None
    return int(words[0]) / int(words[1])


def _inactive_files(folder: Path) -> int:
    try:
        rows = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return 0
    return int(rows.get("total_inactive_file", rows.get("inactive_file", 0)))


def _first_number(*files: Path) -> int | None:
    """The number in the first of these files that can be read; None for "max" and where there is none."""
    for file in files:
        try:
            text = file.read_text(encoding="ascii").strip()
        except OSError:
            continue
        return int(text) if text.isdigit() else None
    return None
