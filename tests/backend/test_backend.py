import ctypes
import json
import os
import shutil
import subprocess
import sys
import threading

import mlx.core as mx
import numpy as np
import pytest

from rave_mlx import backend
from rave_mlx.backend import system
from rave_mlx.backend.cpu import blas, elf_import_table
from rave_mlx.errors import MemoryLimitError, RaveError

GB = 10**9
rebound = pytest.mark.skipif(
    backend.prepare().binding is None, reason="MLX's BLAS is replaced on Linux CPUs with OpenBLAS installed"
)
needs_compiler = pytest.mark.skipif(system.compiler() is None, reason="needs g++")

REPORT = """
import json, numpy as np, mlx.core as mx
from rave_mlx import backend
found = backend.prepare()
rng = np.random.default_rng(1)
a, b = rng.standard_normal((300, 200)), rng.standard_normal((200, 100))
error = float(np.abs(np.array(mx.array(a, mx.float32) @ mx.array(b, mx.float32)) - a @ b).max())
print(json.dumps([found.blas and found.blas.path, found.blas_note, error, found.jit_note]))
"""


def run(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, **environment}, capture_output=True, text=True, check=False
    )


def report(**environment: str) -> list:
    done = run(REPORT, **environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def slot_values() -> dict[int, int]:
    slots = [slot for places in blas._slots().values() for slot in places]
    return {slot: ctypes.c_uint64.from_address(slot).value for slot in slots}


def product_error(rows: int, inner: int, columns: int, dtype=mx.float32) -> float:
    rng = np.random.default_rng(rows)
    a, b = rng.standard_normal((rows, inner)), rng.standard_normal((inner, columns))
    return float(np.abs(np.array(mx.array(a, dtype) @ mx.array(b, dtype), dtype=np.float64) - a @ b).max())


def test_importing_the_package_loads_neither_mlx_nor_numpy():
    done = run(
        "import sys, rave_mlx; print([m for m in ('mlx.core', 'numpy', 'PIL', 'huggingface_hub') if m in sys.modules])"
    )
    assert done.stdout.strip() == "[]"


def test_prepare_gives_every_thread_the_same_backend():
    found = []
    threads = [threading.Thread(target=lambda: found.append(backend.prepare())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(b is backend.current() for b in found)


@pytest.mark.skipif(backend.prepare().kind != "cpu", reason="a GPU computes in the checkpoint's type")
def test_a_cpu_computes_in_float32():
    assert backend.current().dtype == mx.float32


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 2048, 300), (67, 131, 45), (512, 700, 600)])
def test_products_agree_with_float64(shape):
    assert product_error(*shape) < 5e-4


@rebound
def test_all_three_slots_lead_into_the_library():
    binding = backend.current().binding
    assert len(binding.after) == 3
    assert slot_values() == binding.after
    own = {binding.library.address(f"cblas_{x}gemm") for x in ("dc" if not binding.gemv_note else "sdc")}
    assert own <= set(binding.after.values())
    assert len(set(binding.after.values()) - own) == (0 if binding.gemv_note else 1)


@rebound
def test_suspending_puts_mlx_own_blas_back():
    binding = backend.current().binding
    with binding.suspended():
        # MLX's own functions are bound lazily: the first call fills the slot with their address.
        assert product_error(67, 131, 45) < 1e-4
        assert not set(slot_values().values()) & set(binding.after.values())
    assert slot_values() == binding.after


@rebound
def test_an_error_ends_the_suspension():
    binding = backend.current().binding
    with pytest.raises(KeyError), binding.suspended():
        raise KeyError
    assert slot_values() == binding.after


@rebound
def test_thread_count_can_be_set_and_read():
    library = backend.current().blas
    before = library.threads
    try:
        library.set_threads(1)
        assert library.threads == 1
    finally:
        library.set_threads(before)
    assert library.threads == before
    with pytest.raises(RaveError, match="at least 1 thread"):
        library.set_threads(0)


@rebound
def test_threads_are_restored_after_a_block_and_after_an_error():
    library = backend.current().blas
    before = library.threads
    with backend.blas_threads(1):
        assert library.threads == 1
    assert library.threads == before
    with pytest.raises(KeyError), backend.blas_threads(1):
        raise KeyError
    assert library.threads == before


@rebound
def test_nested_blocks_count_from_the_inside():
    library = backend.current().blas
    before = library.threads
    with backend.blas_threads(1):
        with backend.blas_threads(2):
            assert library.threads == 2
            with backend.row_parallel():
                assert library.threads == (1 if len(backend.streams()) > 1 else 2)
            assert library.threads == 2
        assert library.threads == 1
    assert library.threads == before


@rebound
@pytest.mark.parametrize("first_out", ["first", "second"])
@pytest.mark.parametrize("counts", [(1, 1), (1, 2), (2, 1)])
def test_blocks_that_overlap_in_two_threads_leave_the_number_of_before(counts, first_out):
    """The block entered last counts while it runs; the number from before the first comes back after the last."""
    library, seen = backend.current().blas, {}
    before = library.threads
    library.set_threads(3)
    entered = {name: threading.Event() for name in ("first", "second")}
    leave = {name: threading.Event() for name in entered}

    def work(name, count):
        with backend.blas_threads(count):
            entered[name].set()
            assert leave[name].wait(60)

    workers = {name: threading.Thread(target=work, args=(name, n)) for name, n in zip(entered, counts, strict=True)}
    try:
        for name, worker in workers.items():
            worker.start()
            assert entered[name].wait(60)
        seen["both"] = library.threads
        last = "second" if first_out == "first" else "first"
        for name in (first_out, last):
            leave[name].set()
            workers[name].join()
            seen[name] = library.threads
    finally:
        library.set_threads(before)
    assert seen == {"both": counts[1], first_out: counts[first_out == "first"], last: 3}


@rebound
def test_a_block_that_cannot_be_entered_leaves_nothing_behind():
    library = backend.current().blas
    before = library.threads
    with pytest.raises(RaveError, match="at least 1 thread"), backend.blas_threads(0):
        pytest.fail("the block ran")
    with backend.blas_threads(1):
        assert library.threads == 1
    assert library.threads == before


@rebound
def test_the_library_starts_with_one_thread_a_core_unless_the_user_chose():
    count = "from rave_mlx import backend; print(backend.prepare().blas.threads, backend.current().cores)"
    free = {f"{name}_NUM_THREADS": "" for name in ("OPENBLAS", "OMP", "MKL", "BLIS", "GOTO")}
    threads, cores = run(count, **free).stdout.split()
    assert threads == cores
    assert run(count, **{**free, "OPENBLAS_NUM_THREADS": "1"}).stdout.split()[0] == "1"


@rebound
def test_the_variable_switches_it_off():
    path, note, error, _ = report(RAVE_MLX_BLAS="none")
    assert path is None
    assert note == "RAVE_MLX_BLAS=none"
    assert error < 1e-4


@rebound
def test_the_variable_chooses_a_file():
    chosen = backend.current().blas.path
    path, _, error, _ = report(RAVE_MLX_BLAS=chosen)
    assert path == chosen
    assert error < 1e-4


@rebound
def test_a_file_that_is_not_there_is_named():
    done = run("from rave_mlx import backend; backend.prepare()", RAVE_MLX_BLAS="/nowhere/libblas.so")
    assert "BackendError: RAVE_MLX_BLAS: /nowhere/libblas.so: cannot open" in done.stderr
    assert "unset it" in done.stderr


@rebound
def test_a_library_that_is_no_blas_is_refused():
    done = run("from rave_mlx import backend; backend.prepare()", RAVE_MLX_BLAS="libm.so.6")
    assert "RAVE_MLX_BLAS: libm.so.6: no cblas_sgemm with 32-bit integers" in done.stderr


def build(folder, source: str) -> str:
    (folder / "lib.cpp").write_text(source)
    library = folder / "libfake.so"
    subprocess.run(["g++", "-shared", "-fPIC", "-o", library, folder / "lib.cpp"], check=True)
    return str(library)


@rebound
@needs_compiler
def test_a_library_with_wrong_products_is_taken_out_again(tmp_path):
    library = build(tmp_path, " ".join(f'extern "C" void cblas_{x}gemm() {{}}' for x in "sdc"))
    code = """
import ctypes
from rave_mlx.backend.cpu import blas
def contents():
    return [ctypes.c_uint64.from_address(s).value for places in blas._slots().values() for s in places]
before = contents()
try:
    blas.bind(1)
except blas.BackendError as error:
    print(error)
print(contents() == before)
"""
    done = run(code, RAVE_MLX_BLAS=library)
    assert f"RAVE_MLX_BLAS: {library}: gives wrong products" in done.stdout
    assert done.stdout.splitlines()[-1] == "True"


@rebound
@needs_compiler
def test_a_library_without_complex_products_is_refused(tmp_path):
    library = build(tmp_path, 'extern "C" void cblas_sgemm() {} extern "C" void cblas_dgemm() {}')
    done = run("from rave_mlx import backend; backend.prepare()", RAVE_MLX_BLAS=library)
    assert f"{library}: no cblas_cgemm with 32-bit integers" in done.stderr


@rebound
@needs_compiler
def test_an_openblas_with_64_bit_integers_is_refused(tmp_path):
    source = """
extern "C" void cblas_sgemm() {}
extern "C" const char* openblas_get_config() { return "OpenBLAS 0.3.30 USE64BITINT DYNAMIC_ARCH"; }
"""
    done = run("from rave_mlx import backend; backend.prepare()", RAVE_MLX_BLAS=build(tmp_path, source))
    assert "built for 64-bit integers" in done.stderr


@rebound
def test_import_tables_of_all_loaded_libraries_can_be_read():
    files = [i for i in elf_import_table.loaded() if i.path.startswith("/") and ".so" in i.path]
    tables = {i.path: elf_import_table.ImportTable(i) for i in files}
    mlx = next(t for path, t in tables.items() if path.endswith("libmlx.so"))
    assert any("stdc++" in name for name in mlx.needed)
    assert len(mlx.slots({"cblas_sgemm", "memcpy"})["cblas_sgemm"]) == 1
    assert mlx.slots({"no_such_function"}) == {}


@rebound
def test_a_damaged_library_is_an_error_and_never_a_crash():
    """Random numbers in a copy of the section that says where libmlx.so's tables are."""
    image = next(i for i in elf_import_table.loaded() if i.path.endswith("libmlx.so"))
    rng = np.random.default_rng(0)
    dynamic = next((start, size) for kind, start, size in image.segments if kind == 2)
    original = ctypes.string_at(*dynamic)
    outcomes = {"read": 0, "refused": 0}
    for _ in range(300):
        damaged = bytearray(original)
        for _ in range(rng.integers(1, 4)):
            at = int(rng.integers(0, len(damaged) // 16)) * 16 + 8
            damaged[at : at + 8] = int(rng.integers(0, 1 << 63)).to_bytes(8, "little")
        buffer = ctypes.create_string_buffer(bytes(damaged), len(damaged))
        rest = tuple(s for s in image.segments if s[0] != 2)
        place = (ctypes.addressof(buffer), len(damaged))
        copy = elf_import_table.Image("copy", image.base, (*rest, (1, *place), (2, *place)))
        try:
            elf_import_table.ImportTable(copy).slots({"cblas_sgemm"})
            outcomes["read"] += 1
        except elf_import_table.ImportTableError:
            outcomes["refused"] += 1
    assert outcomes["refused"] > 100
    assert outcomes["read"] > 10


@rebound
def test_a_read_only_slot_is_written_and_protected_again():
    """As with full RELRO, where the linker closes the table after filling it."""
    import mmap

    page = mmap.mmap(-1, mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    ctypes.c_uint64.from_address(address + 16).value = 5
    elf_import_table._protect(address, mmap.PROT_READ)
    try:
        assert elf_import_table.store({address + 16: 9}) == {address + 16: 5}
        assert ctypes.c_uint64.from_address(address + 16).value == 9
        assert elf_import_table._protection(address) == mmap.PROT_READ
        with pytest.raises(elf_import_table.ImportTableError):
            elf_import_table.store({address + 16: 7, 8: 7})
        assert ctypes.c_uint64.from_address(address + 16).value == 9
    finally:
        elf_import_table._protect(address, mmap.PROT_READ | mmap.PROT_WRITE)


def test_streams_are_the_same_on_every_call():
    found = backend.streams()
    assert 1 <= len(found) <= 4
    assert len(found) == (min(4, system.cores()) if backend.current().kind == "cpu" else 1)
    assert all(a is b for a, b in zip(found, backend.streams(), strict=True))


def test_streams_work_in_any_thread():
    x = mx.arange(1000.0)
    mx.eval(x)
    sums = []

    def work():
        parts = []
        for i, stream in enumerate(backend.streams() * 2):
            with mx.stream(stream):
                parts.append(mx.sum(x * i))
        sums.append([part.item() for part in parts])

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    work()
    assert sums == [[499500.0 * i for i in range(2 * len(backend.streams()))]] * 4


def test_memory_is_what_the_machine_has():
    found = system.memory()
    assert 0 < found.available <= found.total
    assert 1 <= system.cores() <= os.cpu_count()


@pytest.fixture
def cgroup(tmp_path, monkeypatch):
    """Control groups of our own making: `cgroup(membership, {file: text})`."""
    if sys.platform != "linux":
        pytest.skip("control groups are Linux'")

    def make(membership: str, files: dict[str, str]) -> None:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        (tmp_path / "membership").write_text(membership)
        monkeypatch.setattr(system, "_CGROUPS", tmp_path)
        monkeypatch.setattr(system, "_MEMBERSHIP", tmp_path / "membership")

    return make


def test_the_limits_of_a_version_2_group_count(cgroup):
    cgroup(
        "0::/pod/box\n",
        {
            "pod/memory.max": "300000000\n",
            "pod/memory.current": "250000000\n",
            "pod/memory.stat": "anon 1\ninactive_file 10000000\n",
            "pod/box/memory.max": "max\n",
            "pod/box/memory.current": "100\n",
            "pod/box/cpu.max": "max 100000\n",
            "pod/cpu.max": "50000 100000\n",
        },
    )
    assert system.memory() == system.Memory(300000000, 60000000)
    assert system.cores() == 1


def test_the_limits_of_a_version_1_group_count(cgroup):
    cgroup(
        "5:cpu,cpuacct:/box\n4:memory:/box\n0::/\n",
        {
            "memory/box/memory.limit_in_bytes": "300000000\n",
            "memory/box/memory.usage_in_bytes": "100000000\n",
            "memory/box/memory.stat": "inactive_file 1\ntotal_inactive_file 0\n",
            "memory/memory.limit_in_bytes": "9223372036854771712\n",
            "memory/memory.usage_in_bytes": "1\n",
            "cpu/box/cpu.cfs_quota_us": "10000\n",
            "cpu/box/cpu.cfs_period_us": "100000\n",
        },
    )
    assert system.memory() == system.Memory(300000000, 200000000)
    assert system.cores() == 1


def test_a_group_without_limits_changes_nothing(cgroup):
    total, cores = system.memory().total, len(os.sched_getaffinity(0))
    cgroup("0::/\n", {"memory.max": "max\n", "memory.current": "5\n", "cpu.max": "max 100000\n"})
    assert system.memory().total >= total
    assert system.cores() == cores


@pytest.mark.skipif(backend.prepare().kind != "cpu", reason="GPUs multiply quantized weights fast")
def test_quantized_weights_are_expanded_where_a_quarter_more_than_their_size_is_free():
    free = backend.memory().available
    assert backend.expand_quantized(GB // 1000, GB // 100)
    assert backend.expand_quantized(0, int(free / 1.3))
    assert not backend.expand_quantized(0, int(free / 1.15))


def test_what_does_not_fit_is_refused_with_both_sizes():
    backend.check_memory(GB // 10, "a small thing", "nothing")
    with pytest.raises(
        MemoryLimitError, match=r"^the weights of big: 5000\.0 GB needed, \d+\.\d GB available; try 4 bit$"
    ):
        backend.check_memory(5000 * GB, "the weights of big", "try 4 bit")


@pytest.mark.skipif(backend.prepare().kind != "cpu", reason="mx.compile needs g++ on a CPU only")
@pytest.mark.parametrize(
    ("script", "problem"),
    [(None, "no g++"), ("#!/bin/sh\n[ $1 = --version ] && exit 0\necho no headers\nexit 1\n", "g++ failed: ")],
)
def test_compiled_functions_run_without_a_working_compiler(tmp_path, script, problem):
    if script:
        (tmp_path / "g++").write_text(script)
        (tmp_path / "g++").chmod(0o755)
    (tmp_path / "sh").symlink_to(shutil.which("sh"))
    code = REPORT + "import mlx.nn as nn; print(nn.silu(mx.array(0.0)).item())"
    done = run(code, PATH=str(tmp_path), TMPDIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])[3].startswith(problem)
    assert done.stdout.splitlines()[1] == "0.0"


def test_the_libraries_of_every_folder_of_packages_that_python_sees_are_tried(tmp_path, monkeypatch):
    """As in an environment that sees another one's packages; never those of the current folder."""
    monkeypatch.chdir(tmp_path)
    for folder in ("other/site-packages", "here"):
        place = tmp_path / folder / "scipy_openblas32" / "lib" / "libscipy_openblas.so"
        place.parent.mkdir(parents=True)
        place.touch()
    monkeypatch.setattr("sys.path", ["", str(tmp_path / "here"), str(tmp_path / "other/site-packages")])
    found = list(blas.candidates())
    assert str(tmp_path / "other/site-packages/scipy_openblas32/lib/libscipy_openblas.so") in found
    assert not [name for name in found if str(tmp_path / "here") in name]
