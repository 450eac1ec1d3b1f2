"""Checkpoints as training programs leave them: wrapped, with buffers, with settings of a quantization that is gone."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, cases, write_checkpoint
from safetensors.numpy import load_file, save_file

import rave_mlx
from rave_mlx.convert import convert
from rave_mlx.errors import ConfigError, ModelError

CASES = cases()
BITSANDBYTES = {
    "quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False, "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_compute_dtype": "bfloat16",
}  # fmt: skip
LEFTOVERS = {
    "bitsandbytes": BITSANDBYTES,
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128, "zero_point": True, "version": "gemm"},
    "fp8": {"quant_method": "fp8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
    "compressed-tensors": {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}},
    "torchao": {"quant_method": "torchao", "quant_type": "int4_weight_only"},
}


def written(folder, name="qwen2", edit=None, **config):
    write_checkpoint(CASES[name], folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | config))
    if edit is not None:
        tensors = load_file(folder / "model.safetensors")
        tensors = edit(tensors) or tensors
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


def renamed(rename):
    return lambda tensors: {rename(name): x for name, x in tensors.items()}


def logits(folder, name="qwen2"):
    lmm = rave_mlx.load(folder)
    return np.array(lmm.logits(lmm.prepare(CONVERSATIONS[CASES[name].conversations[0]])))


@pytest.mark.parametrize(
    "prefix",
    [
        "module.", "_orig_mod.", "base_model.model.", "model.", "module._orig_mod.", "_orig_mod.module.",
        "_fsdp_wrapped_module.", "_forward_module.module.", "model.model.", "module.base_model.model.", "model.module.",
    ],
)  # fmt: skip
@pytest.mark.parametrize("name", ["qwen2", "llama-tied", "qwen2_5_vl", "smolvlm", "llava", "internvl"])
def test_a_wrapper_comes_off(tmp_path, name, prefix):
    expected = logits(written(tmp_path / "plain", name), name)
    found = logits(written(tmp_path / "wrapped", name, renamed(prefix.__add__)), name)
    assert np.array_equal(found, expected)


def test_names_of_transformers_4_come_in_wrappers_too(tmp_path):
    plain = write_checkpoint(CASES["qwen2_5_vl"], tmp_path / "plain", old=True)
    expected = logits(plain, "qwen2_5_vl")
    tensors = load_file(plain / "model.safetensors")
    save_file({f"module.{n}": x for n, x in tensors.items()}, plain / "model.safetensors", {"format": "pt"})
    assert np.array_equal(logits(plain, "qwen2_5_vl"), expected)


def test_wrapped_parts_of_a_model(tmp_path):
    """FSDP and checkpointed layers leave their mark within names; only the layers have it."""

    def inner(name):
        return name.replace("layers.0.", "layers.0._fsdp_wrapped_module._checkpoint_wrapped_module.").replace(
            "layers.1.", "layers.1._orig_mod."
        )

    expected = logits(written(tmp_path / "plain"))
    assert np.array_equal(logits(written(tmp_path / "wrapped", edit=renamed(inner))), expected)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "base_model.model."])
def test_a_prefix_on_some_names_is_refused(tmp_path, prefix):
    def most(tensors):
        return {n if n == "lm_head.weight" else prefix + n: x for n, x in tensors.items()}

    def one(tensors):
        return {prefix + n if n == "lm_head.weight" else n: x for n, x in tensors.items()}

    def twice(tensors):
        return tensors | {f"{prefix}lm_head.weight": tensors["lm_head.weight"] + 1}

    for i, edit in enumerate((most, one, twice)):
        with pytest.raises(ModelError, match=r"lm_head\.weight"):
            rave_mlx.load(written(tmp_path / str(i), edit=edit))


def test_buffers_of_older_versions_do_not_matter(tmp_path):
    def add(tensors):
        tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.full(8, 9, np.float32)
        tensors["model.rotary_emb.inv_freq"] = np.full(8, 9, np.float32)
        tensors["model.layers.1.self_attn.masked_bias"] = np.float32([-1e9])
        tensors["model.embeddings.position_ids"] = np.arange(12)[None]

    expected = logits(written(tmp_path / "plain"))
    assert np.array_equal(logits(written(tmp_path / "buffers", edit=add)), expected)

    def wrapped(tensors):
        add(tensors)
        return {n if "inv_freq" in n else f"module.{n}": x for n, x in tensors.items()}

    assert np.array_equal(logits(written(tmp_path / "wrapped", edit=wrapped)), expected)


@pytest.mark.parametrize(
    "extra",
    [
        "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight",
        "model.layers.0.self_attn.q_proj.lora_B.default.weight",
        "model.layers.0.self_attn.q_proj.lora_magnitude_vector.default.weight",
        "model.layers.0.self_attn.q_proj.lora_a",
        "model.layers.0.self_attn.q_proj.base_layer.weight",
        "lm_head.modules_to_save.default.weight",
    ],
)
def test_an_adapter_that_is_not_merged_is_refused(tmp_path, extra):
    folder = written(tmp_path / "hf", edit=lambda t: t | {extra: np.zeros((4, 4), np.float32)})
    with pytest.raises(ModelError, match="adapter that is not merged.*merge_and_unload"):
        convert(folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_adapter_in_place_of_a_model(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ModelError, match="is an adapter; give the model that it belongs to"):
        rave_mlx.load(tmp_path)


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
@pytest.mark.parametrize("method", LEFTOVERS)
def test_settings_of_a_quantization_that_is_gone(tmp_path, capsys, method, key):
    expected = logits(written(tmp_path / "plain"))
    assert "warning" not in capsys.readouterr().err
    folder = written(tmp_path / "left", **{key: LEFTOVERS[method]})
    assert np.array_equal(logits(folder), expected)
    assert f"speaks of quantization by '{method}', and the weights are plain" in capsys.readouterr().err
    lines = []
    back = convert(folder, tmp_path / "rave", note=lines.append)
    assert [method in line for line in lines] == [True]
    assert np.array_equal(logits(back), expected)


def test_settings_of_mlx_beside_plain_weights(tmp_path, capsys):
    expected = logits(written(tmp_path / "plain"))
    folder = written(tmp_path / "left", quantization={"group_size": 32, "bits": 4})
    lmm = rave_mlx.load(folder)
    assert lmm.config.quantization is None
    assert np.array_equal(logits(folder), expected)
    assert "the weights are plain" in capsys.readouterr().err


QUERY = "model.layers.0.self_attn.q_proj"
PACKED = {
    "gptq": {"qweight": np.int32, "qzeros": np.int32, "scales": np.float16, "g_idx": np.int32},
    "awq": {"qweight": np.int32, "qzeros": np.int32, "scales": np.float16},
    "bitsandbytes": {
        "weight": np.uint8, "weight.absmax": np.float32, "weight.quant_map": np.float32,
        "weight.quant_state.bitsandbytes__nf4": np.uint8,
    },
    "fp8": {"weight": np.float32, "weight_scale_inv": np.float32},
    "compressed-tensors": {"weight_packed": np.int32, "weight_scale": np.float32, "weight_shape": np.int64},
    "torchao": {"weight": np.int8, "weight_scale": np.float32},
}  # fmt: skip


@pytest.mark.parametrize("method", PACKED)
def test_weights_that_another_package_packed_are_refused_by_name(tmp_path, method):
    def pack(tensors):
        shape = tensors.pop(f"{QUERY}.weight").shape
        for leaf, dtype in PACKED[method].items():
            tensors[f"{QUERY}.{leaf}"] = np.ones(shape, dtype)

    folder = written(tmp_path / "hf", edit=pack, quantization_config=LEFTOVERS[method])
    for run in (rave_mlx.load, lambda f: convert(f, tmp_path / "out")):
        with pytest.raises(ModelError, match=f"is quantized by '{method}', which is not read; convert the 16-bit"):
            run(folder)


def test_eight_bit_integers_are_refused_with_and_without_settings(tmp_path):
    def pack(tensors):
        tensors[f"{QUERY}.weight"] = tensors[f"{QUERY}.weight"].astype(np.int8)

    eight = {"quant_method": "bitsandbytes", "load_in_8bit": True}
    with pytest.raises(ModelError, match="is quantized by 'bitsandbytes'"):
        rave_mlx.load(written(tmp_path / "named", edit=pack, quantization_config=eight))
    for run in (rave_mlx.load, lambda f: convert(f, tmp_path / "out")):
        with pytest.raises(ModelError, match=rf"{QUERY}\.weight has type .*int8"):
            run(written(tmp_path / "nameless", edit=pack))
    assert not (tmp_path / "out").exists()


def test_a_type_of_eight_bits_is_refused_by_the_name_of_its_method(tmp_path):
    folder = written(tmp_path / "hf", quantization_config=LEFTOVERS["fp8"])
    file = folder / "model.safetensors"
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    entry = header[f"{QUERY}.weight"]
    first, end = entry["data_offsets"]
    entry |= {"dtype": "F8_E4M3", "shape": [end - first]}
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
    with pytest.raises(ModelError, match="quantized by 'fp8'"):
        rave_mlx.load(folder)


@pytest.mark.parametrize("where", ["quantization", "quantization_config"])
def test_mlx_is_the_name_of_our_own_method(tmp_path, where):
    def pack(tensors):
        for name in [n for n, x in tensors.items() if x.ndim == 2]:
            parts = mx.quantize(mx.array(tensors.pop(name)), group_size=32, bits=8)
            for part, x in zip(("weight", "scales", "biases"), parts, strict=True):
                tensors[name.replace("weight", part)] = np.array(x)

    setting = {"group_size": 32, "bits": 8}
    expected = logits(written(tmp_path / "plain", edit=pack, **{where: setting}))
    named = written(tmp_path / "named", edit=pack, **{where: setting | {"quant_method": "mlx", "mode": "affine"}})
    assert np.array_equal(logits(named), expected)
    with pytest.raises(ConfigError, match="unknown keys sparsity"):
        rave_mlx.load(written(tmp_path / "odd", edit=pack, **{where: setting | {"sparsity": "2:4"}}))
