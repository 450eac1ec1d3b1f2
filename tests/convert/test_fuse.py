"""An adapter built into its base answers as it did beside it."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from command import rave, rave_process
from families import CONVERSATIONS, cases, write_checkpoint
from support import relative

import rave_mlx
from rave_mlx.checkpoint import adapters, directory
from rave_mlx.checkpoint.adapters import AdapterConfig
from rave_mlx.checkpoint.fingerprint import fingerprint
from rave_mlx.config import GateConfig
from rave_mlx.convert import Options, convert
from rave_mlx.convert.fusing import fuse
from rave_mlx.errors import ModelError

MODULES = (
    "decoder.layers.0.attention.q_proj",
    "decoder.layers.1.attention.v_proj",
    "decoder.layers.2.mlp.down_proj",
)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(cases()["qwen2_5_vl"], tmp_path_factory.mktemp("base") / "hf")


def trained(base, out, **fields):
    """An adapter with random weights for a model, on disk."""
    lmm = rave_mlx.load(base)
    config = AdapterConfig(**{"rank": 3, "scale": 1.5, "modules": MODULES, "base": fingerprint(lmm)} | fields)
    if config.gate is not None:
        lmm = adapters.with_gates(lmm, config.gate, base)
    adapters.attach(lmm, config)
    rng = np.random.default_rng(5)
    drawn = {
        name: mx.array(rng.normal(0, 0.3, x.shape).astype(np.float32)) + (x if name.endswith(".m") else 0)
        for name, x in adapters.adapter_weights(lmm, config).items()
    }
    lmm.load_weights(list(drawn.items()), strict=False)
    adapters.save(lmm, config, out)
    return out


def logits(model, **options):
    lmm = rave_mlx.load(model, **options)
    return np.array(lmm.logits(lmm.prepare(CONVERSATIONS["two images, two turns"])))


@pytest.mark.parametrize("kind", ["lora", "dora"])
@pytest.mark.parametrize("gate", [None, GateConfig(rank=3)], ids=["plain", "gated"])
@pytest.mark.parametrize("form", ["checkpoint", "rave directory"])
def test_fused_equals_unfused(checkpoint, tmp_path, kind, gate, form):
    base = checkpoint
    if form == "rave directory":
        base = convert(checkpoint, tmp_path / "rave")
    adapter = trained(base, tmp_path / "adapter", kind=kind, gate=gate)
    fuse(base, adapter, tmp_path / "fused")
    beside = logits(base, adapter=adapter)
    assert relative(logits(tmp_path / "fused"), beside) <= 1e-5
    assert relative(logits(base), beside) > 1e-2
    assert directory.read_config(tmp_path / "fused").gate == gate


def test_parts_trained_in_full_are_replaced(checkpoint, tmp_path):
    adapter = trained(checkpoint, tmp_path / "adapter", full=("connector",), modules=MODULES[:1])
    fuse(checkpoint, adapter, tmp_path / "fused")
    assert relative(logits(tmp_path / "fused"), logits(checkpoint, adapter=adapter)) <= 1e-5


def test_a_quantized_base_is_packed_again_or_left_in_16_bits(checkpoint, tmp_path):
    base = convert(checkpoint, tmp_path / "rave", quantize=Options(bits=8, group_size=32))
    adapter = trained(base, tmp_path / "adapter")
    packed, plain = (fuse(base, adapter, tmp_path / name, dequantize=name == "plain") for name in ("packed", "plain"))
    beside = logits(base, adapter=adapter)
    assert relative(logits(plain), beside) <= 2e-3
    assert 1e-4 < relative(logits(packed), beside) < 0.05
    names = directory.read_tensors(packed), directory.read_tensors(plain)
    assert all(f"{m}.scales" in names[0] and f"{m}.scales" not in names[1] for m in MODULES)
    assert "decoder.layers.0.attention.k_proj.scales" in names[1]


def test_an_adapter_of_another_base_is_refused(checkpoint, tmp_path):
    other = write_checkpoint(cases()["qwen2_5_vl-tied"], tmp_path / "other")
    adapter = trained(other, tmp_path / "adapter")
    with pytest.raises(ModelError, match="trained on another base model"):
        fuse(checkpoint, adapter, tmp_path / "fused")
    assert not (tmp_path / "fused").exists()


def test_the_command_line(checkpoint, tmp_path):
    adapter = trained(checkpoint, tmp_path / "adapter")
    arguments = ("fuse", "--model", checkpoint, "--adapter", adapter, tmp_path / "fused")
    done = rave_process(*arguments)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'fused'}\n"), done.stderr
    assert relative(logits(tmp_path / "fused"), logits(checkpoint, adapter=adapter)) <= 1e-5
    again = rave(*arguments)
    assert again.returncode == 1
    assert "already exists" in again.stderr
