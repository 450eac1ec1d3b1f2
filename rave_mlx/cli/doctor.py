"""`rave-mlx doctor`: what is there, how fast it is, what is missing and the command that mends it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import platform
import shutil
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import typer

from rave_mlx.errors import RaveError

if TYPE_CHECKING:
    import mlx.core as mx

    from rave_mlx.backend import Backend
    from rave_mlx.backend.system import Memory

_SECONDS = 0.3
_HUB_SECONDS = 3.0
"""How long the Hub may take to answer."""
_OPTIONS = {
    "PDF": ("pypdfium2", "rave-mlx[pdf]", "reads PDF pages"),
    "HEIC": ("pillow_heif", "pillow-heif", "reads photos of phones"),
}


@dataclass(frozen=True)
class Finding:
    """One line of the report. `fix` is what to do where something is missing.

    `state`: "ok"; "slow" and "missing" leave the main job running; "broken" does not.
    """

    name: str
    value: str
    state: Literal["ok", "slow", "missing", "broken"] = "ok"
    fix: str | None = None


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="The findings as one JSON object.")] = False,
) -> None:
    """Say what this machine offers, what is missing, and the command that mends it.

    Exit code 0 when the built-in model can run, 1 when it cannot.
    """
    findings = list(examine())
    works = all(f.state != "broken" for f in findings)
    if as_json:
        print(json.dumps({"works": works, "findings": [asdict(f) for f in findings]}, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_table(findings)))
    if not works:
        raise typer.Exit(1)


def examine() -> Iterator[Finding]:
    """All findings, the dependent ones after what they depend on."""
    version = importlib.metadata.version("rave-mlx")
    yield Finding("rave-mlx", f"{version}, Python {platform.python_version()}, {platform.platform()}")
    try:
        from rave_mlx import backend
    except ImportError as error:
        yield Finding("MLX", f"cannot be imported: {_line(error)}", "broken", _install_mlx())
        return
    yield Finding("MLX", importlib.metadata.version("mlx"))
    try:
        found = backend.prepare()
    except RaveError as error:
        yield Finding("backend", _line(error), "broken", "unset RAVE_MLX_BLAS")
        return
    yield _device(found)
    yield from _speed(found)
    yield _memory(backend.memory())
    if found.kind == "cpu":
        yield _compiler(found)
        yield _kernels(found)
    yield _built_in_model()
    for name, (module, package, purpose) in _OPTIONS.items():
        yield _option(name, module, package, purpose)
    yield _hub()


def _device(found: Backend) -> Finding:
    """What computes, and whether something faster lies idle."""
    names = {"metal": "Metal GPU", "cuda": "CUDA GPU", "cpu": "CPU"}
    dtype = "the checkpoint's type" if found.dtype is None else str(found.dtype).removeprefix("mlx.core.")
    value = f"{names[found.kind]} ({found.device}), {found.cores} cores, computes in {dtype}"
    if found.kind == "cpu" and shutil.which("nvidia-smi"):
        return Finding("backend", value + "; there is an NVIDIA GPU", "slow", _install_mlx())
    return Finding("backend", value)


def _speed(found: Backend) -> Iterator[Finding]:
    """The BLAS in use and what it gives, against what MLX brings along."""
    import mlx.core as mx

    if found.kind != "cpu":
        yield Finding("matmul", f"{_gflops(4096, mx.float16):,.0f} GFLOP/s in float16 (measured)")
        return
    speed = f"{_gflops(1024, mx.float32):,.0f} GFLOP/s in float32 (measured)"
    if found.binding is not None:
        library = found.binding.library
        with found.binding.suspended():
            own = _gflops(256, mx.float32, _SECONDS / 3)
        threads = "" if library.threads is None else f", {library.threads} threads"
        yield Finding("BLAS", f"{library.name} {library.version}{threads}, {library.path}")
        yield Finding("matmul", f"{speed}; {own:,.1f} with the BLAS that comes with MLX")
        if found.binding.gemv_note:
            note = found.binding.gemv_note
            yield Finding(
                "vectors", f"{note}: a written token reads weights 2 to 3 times slower", "slow", _install_compiler(note)
            )
        return
    from rave_mlx.backend.cpu import blas

    slow = sys.platform == "linux" and "built with" not in found.blas_note
    fix = (f"unset {blas.VARIABLE}" if blas.VARIABLE in found.blas_note else blas.REMEDY) if slow else None
    yield Finding("BLAS", f"MLX's own: {found.blas_note}", "slow" if slow else "ok", fix)
    yield Finding("matmul", speed)


def _gflops(size: int, dtype: mx.Dtype, seconds: float = _SECONDS) -> float:
    """Best rate of one square matrix product within `seconds`, in 10^9 floating point operations a second."""
    import mlx.core as mx

    a, b = (mx.random.normal((size, size)).astype(dtype) for _ in range(2))
    mx.eval(a @ b)
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        mx.eval(a @ b)
        best = min(best, time.perf_counter() - start)
    return 2e-9 * size**3 / best


def _memory(memory: Memory) -> Finding:
    """How much memory is free."""
    value = f"{memory.available / 1e9:.1f} GB available of {memory.total / 1e9:.1f} GB"
    if memory.available < 1e9:
        return Finding("memory", value, "slow", "close other programs, or raise the container's memory limit")
    return Finding("memory", value)


def _compiler(found: Backend) -> Finding:
    """Whether there is a C++ compiler, which MLX needs for fast elementwise functions on a CPU."""
    if found.jit:
        return Finding("g++", f"{found.compiler}: elementwise functions run as vector code")
    return Finding(
        "g++",
        f"{found.jit_note}: elementwise functions run 3 to 4 times slower",
        "slow",
        _install_compiler(found.jit_note),
    )


def _kernels(found: Backend) -> Finding:
    """Whether packed weights are multiplied with as they are, or expanded."""
    from rave_mlx.backend.cpu.packed_products import COMMAND

    if found.kernels is not None:
        return Finding("kernels", f"{found.kernels.name}: packed weights stay packed ({found.kernels.file})")
    value = f"{found.kernels_note}: quantized models are expanded to float32"
    return Finding("kernels", value, "missing", COMMAND) if COMMAND in found.kernels_note else Finding("kernels", value)


def _built_in_model() -> Finding:
    """Whether the model in the package opens."""
    from rave_mlx.api import load
    from rave_mlx.checkpoint.directory import BUILT_IN

    try:
        lmm = load(BUILT_IN)
    except RaveError as error:
        fix = "pip install --force-reinstall --no-deps rave-mlx"
        return Finding("built-in model", _line(error), "broken", fix)
    text = lmm.config.text
    return Finding("built-in model", f"opens ({text.num_layers} layers of {text.hidden_size})")


def _option(name: str, module: str, package: str, purpose: str) -> Finding:
    """Whether an optional package is there, and what it is for."""
    if importlib.util.find_spec(module) is None:
        return Finding(name, f"{module} is not installed ({purpose})", "missing", f"pip install '{package}'")
    return Finding(name, f"{module} {importlib.metadata.version(module.replace('_', '-'))}")


def _hub() -> Finding:
    """Whether the Hub answers: a name that resolves, or a set proxy, says nothing about that."""
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE)
    models = len(list(folder.glob("models--*")))
    kept = f"{models} model{'s' * (models != 1)} in {folder}"
    if constants.HF_HUB_OFFLINE:
        return Finding("Hub", f"not asked (HF_HUB_OFFLINE is set); {kept}")
    reason = _silence(constants.ENDPOINT)
    if reason is None:
        return Finding("Hub", f"{constants.ENDPOINT} answers; {kept}")
    fix = "check the network or proxy; with HF_HUB_OFFLINE=1 models in the cache open without the Hub"
    return Finding("Hub", f"{constants.ENDPOINT} does not answer ({reason}); {kept}", "missing", fix)


def _silence(address: str) -> str | None:
    """Why a server does not answer; None where it does."""
    reasons: list[str | None] = []

    def ask() -> None:
        try:
            urlopen(Request(address, method="HEAD"), timeout=_HUB_SECONDS).close()
            reasons.append(None)
        except HTTPError:
            reasons.append(None)  # A refusal is an answer.
        except OSError as error:
            reasons.append(_line(error))

    # In a thread: no limit of a connection covers the look-up of its name.
    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(_HUB_SECONDS + 1)
    return reasons[0] if reasons else f"no answer in {_HUB_SECONDS:g} s"


def _install_mlx() -> str:
    """The command that installs MLX for this machine."""
    if sys.platform == "darwin":
        return "pip install mlx"
    return f"pip install 'rave-mlx[{'cuda12' if shutil.which('nvidia-smi') else 'cpu'}]'"


def _install_compiler(problem: str) -> str:
    """What to do about a compiler that is missing or cannot be used, by the reason."""
    if problem.startswith("MLX_DISABLE_COMPILE"):
        return "unset MLX_DISABLE_COMPILE"
    if "TMPDIR" in problem:
        return "set TMPDIR to a folder of your own"
    managers = {
        "apt-get": "apt-get install g++",
        "dnf": "dnf install gcc-c++",
        "apk": "apk add g++",
        "pacman": "pacman -S gcc",
    }
    default = "xcode-select --install" if sys.platform == "darwin" else "install g++"
    return next((command for name, command in managers.items() if shutil.which(name)), default)


def _line(error: Exception) -> str:
    """An error in one line."""
    return " ".join(str(error).split())


def _table(findings: list[Finding]) -> Iterator[str]:
    """The report for people: a line a finding, and what to do under it."""
    width = max(len(f.name) for f in findings)
    for finding in findings:
        mark = "" if finding.state == "ok" else f"  [{finding.state}]"
        yield f"{finding.name:<{width}}  {finding.value}{mark}"
        if finding.fix:
            yield f"{'':<{width}}  -> {finding.fix}"
