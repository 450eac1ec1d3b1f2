"""Rave directories, fused ones too, are converted again: quantized, cast, given gates, planned and checked."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest
from command import rave
from families import CONVERSATIONS, cases, write_checkpoint
from hub_server import files_of

import rave_mlx
from rave_mlx.checkpoint import adapters, directory
from rave_mlx.checkpoint.adapters import AdapterConfig
from rave_mlx.config import GateConfig
from rave_mlx.convert import Options, convert, export, fuse, plan
from rave_mlx.errors import ModelError

QUERY = "decoder.layers.0.attention.q_proj"
EIGHT = Options(bits=8, group_size=32)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(cases()["qwen2_5_vl"], tmp_path_factory.mktemp("hf") / "tiny-vl")


@pytest.fixture(scope="module")
def folder(checkpoint):
    return convert(checkpoint, checkpoint.parent / "rave")


@pytest.fixture(scope="module")
def fused(folder):
    lmm = rave_mlx.load(folder)
    config = AdapterConfig(rank=2, scale=1.0, modules=(QUERY,))
    adapters.attach(lmm, config)
    lmm.load_weights([(f"{QUERY}.lora_b", mx.random.normal((2, 64), key=mx.random.key(1)))], strict=False)
    return fuse(folder, adapters.save(lmm, config, folder.parent / "adapter"), folder.parent / "fused")


def tensors(place):
    return {n: np.array(x.view(mx.uint32)) for n, x in directory.read_tensors(place).items()}


def logits(place):
    lmm = rave_mlx.load(place)
    return np.array(lmm.logits(lmm.prepare(CONVERSATIONS["one image"])))


def test_quantized_as_from_the_checkpoint(checkpoint, folder, tmp_path):
    """The same bytes, whichever way."""
    direct = convert(checkpoint, tmp_path / "direct", quantize=EIGHT)
    again = convert(folder, tmp_path / "again", quantize=EIGHT)
    expected, found = (
        {n: c for n, c in files_of(place).items() if n != directory.CARD} for place in (direct, again)
    )  # fmt: skip
    assert found == expected
    assert "rave" in (again / directory.CARD).read_text()
    # What an export needs came along.
    with pytest.raises(ModelError, match="is quantized"):
        export(again, tmp_path / "out")
    export(again, tmp_path / "out", dequantize=True)


def test_a_fused_model_is_quantized(fused, tmp_path):
    packed = convert(fused, tmp_path / "packed", quantize=EIGHT)
    plain = directory.read_tensors(fused)[f"{QUERY}.weight"]
    parts = mx.quantize(plain, group_size=32, bits=8)
    stored = directory.read_tensors(packed)
    for part, expected in zip(("weight", "scales", "biases"), parts, strict=True):
        assert mx.array_equal(stored[f"{QUERY}.{part}"], expected)
    assert directory.read_config(packed).quantization.bits == 8
    rave_mlx.load(packed)


def test_cast(folder, tmp_path):
    half = convert(folder, tmp_path / "half", dtype="float16")
    before, after = directory.read_tensors(folder), directory.read_tensors(half)
    assert before.keys() == after.keys()
    assert all(mx.array_equal(after[n], before[n].astype(mx.float16)) for n in before)
    assert directory.read_config(half) == directory.read_config(folder)


def test_gates_are_added(folder, tmp_path):
    gated = convert(folder, tmp_path / "gated", gate=GateConfig(rank=4))
    assert np.array_equal(logits(gated), logits(folder))
    assert directory.read_config(gated).gate == GateConfig(rank=4)
    with pytest.raises(ModelError, match="has pair gates already"):
        convert(gated, tmp_path / "twice", gate=GateConfig(rank=4))
    # They stay as they are when such a model is packed.
    packed = convert(gated, tmp_path / "packed", quantize=EIGHT)
    gates = [n for n in tensors(gated) if directory.GATE in n]
    assert gates
    assert all(np.array_equal(tensors(packed)[n], tensors(gated)[n]) for n in gates)


def test_what_is_packed_is_not_packed_again(folder, tmp_path):
    packed = convert(folder, tmp_path / "packed", quantize=EIGHT)
    for run in (lambda: convert(packed, tmp_path / "twice", quantize=EIGHT), lambda: plan(packed, quantize=EIGHT)):
        with pytest.raises(ModelError, match="is quantized already, and packing it again would round it twice"):
            run()
    # Another type of its scales is no packing.
    cast = convert(packed, tmp_path / "cast", dtype="bfloat16")
    assert directory.read_tensors(cast)[f"{QUERY}.weight"].dtype == mx.uint32
    assert directory.read_tensors(cast)[f"{QUERY}.scales"].dtype == mx.bfloat16
    assert not (tmp_path / "twice").exists()


def test_an_incomplete_directory_is_refused(folder, tmp_path):
    broken = convert(folder, tmp_path / "broken", dtype="float16")
    weights = directory.read_tensors(broken)
    weights.pop("decoder.norm.weight")
    mx.eval(weights)
    mx.save_safetensors(str(broken / "model.safetensors"), weights)
    with pytest.raises(ModelError, match=r"missing: decoder\.norm\.weight"):
        convert(broken, tmp_path / "out", quantize=EIGHT)


def test_a_plan(folder, checkpoint):
    expected, found = (plan(place, quantize=EIGHT) for place in (checkpoint, folder))
    assert (found.after, found.parameters, found.dtypes) == (expected.after, expected.parameters, expected.dtypes)
    assert found.before == expected.before
    assert found.source == "rave"


def test_the_command_line(fused, tmp_path):
    out = tmp_path / "out"
    done = rave("convert", fused, out, "-q", 8, "--group-size", 32, "--dry-run")
    assert done.returncode == 0, done.stderr
    assert "affine, 8 bits in groups of 32" in done.stdout
    assert not out.exists()
    done = rave("convert", fused, out, "--quantize", 8, "--group-size", 32, "--check")
    assert done.returncode == 0, done.stderr
    assert "KL divergence" in done.stdout
    assert json.loads((out / "config.json").read_text())["quantization"]["bits"] == 8
    done = rave("convert", fused, tmp_path / "same")
    assert (done.returncode, done.stdout) == (1, "")
    assert "is a rave directory already; say what to change" in done.stderr
