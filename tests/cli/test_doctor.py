import itertools
import json
import os
import re
import socket
import subprocess
import sys

import mlx.core as mx
import pytest
from hub_server import running
from typer.testing import CliRunner

from rave_mlx import __version__, backend
from rave_mlx.cli import doctor
from rave_mlx.cli.main import app

cpu = pytest.mark.skipif(backend.prepare().kind != "cpu", reason="BLAS and g++ matter on a CPU")


def run(*options: str, **environment: str) -> subprocess.CompletedProcess:
    code = "from rave_mlx.cli.main import run; run()"
    return subprocess.run(
        [sys.executable, "-c", code, "doctor", *options],
        env={**os.environ, "HF_HUB_OFFLINE": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def findings(**environment: str) -> dict[str, dict]:
    return {f["name"]: f for f in json.loads(run("--json", **environment).stdout)["findings"]}


@pytest.fixture(scope="module")
def offline(tmp_path_factory):
    """What one process finds that may not ask the Hub, and where to look for models."""
    folder = tmp_path_factory.mktemp("hub")
    (folder / "models--someone--something").mkdir()
    found = findings(HF_HUB_CACHE=str(folder), HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:1")
    return folder, found


def test_a_table_on_stdout_and_success():
    done = run()
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    first = done.stdout.splitlines()[0]
    assert re.match(rf"rave-mlx +{re.escape(__version__)}, Python 3\.", first)
    for name in ("MLX", "backend", "matmul", "memory", "built-in model", "PDF", "HEIC", "Hub"):
        assert re.search(rf"^{name} ", done.stdout, re.MULTILINE), name


def test_json_says_the_same():
    result = CliRunner().invoke(app, ["doctor", "--json"])
    assert result.exit_code == 0
    report = json.loads(result.stdout)
    assert report["works"] is True
    by_name = {f["name"]: f for f in report["findings"]}
    assert set(by_name["MLX"]) == {"name", "value", "state", "fix"}
    assert by_name["built-in model"]["state"] == "ok"
    assert all(f["fix"] for f in report["findings"] if f["state"] != "ok")


def test_the_rate_is_operations_by_the_shortest_time(monkeypatch):
    """With a clock that moves 10 ms at every look: 2 * 512^3 operations in 10 ms are 26.8 GFLOP/s."""
    ticks = itertools.count()
    monkeypatch.setattr(doctor.time, "perf_counter", lambda: next(ticks) * 0.01)
    assert doctor._gflops(512, mx.float32) == pytest.approx(26.8435456)


@cpu
def test_the_blas_is_named_with_its_gain(offline):
    if backend.current().blas is None:
        pytest.skip("no optimised BLAS here")
    _, by_name = offline
    assert backend.current().blas.path in by_name["BLAS"]["value"]
    fast, own = re.fullmatch(
        r"([\d,]+) GFLOP/s in float32 \(measured\); ([\d.,]+) with the BLAS that comes with MLX",
        by_name["matmul"]["value"],
    ).groups()
    assert float(fast.replace(",", "")) > 0
    assert float(own.replace(",", "")) > 0


@cpu
@pytest.mark.skipif(sys.platform != "linux", reason="macOS has a fast BLAS of its own")
def test_a_slow_blas_and_a_missing_compiler_come_with_commands(tmp_path):
    by_name = findings(RAVE_MLX_BLAS="none", PATH=str(tmp_path))
    assert (by_name["BLAS"]["state"], by_name["BLAS"]["fix"]) == ("slow", "unset RAVE_MLX_BLAS")
    assert (by_name["g++"]["state"], by_name["g++"]["fix"]) == ("slow", "install g++")
    assert by_name["built-in model"]["state"] == "ok"


@cpu
@pytest.mark.skipif(sys.platform != "linux", reason="macOS has a fast BLAS of its own")
def test_slow_tokens_come_with_a_command(tmp_path):
    if backend.current().blas is None:
        pytest.skip("no optimised BLAS here")
    found = findings(PATH=str(tmp_path))["vectors"]
    assert found["value"] == "no g++: a written token reads weights 2 to 3 times slower"
    assert (found["state"], found["fix"]) == ("slow", "install g++")


@cpu
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux replaces the BLAS")
def test_a_wrong_choice_of_blas_fails_and_says_how_to_undo_it():
    done = run(RAVE_MLX_BLAS="/nowhere.so")
    assert done.returncode == 1
    assert "RAVE_MLX_BLAS: /nowhere.so: cannot open" in done.stdout
    assert "-> unset RAVE_MLX_BLAS" in done.stdout


def test_mlx_without_a_backend_fails_with_the_command(tmp_path):
    """As after `pip install mlx` on Linux, where the compute library is a package of its own."""
    (tmp_path / "mlx").mkdir()
    (tmp_path / "mlx" / "__init__.py").write_text("")
    done = run(PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    assert done.returncode == 1
    assert "[broken]" in done.stdout
    assert "pip install" in done.stdout


def test_offline_and_the_cache_are_shown(offline):
    """A Hub that is switched off is not asked."""
    folder, found = offline
    assert found["Hub"]["state"] == "ok"
    assert found["Hub"]["value"] == f"not asked (HF_HUB_OFFLINE is set); 1 model in {folder}"


def test_an_optional_package_that_is_missing_comes_with_its_command():
    finding = doctor._option("Something", "no_such_module", "rave-mlx[something]", "does a thing")
    assert finding == doctor.Finding(
        "Something", "no_such_module is not installed (does a thing)", "missing", "pip install 'rave-mlx[something]'"
    )


def test_it_finds_out_whether_the_hub_answers(tmp_path):
    with running() as hub:
        found = findings(HF_HUB_OFFLINE="0", **hub.environment(tmp_path))["Hub"]
    assert found["state"] == "ok"
    assert " answers; 0 models in " in found["value"]


def test_a_hub_that_does_not_answer_is_named():
    with socket.socket() as taken:  # bound, not listening: connections are refused
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        found = findings(HF_ENDPOINT=address, HF_HUB_OFFLINE="0")["Hub"]
    assert found["state"] == "missing"
    assert f"{address} does not answer" in found["value"]
    assert "HF_HUB_OFFLINE" in found["fix"]
