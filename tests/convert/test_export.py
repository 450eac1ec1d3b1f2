"""Rave directories back into the Hub's layout: every family round trip, quantized models in 16 bits."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, cases, golden, write_checkpoint

import rave_mlx
from rave_mlx.checkpoint import directory, safetensors_writer
from rave_mlx.config import GateConfig
from rave_mlx.convert import Options, convert
from rave_mlx.convert.exporting import export
from rave_mlx.convert.families import detect
from rave_mlx.errors import ModelError

CASES = cases()
PUBLISHED_EXPERTS = {"qwen3_vl_moe", "qwen3_moe", "qwen2_moe", "deepseek_ocr2", "deepseek_ocr2-large"}
"""Cases whose experts transformers writes otherwise than the published checkpoints, and so our exports, have them."""


@pytest.mark.parametrize("name", CASES)
def test_a_round_trip_gives_back_every_tensor(tmp_path, name):
    """Names, shapes and numbers as they were; experts as published, which is not how transformers writes them."""
    source = write_checkpoint(CASES[name], tmp_path / "hf")
    convert(source, tmp_path / "rave")
    export(tmp_path / "rave", tmp_path / "again")
    before, after = directory.read_tensors(source), directory.read_tensors(tmp_path / "again")
    modern = detect(CASES[name].config, name).modern
    after = {modern(n): tensor for n, tensor in after.items()}
    shapes = golden(CASES[name])[0]
    if name in PUBLISHED_EXPERTS:
        convert(tmp_path / "again", tmp_path / "rave again")
        ours, again = (directory.read_tensors(tmp_path / folder) for folder in ("rave", "rave again"))
        assert ours.keys() == again.keys()
        assert all(mx.array_equal(again[n], t) for n, t in ours.items())
        before, after, shapes = ({n: x for n, x in d.items() if ".experts." not in n} for d in (before, after, shapes))
    assert {n: t.shape for n, t in after.items()} == shapes
    assert all(mx.array_equal(after[n], t) for n, t in before.items())
    assert rave_mlx.load(tmp_path / "again").config == rave_mlx.load(source).config
    assert json.loads((tmp_path / "again" / "config.json").read_text()) == CASES[name].config


def test_files_are_marked_and_sharded_as_transformers_wants(tmp_path, monkeypatch):
    monkeypatch.setattr(safetensors_writer, "SHARD_BYTES", 100_000)
    convert(write_checkpoint(CASES["phi3"], tmp_path / "hf"), tmp_path / "rave")
    export(tmp_path / "rave", tmp_path / "out")
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    assert len(files) > 2
    assert all(mx.load(str(f), return_metadata=True)[1] == {"format": "pt"} for f in files)
    weight_map = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())["weight_map"]
    assert set(weight_map.values()) == {f.name for f in files}
    assert "model.layers.0.self_attn.qkv_proj.weight" in weight_map


@pytest.mark.parametrize("options", [Options(bits=4, group_size=32), Options(mode="mxfp8"), Options(mode="nvfp4")])
def test_a_quantized_model_goes_back_as_the_numbers_it_stands_for(tmp_path, options):
    source = write_checkpoint(CASES["phi3"], tmp_path / "hf")
    convert(source, tmp_path / "rave", quantize=options)
    export(tmp_path / "rave", tmp_path / "out", dequantize=True)
    quantized, back = rave_mlx.load(tmp_path / "rave"), rave_mlx.load(tmp_path / "out")
    assert back.config.quantization is None
    weights = back.named_weights()
    assert all(mx.array_equal(w, weights[n]) for n, w in quantized.named_weights().items())
    prompt = back.prepare(CONVERSATIONS["text"])
    assert np.array_equal(np.array(quantized.logits(prompt)), np.array(back.logits(prompt)))
    assert not mx.array_equal(
        weights["decoder.head.weight"], rave_mlx.load(source).named_weights()["decoder.head.weight"]
    )


def test_the_type_is_that_of_the_norms(tmp_path):
    convert(write_checkpoint(CASES["llama"], tmp_path / "hf"), tmp_path / "rave", dtype="bfloat16",
            quantize=Options(group_size=32))  # fmt: skip
    export(tmp_path / "rave", tmp_path / "out", dequantize=True)
    assert {t.dtype for t in directory.read_tensors(tmp_path / "out").values()} == {mx.bfloat16}


def test_a_quantized_model_is_not_exported_unasked(tmp_path):
    convert(write_checkpoint(CASES["llama"], tmp_path / "hf"), tmp_path / "rave", quantize=Options(group_size=32))
    with pytest.raises(ModelError, match=r"rave: is quantized, .*\(--dequantize, dequantize=True\)"):
        export(tmp_path / "rave", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_gates_travel_with_a_quantized_model(tmp_path):
    source = write_checkpoint(CASES["qwen2_5_vl"], tmp_path / "hf")
    convert(source, tmp_path / "rave", gate=GateConfig(rank=3), quantize=Options(bits=8, group_size=32))
    export(tmp_path / "rave", tmp_path / "out", dequantize=True)
    tensors, quantized = directory.read_tensors(tmp_path / "out"), dict(directory.read_tensors(tmp_path / "rave"))
    again = rave_mlx.load(tmp_path / "out")
    assert again.config.gate == GateConfig(rank=3)
    assert sum("pair_gate" in n for n in tensors) == sum(".attention.gate." in n for n in quantized) == 15
    assert mx.array_equal(
        again.named_weights()["decoder.layers.2.attention.gate.U"], quantized["decoder.layers.2.attention.gate.U"]
    )


def test_what_an_mlx_package_wrote_about_packing_does_not_go_back(tmp_path):
    """transformers would take `quantization_config` for its own."""
    convert(write_checkpoint(CASES["llava"], tmp_path / "hf"), tmp_path / "rave", quantize=Options(group_size=32))
    file = tmp_path / "rave" / "hub" / "config.json"
    packed = {"group_size": 32, "bits": 4}
    config = CASES["llava"].config | {"quantization": packed, "quantization_config": packed}
    config["text_config"] = config["text_config"] | {"quantization_config": packed}
    file.write_text(json.dumps(config))
    export(tmp_path / "rave", tmp_path / "out", dequantize=True)
    assert json.loads((tmp_path / "out" / "config.json").read_text()) == CASES["llava"].config


def test_an_existing_folder_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(ModelError, match="already exists"):
        export(directory.BUILT_IN, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_directory_without_the_hubs_configuration_is_refused(tmp_path):
    convert(write_checkpoint(CASES["llama"], tmp_path / "hf"), tmp_path / "rave")
    (tmp_path / "rave" / "hub" / "config.json").unlink()
    with pytest.raises(ModelError, match=r"has no hub/config.json"):
        export(tmp_path / "rave", tmp_path / "out")
    assert not (tmp_path / "out").exists()
