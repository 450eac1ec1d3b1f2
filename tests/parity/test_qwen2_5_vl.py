"""Qwen2.5-VL against transformers beyond tests/families: mixed eras, the built-in model, exported gates."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, golden, kept_positions, write_checkpoint
from families.qwen2_5_vl import PLAIN
from safetensors.numpy import load_file, save_file
from support import ask, form, picture, relative

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import rave_mlx  # noqa: E402
from parity import golden as reference  # noqa: E402
from rave_mlx.checkpoint.directory import BUILT_IN  # noqa: E402
from rave_mlx.config import GateConfig  # noqa: E402
from rave_mlx.convert import convert  # noqa: E402
from rave_mlx.convert.exporting import export  # noqa: E402


@pytest.mark.parametrize("old_names", [False, True])
def test_names_and_configurations_of_different_eras_mix(tmp_path, old_names):
    """Old names under a nested configuration (4.52), new names under a flat one."""
    folder = write_checkpoint(PLAIN, tmp_path, old=not old_names)
    rename = PLAIN.old_name if old_names else {PLAIN.old_name(n): n for n in golden(PLAIN)[0]}.get
    tensors = load_file(folder / "model.safetensors")
    save_file({rename(n): t for n, t in tensors.items()}, folder / "model.safetensors")
    lmm = rave_mlx.load(folder)
    prompt = lmm.prepare(CONVERSATIONS["one image"])
    expected = golden(PLAIN)[1]["one image"]
    assert relative(lmm.logits(prompt)[0, kept_positions(len(prompt))], expected) <= 1e-5


def test_the_built_in_model_equals_transformers(tmp_path):
    """The package's own weights, exported to the Hub's layout and run by transformers, gates off."""
    export(BUILT_IN, tmp_path / "hf")
    model = transformers.Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    lmm = rave_mlx.load()
    for size in ((256, 128), (300, 211), (64, 64)):
        prompt = lmm.prepare([ask("What is the Total?", form(["Order: A-17", "Total: $48.20"], size))])
        assert relative(lmm.logits(prompt, gate=False), reference.hf_logits(PLAIN, model, [prompt])) <= 1e-5


def test_export_and_reload_keep_gates_and_logits(tmp_path):
    convert(write_checkpoint(PLAIN, tmp_path / "first"), tmp_path / "rave", gate=GateConfig(rank=3, kv_groups=(1,)))
    lmm = rave_mlx.load(tmp_path / "rave")
    rng = np.random.default_rng(0)
    weights = {
        name: mx.array(rng.normal(0, 0.5, w.shape).astype(np.float32)) if ".attention.gate." in name else w
        for name, w in lmm.named_weights().items()
    }
    lmm.load_weights(list(weights.items()))
    mx.save_safetensors(str(tmp_path / "rave" / "model.safetensors"), weights)
    export(tmp_path / "rave", tmp_path / "again")
    again = rave_mlx.load(tmp_path / "again")
    assert again.config == lmm.config
    prompt = lmm.prepare([ask("Read.", picture())])
    assert (np.array(again.logits(prompt)) == np.array(lmm.logits(prompt))).all()
    assert relative(lmm.logits(prompt, gate=False), lmm.logits(prompt)) > 1e-3
