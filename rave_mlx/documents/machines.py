"""Documents shared by the processes that `mlx.launch` started: each takes every n-th, process 0 puts the rows together.

Every process writes its own file while it works, process 0 the one that was asked for, the others that name with
`.rank1` and so on behind it. At the end their rows travel to process 0, so that no disk has to be shared. A run that
was stopped goes on with any number of processes: what is left of such files is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rave_mlx.backend.distributed import World
from rave_mlx.checkpoint.rows_file import SETTINGS, RowsFile
from rave_mlx.documents.run_rows import RunRows
from rave_mlx.documents.sources import Source
from rave_mlx.errors import UsageError

_SENT = 1 << 20
"""Characters that travel at once."""


def share(documents: Sequence[Source], world: World) -> list[Source]:
    """The documents of this process."""
    return list(documents[world.rank :: world.size])


def own_file(rows: Path, world: World) -> Path:
    """Where this process writes."""
    return rows if world.rank == 0 else rows.with_name(f"{rows.name}.rank{world.rank}")


def other_files(rows: Path, own: Path, *, resume: bool) -> list[Path]:
    """The files of other processes of this run that can be seen from here and hold rows.

    Args:
        rows: the file of process 0.
        own: this process' file, with its settings beside it.
        resume: whether a run that was stopped is gone on with.

    Raises:
        UsageError: for rows of another run.
    """
    name = re.compile(re.escape(rows.name) + r"(\.rank\d+)?")
    found = [file for file in sorted(rows.parent.iterdir()) if name.fullmatch(file.name) and file != own]
    found = [file for file in found if file.is_file() and file.stat().st_size]
    settings = _settings(own)
    for file in found:
        if not resume or _settings(file) != settings:
            what = "rows of another run" if resume else "rows of a run that was stopped (--resume goes on with it)"
            raise UsageError(f"{file}: {what}; choose another --out, or remove it")
    return found


def collect(rows: RunRows, own: RowsFile, documents: Sequence[Source], world: World) -> None:
    """Bring the rows of all processes to process 0, in every process.

    Args:
        rows: those of this process.
        own: the file that it writes.
        documents: of the whole run.

    Raises:
        RaveError: when process 0 cannot write them, or a process is gone.
    """
    shares = [documents[rank :: world.size] for rank in range(world.size)]
    others = {source.name for rank, part in enumerate(shares) if rank != world.rank for source in part}
    for sender in range(1, world.size):
        parts = _parts(rows.lines_in(own.file, others)) if world.rank == sender else iter(())
        rest = ""
        while text := world.broadcast_text(next(parts, ""), sender):
            with world.together():
                if world.is_writer:
                    *lines, rest = (rest + text).split("\n")
                    for line in lines:
                        rows.add(json.loads(line))


def remove_others(rows: Path, own: Path, world: World) -> None:
    """Remove the files whose rows are in that of process 0 now."""
    if world.is_writer:
        files = [file for file in rows.parent.iterdir() if re.fullmatch(re.escape(rows.name) + r"\.rank\d+", file.name)]
    else:
        files = [own]
    for file in files:
        for ending in ("", SETTINGS, ".lock"):
            file.with_name(file.name + ending).unlink(missing_ok=True)


def _settings(file: Path) -> str:
    beside = file.with_name(file.name + SETTINGS)
    return beside.read_text(encoding="utf-8") if beside.is_file() else ""


def _parts(lines: Iterable[bytes]) -> Iterator[str]:
    """The text of lines in parts that can travel at once; a part may end anywhere in a line."""
    part = ""
    for line in lines:
        part += line.decode()
        while len(part) >= _SENT:
            yield part[:_SENT]
            part = part[_SENT:]
    if part:
        yield part
