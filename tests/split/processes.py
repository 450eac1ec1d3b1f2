"""Processes that hold one model together, over MLX's ring on loopback, as `mlx.launch` starts them."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import mlx.core as mx
import pytest
from command import COMMAND

from rave_mlx.checkpoint import directory
from rave_mlx.models.lmm import LMM

needs_ring = pytest.mark.skipif(not mx.distributed.is_available("ring"), reason="MLX without its ring backend")


def written(lmm: LMM, out: Path) -> Path:
    """A rave directory of a model in memory."""
    built_in = directory.BUILT_IN
    template, tokenizer = (built_in / directory.TEMPLATE).read_text(), built_in / directory.TOKENIZER
    directory.write(out, lmm.config, lmm.named_weights().items(), tokenizer=tokenizer, template=template, card="")
    return out


def environments(folder: Path, size: int) -> list[dict[str, str]]:
    """What the environment of each of so many processes says of the others."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(size)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        hosts = [[f"127.0.0.1:{each.getsockname()[1]}"] for each in sockets]
    file = folder / "hosts.json"
    file.write_text(json.dumps(hosts))
    paths = os.pathsep.join([str(Path(__file__).parents[1]), str(Path(__file__).parent)])
    return [{"MLX_HOSTFILE": str(file), "MLX_RANK": str(rank), "PYTHONPATH": paths} for rank in range(size)]


def start(command: list[str], environment: dict[str, str]) -> subprocess.Popen:
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | environment,
    )  # fmt: skip


def start_all(folder: Path, size: int, *arguments: object) -> list[subprocess.Popen]:
    """Start `rave-mlx` with these arguments in every process."""
    return [start([*COMMAND, *map(str, arguments)], each) for each in environments(folder, size)]


def ended(processes: list[subprocess.Popen]) -> list[tuple[int, str, str]]:
    """Exit code, standard output and standard error of each; none may hang."""
    said = [process.communicate(timeout=400) for process in processes]
    return [(process.returncode, *each) for process, each in zip(processes, said, strict=True)]


def run_script(folder: Path, size: int, script: Path, *arguments: object) -> list[tuple[int, str, str]]:
    """Run a Python file in every process."""
    command = [sys.executable, str(script), *map(str, arguments)]
    return ended([start(command, each) for each in environments(folder, size)])
