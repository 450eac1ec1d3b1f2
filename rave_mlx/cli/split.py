"""Commands whose model is split over the processes that `mlx.launch` started: process 0 is the command, the others hold
their parts of the model and do what it says.
"""

from __future__ import annotations

import atexit
import enum
import os
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from rave_mlx.backend.distributed import World
    from rave_mlx.convert.open_part import Processes
    from rave_mlx.generation.follower import Follower
    from rave_mlx.models.lmm import LMM


class Split(enum.StrEnum):
    """What several processes share."""

    MODEL = "model"
    DOCUMENTS = "documents"


NO_ADAPTER = "--adapter: an adapter is not split over processes; put it into the model first (rave-mlx fuse)"
_MEET_SECONDS = 300.0
"""What the processes have to find each other: on some machines a program loads slowly the first time."""
_LAUNCHED = ("MLX_RANK", "OMPI_COMM_WORLD_RANK", "PMI_RANK")
"""What says in the environment that others were started together with this process."""


def begin() -> Processes | None:
    """The processes that are to share a model; None where this one was started alone.

    In process 0 only this returns: the others hold their parts until that one ends.

    Raises:
        typer.Exit: in the other processes, at the end.
        RaveError: where they do not find each other.
    """
    if not is_launched():
        return None
    world = _join()
    if world.size == 1:
        return None
    from rave_mlx.convert.open_part import Processes

    processes = Processes.of(world)
    if world.rank == 0:
        atexit.register(_end, processes)
        return processes
    _follow(processes)
    raise typer.Exit(0)


def begin_documents(chosen: Split | None, model: str | None) -> Processes | None:
    """As of `begin`, for commands whose documents the processes may share instead, each with the whole model.

    Args:
        chosen: what is shared; None: the model where it does not fit into the memory of one of the processes.
        model: as of `api.load`.

    Raises:
        typer.Exit, RaveError: as of `begin`.
    """
    if not is_launched():
        return None
    world = _join()
    if world.size == 1 or chosen is Split.DOCUMENTS:
        return None
    if chosen is None and not world.totals(not _fits(model))[0]:
        return None
    return begin()


def refuse(command: str) -> None:
    """Refuse a command that needs all heads of a layer in one process.

    Raises:
        UsageError: where several processes were started; in one of them.
        typer.Exit: in the others.
    """
    if not is_launched():
        return
    from rave_mlx.errors import UsageError

    world = _join()
    if world.rank > 0:
        raise typer.Exit(UsageError.exit_code)
    if world.size > 1:
        raise UsageError(f"{command} needs all heads of a layer in one process; start it without mlx.launch")


def _join() -> World:
    """The processes that were started together.

    Raises:
        RaveError: where they do not find each other.
    """
    from rave_mlx.backend.channel import leave
    from rave_mlx.backend.distributed import join
    from rave_mlx.errors import RaveError

    # MLX waits for ever for a process that does not come.
    late = f"the processes have not found each other in {_MEET_SECONDS:.0f} s; were all of them started?"
    watch = threading.Timer(_MEET_SECONDS, leave, (late, 1))
    watch.daemon = True
    watch.start()
    try:
        return join()
    except RuntimeError as error:
        raise RaveError(f"the processes do not find each other ({error}); start all of them again") from None
    finally:
        watch.cancel()


def is_launched() -> bool:
    """Whether `mlx.launch`, or another launcher of MLX, started this process."""
    return any(name in os.environ for name in _LAUNCHED)


def _fits(model: str | None) -> bool:
    """Whether the weights of a model fit into the memory of this machine."""
    from rave_mlx import backend
    from rave_mlx.convert.open import find

    folder = find(model)
    files = [folder] if folder.is_file() else list(folder.glob("*.safetensors"))
    return sum(file.stat().st_size for file in files) <= backend.memory().available


def load(
    processes: Processes | None,
    model: str | None,
    *,
    adapter: str | None = None,
    mmproj: str | None = None,
    kv_bits: int | None = None,
) -> LMM:
    """As of `api.load`; with several processes, their parts of the model.

    Args:
        processes: as of `begin`.
        model, adapter, mmproj, kv_bits: as of `api.load`.

    Raises:
        UsageError: for an adapter on a model that is split.
        RaveError: as of `api.load`; those of the other processes end this one at once, with their line.
    """
    from rave_mlx import api
    from rave_mlx.errors import UsageError

    if processes is None:
        return api.load(model, adapter=adapter, mmproj=mmproj, kv_bits=kv_bits)
    if adapter is not None:
        raise UsageError(NO_ADAPTER)
    lmm, _ = _open(processes, model, mmproj)
    lmm.kv_bits = kv_bits
    return lmm


def _open(processes: Processes, model: str | None, mmproj: str | None) -> tuple[LMM, Follower | None]:
    """The part of a model that this process holds; process 0 tells the others of the model once it knows it."""
    from rave_mlx import backend
    from rave_mlx.backend.channel import encoded
    from rave_mlx.convert.notes import print_note
    from rave_mlx.convert.open import find, open_stored
    from rave_mlx.convert.open_part import open_part
    from rave_mlx.models.split.shares import check_split

    backend.prepare()
    folder = find(model)
    stored = open_stored(folder, mmproj=None if mmproj is None else Path(mmproj))
    if processes.world.rank == 0:
        for note in stored.notes:
            print_note(note)
        check_split(stored.lmm.config, processes.world.size)
        for link in processes.links:
            link.put(encoded({"do": "load", "model": model, "mmproj": mmproj}))
    return open_part(stored.lmm, stored.tensors, stored.place, processes, None, str(folder))


def _follow(processes: Processes) -> None:
    """Hold a part of the model, and do what process 0 says until it ends."""
    from rave_mlx.backend.channel import encoded
    from rave_mlx.errors import RaveError

    (link,) = processes.links
    # Ctrl-C reaches every process of a terminal, and what it means is for process 0 to say.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        message, _ = link.take()
        while message["do"] == "load":
            _, follower = _open(processes, message["model"], message["mmproj"])
            assert follower is not None
            message = follower.run()
    except (RaveError, RuntimeError, MemoryError) as error:
        # Process 0 says it, and ends.
        code = error.exit_code if isinstance(error, RaveError) else 1
        link.put(encoded({"do": "failed", "why": str(error) or type(error).__name__, "code": code}))
        link.close()
        raise typer.Exit(code) from None


def _end(processes: Processes) -> None:
    """Let the other processes end."""
    from rave_mlx.backend.channel import encoded

    for link in processes.links:
        link.put(encoded({"do": "end"}))
    for link in processes.links:
        link.close()
