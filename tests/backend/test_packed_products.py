"""Kernels for packed and half-precision weights: against float64, under a model, and what happens without them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from packed_kernels import COMMAND, CPU, VECTORS, bound, cache_folder

from rave_mlx.backend.cpu import kernel_library, packed_products

pytestmark = pytest.mark.skipif(not CPU, reason="for Linux without a GPU")
TYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
UNIT = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Half a unit in the last place of each type, relative."""


@pytest.fixture(scope="module")
def cache(pytestconfig) -> Path:
    return cache_folder(pytestconfig)


@pytest.fixture(params=dict.fromkeys(["portable", VECTORS]))
def kernels(request, cache, monkeypatch):
    with bound(cache, request.param, monkeypatch) as found:
        yield found


@pytest.fixture
def best(cache, monkeypatch):
    with bound(cache, "", monkeypatch) as found:
        yield found


@pytest.mark.parametrize("rows", [1, 2, 3, 4, 5, 8, 11])
@pytest.mark.parametrize("bits", [4, 8])
def test_products_against_float64(kernels, bits, rows):
    """Every group size and type; widths that fill no vector, a single output, views of larger arrays; both ways."""
    rng = np.random.default_rng(rows)
    for group in (32, 64, 128):
        for name, dtype in TYPES.items():
            width, count = group * int(rng.integers(1, 8)), int(rng.choice([1, 7, 40, 300]))
            packed = mx.quantize(mx.array(rng.normal(size=(count + 3, width)), mx.float32), group, bits)
            codes, scales, biases = (part[3:] if part.dtype == mx.uint32 else part[3:].astype(dtype) for part in packed)
            exact = _exact(mx.dequantize(codes, *(s.astype(mx.float32) for s in (scales, biases)), group, bits))
            for transposed, shape in ((True, (2, rows, width)), (False, (1, rows, count))):
                x = mx.array(rng.normal(size=shape), dtype)[-1:]
                y = mx.quantized_matmul(x, codes, scales, biases, transposed, group, bits)
                right = exact.T if transposed else exact
                assert y.dtype == dtype
                # Codes times factor and shift are two sums, of the size of all products with the largest code.
                size = np.abs(_exact(x)) @ np.abs(right) + np.abs(_exact(x)).sum() * float(mx.abs(biases).max())
                wrong = np.abs(_exact(y) - _exact(x) @ right)
                assert (wrong <= 4e-7 * size + UNIT[name] * 1.01 * np.abs(_exact(x) @ right)).all(), (group, name)


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_precision_against_float64(best, name):
    """Weights as they are, prompts through the BLAS, batches of attention with shared keys, strides of all kinds."""
    rng, dtype = np.random.default_rng(0), TYPES[name]

    def close(a: mx.array, b: mx.array) -> None:
        right = _exact(a) @ _exact(b)
        size = np.abs(_exact(a)) @ np.abs(_exact(b))
        assert (np.abs(_exact(a @ b) - right) <= 4e-7 * size + UNIT[name] * 1.01 * np.abs(right)).all()

    for rows in (1, 3, 5, 8, 12):
        width, count = int(rng.integers(1, 300)), int(rng.integers(1, 70))
        w, x = (mx.array(rng.normal(size=(n, width)), dtype) for n in (count, rows))
        close(x, w.T)
        close(x[:, ::2], w.T[::2])
        close(w, x.T)
        close(x @ w.T, w)
        q = mx.array(rng.normal(size=(2, 4, rows, width)), dtype)
        k = mx.array(rng.normal(size=(2, count, 1, width)), dtype).transpose(0, 2, 3, 1)
        close(q, k)
        close(q.swapaxes(1, 2).reshape(2, 4 * rows, 1, width), k)


def test_what_the_kernels_do_not_cover_is_left_to_mlx(best):
    rng = np.random.default_rng(1)
    w, x = (mx.array(rng.normal(size=(n, 96)), mx.float32) for n in (40, 3))
    for bits, group, mode in ((5, 32, "affine"), (4, 32, "mxfp4")):
        packed = mx.quantize(w, group, bits, mode)
        exact = _exact(mx.dequantize(*packed, group_size=group, bits=bits, mode=mode))
        y = mx.quantized_matmul(x, *packed, group_size=group, bits=bits, mode=mode)
        np.testing.assert_allclose(_exact(y), _exact(x) @ exact.T, atol=1e-4)
        assert not packed_products.covers(group, bits, mode)


def test_gradients_and_compiled_functions(best):
    rng = np.random.default_rng(2)
    w, x = (mx.array(rng.normal(size=(n, 96)), mx.float32) for n in (40, 3))
    packed = mx.quantize(w, 32, 4)
    exact = mx.dequantize(*packed, 32, 4)

    def loss(x, product):
        return mx.sum(mx.square(product(x)))

    def product(x):
        return mx.quantized_matmul(x, *packed, group_size=32, bits=4)

    expected = mx.grad(loss)(x, lambda x: x @ exact.T)
    np.testing.assert_allclose(np.array(mx.grad(loss)(x, product)), np.array(expected), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(np.array(mx.compile(product)(x)), np.array(x @ exact.T), atol=1e-4)


def test_many_products_at_once(best):
    """Two streams that share the threads, as two rows of a layer do."""
    rng = np.random.default_rng(3)
    w = mx.array(rng.normal(size=(3000, 128)), mx.float32)
    packed = mx.quantize(w, 32, 8)
    exact = _exact(mx.dequantize(*packed, 32, 8))
    streams, results = [mx.new_thread_local_stream(mx.cpu) for _ in range(2)], []
    for i in range(40):
        x = mx.array(rng.normal(size=(1 + i % 5, 128)), mx.float32)
        with mx.stream(streams[i % 2]):
            results.append((x, mx.quantized_matmul(x, *packed, group_size=32, bits=8)))
    mx.eval([y for _, y in results])
    for x, y in results:
        np.testing.assert_allclose(_exact(y), _exact(x) @ exact.T, atol=1e-4)


def _exact(x: mx.array) -> np.ndarray:
    return np.array(x.astype(mx.float32)).astype(np.float64)


def _note(cache: Path, **environment: str) -> str:
    """What a fresh process says about its kernels; it must not end otherwise."""
    code = (
        "import rave_mlx.backend as b, mlx.core as mx; f = b.prepare();"
        "w = mx.quantize(mx.ones((4, 32)), 32, 4); print(f.kernels and f.kernels.name, '|', f.kernels_note, '|',"
        "mx.quantized_matmul(mx.ones((1, 32)), *w, group_size=32, bits=4)[0, 0].item())"
    )
    # Only what is given counts: not what this run of the tests sets.
    base = {k: v for k, v in os.environ.items() if k != packed_products.VARIABLE}
    base |= {"XDG_CACHE_HOME": str(cache), **environment}
    done = subprocess.run([sys.executable, "-c", code], env=base, capture_output=True, text=True, check=True)
    *_, line = done.stdout.strip().splitlines()
    assert line.endswith("| 32.0")
    assert not done.stderr
    return line


def test_found_switched_off_and_unknown(cache):
    assert _note(cache).split()[0] in ("AVX2", "AVX-512", "NEON", "portable")
    assert _note(cache, RAVE_MLX_KERNELS="none").startswith("None | RAVE_MLX_KERNELS=none |")
    assert "no such kernels" in _note(cache, RAVE_MLX_KERNELS="Cray")


def test_without_or_with_broken_kernels_everything_goes_on(tmp_path):
    assert "not built; rave-mlx build-kernels does it" in _note(tmp_path)
    folder = tmp_path / "rave-mlx"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "kernels-0123456789abcdef.so").write_bytes(b"old")
    assert "another version; run rave-mlx build-kernels again" in _note(tmp_path)
    (folder / kernel_library.name()).write_bytes(b"\x7fELF broken")
    assert "run rave-mlx build-kernels again" in _note(tmp_path)


def test_building_says_what_is_wrong_in_one_line(tmp_path):
    def run(*options: str, **environment: str) -> str:
        command = [*COMMAND, *options]
        environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path), **environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        (line,) = done.stderr.strip().splitlines()
        return line

    assert "there is no g++ or clang++ here" in run(PATH=str(tmp_path))
    broken = tmp_path / "g++"
    broken.write_text("#!/bin/sh\necho 'x.cpp:1: error: no such header' >&2\nexit 1\n")
    broken.chmod(0o755)
    assert "failed: x.cpp:1: error: no such header" in run("--compiler", str(broken))
