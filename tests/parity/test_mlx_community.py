"""Checkpoints that MLX packages quantized.

mlx-lm writes and answers here itself. mlx-vlm is no dependency, so what it writes is laid out by hand: names,
channels-last convolutions and configuration as in version 0.7.10.
"""

from __future__ import annotations

import json
import re
import shutil

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, cases, write_checkpoint, write_files
from families.qwen3_vl_moe import single
from mlx_lm.convert import mixed_quant_predicate_builder
from mlx_lm.utils import load_model, quantize_model, save_config, save_model
from support import relative

import rave_mlx
from rave_mlx import backend
from rave_mlx.checkpoint import directory
from rave_mlx.checkpoint.packed import expand as unpack
from rave_mlx.config import QuantizationConfig
from rave_mlx.convert import Options, convert
from rave_mlx.convert.exporting import export
from rave_mlx.errors import ConfigError, ModelError, RaveError

CASES = cases()
MODES = {
    "affine 4": ("affine", 4, 32, None),
    "affine 8": ("affine", 8, 64, None),
    "affine 3": ("affine", 3, 32, None),
    "mxfp4": ("mxfp4", 4, 32, None),
    "mxfp8": ("mxfp8", 8, 32, None),
    "nvfp4": ("nvfp4", 4, 16, None),
    "mixed": ("affine", 4, 32, "mixed_4_6"),
}


def write_text(case, folder):
    """A checkpoint with a configuration that mlx-lm reads: flat, without sliding windows, which it ignores, and with
    experts one by one."""
    write_checkpoint(case, folder)
    file = str(folder / "model.safetensors")
    mx.save_safetensors(file, single(dict(mx.load(file))), metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    config["rope_theta"] = config.pop("rope_parameters")["rope_theta"]
    for key in ("sliding_window", "use_sliding_window", "layer_types", "partial_rotary_factor"):
        config.pop(key, None)
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def quantize_with_mlx_lm(source, folder, mode, bits, group_size, recipe):
    """What `mlx_lm.convert` writes, and its model."""
    model, config = load_model(source)
    chosen = mixed_quant_predicate_builder(recipe, model, group_size) if recipe else None
    model, config = quantize_model(model, config, group_size, bits, mode=mode, quant_predicate=chosen)
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    save_model(folder, model)
    save_config(config, folder / "config.json")
    return model


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ["llama", "llama-tied", "qwen2", "qwen3", "phi3", "qwen3_moe"])
def test_logits_equal_those_of_mlx_lm(tmp_path, monkeypatch, name, mode):
    model = quantize_with_mlx_lm(write_text(CASES[name], tmp_path / "hf"), tmp_path / "mlx", *MODES[mode])
    for expand in (True, False):
        monkeypatch.setattr(backend, "expand_quantized", lambda stored, expanded, expand=expand: expand)
        lmm = rave_mlx.load(tmp_path / "mlx")
        prompt = lmm.prepare(CONVERSATIONS["text"])
        assert relative(lmm.logits(prompt), model(mx.array(prompt.ids)).astype(mx.float32)) <= 1e-5


def test_a_mixed_recipe_comes_with_its_widths_by_canonical_name(tmp_path):
    quantize_with_mlx_lm(write_text(CASES["llama"], tmp_path / "hf"), tmp_path / "mlx", *MODES["mixed"])
    quantization = rave_mlx.load(tmp_path / "mlx").config.quantization
    assert (quantization.bits, quantization.group_size, quantization.mode) == (4, 32, "affine")
    six = ("decoder.head", "decoder.layers.2.attention.v_proj", "decoder.layers.2.mlp.down_proj")
    assert quantization.layers == dict.fromkeys(six, QuantizationConfig(6, 32))


def test_a_fused_projection_is_cut_with_its_scales(tmp_path):
    """Phi-3 keeps queries, keys and values in one matrix; a row's codes, scales and biases belong together."""
    quantize_with_mlx_lm(write_text(CASES["phi3"], tmp_path / "hf"), tmp_path / "mlx", "affine", 4, 32, None)
    convert(tmp_path / "mlx", tmp_path / "rave")
    raw = mx.load(str(tmp_path / "mlx" / "model.safetensors"))
    stem = "model.layers.1.self_attn.qkv_proj"
    whole = mx.dequantize(*(raw[f"{stem}.{part}"] for part in ("weight", "scales", "biases")), group_size=32, bits=4)
    ours = dict(unpack(*stored(tmp_path / "rave")))
    parts = [ours[f"decoder.layers.1.attention.{p}_proj.weight"] for p in "qkv"]
    assert mx.array_equal(mx.concatenate(parts), whole)


def stored(folder):
    return directory.read_tensors(folder), directory.read_config(folder).quantization


# -- the layout of mlx-vlm


def qwen_name(name):
    """mlx-vlm's name of a tensor, from transformers 5's."""
    name = name.replace("model.language_model.", "language_model.model.").replace("model.visual.", "vision_tower.")
    return f"language_model.{name}" if name.startswith("lm_head") else name


def llava_name(name):
    name = qwen_name(name).replace("model.vision_tower.", "vision_tower.vision_model.")
    return name.replace("model.multi_modal", "multi_modal").replace("model.image_newline", "image_newline")


def idefics_name(name):
    name = name.replace("model.vision_model.", "vision_model.").replace("model.text_model.", "language_model.")
    return name.replace("model.connector.", "connector.")


def lighton_name(name):
    """mlx-vlm reads LightOnOCR as a mistral3."""
    name = name.replace("model.vision_encoder.", "model.vision_tower.")
    return llava_name(name.replace("model.vision_projection.", "model.multi_modal_projector."))


def gemma4_name(name):
    name = qwen_name(name).replace(".experts.", ".experts.switch_glu.")
    return re.sub(r"^model\.(vision_tower|embed_vision)\.", r"\1.", name)


LAYOUTS = {"qwen2_5_vl": qwen_name, "qwen2_vl": qwen_name, "llava": llava_name, "llava_next": llava_name,
           "idefics3": idefics_name, "pixtral": llava_name, "mistral3": llava_name, "gemma3": llava_name,
           "lighton_ocr": lighton_name, "gemma4": gemma4_name, "gemma4-vision": gemma4_name}  # fmt: skip


def mlx_vlm_checkpoint(name, folder, quantization=None, chosen=lambda path: True):
    """A case's weights as mlx-vlm writes them; `chosen` modules (by path) are packed as `quantization` says of them."""
    case, rename = CASES[name], LAYOUTS[name]
    write_checkpoint(case, folder)
    tensors, packed = {}, {}
    for old, original in mx.load(str(folder / "model.safetensors")).items():
        new = rename(old)
        tensor = original.moveaxis(1, -1) if original.ndim > 3 else original
        stem = new.removesuffix(".weight")
        eligible = new.endswith(".weight") and tensor.ndim == 2 and chosen(stem)
        setting = (quantization or {}).get(stem, {k: v for k, v in (quantization or {}).items() if k in KEYS})
        if not eligible or not setting or tensor.shape[-1] % setting["group_size"]:
            tensors[new] = tensor
            continue
        parts = mx.quantize(tensor, **setting)
        tensors |= dict(zip((f"{stem}.weight", f"{stem}.scales", f"{stem}.biases"), parts, strict=False))
        packed[old] = mx.dequantize(*parts, **setting, dtype=mx.float32)
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "mlx"})
    if quantization:
        set_config(folder, quantization=quantization, quantization_config=quantization)
    return packed


KEYS = ("group_size", "bits", "mode")


def set_config(folder, **values):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def expanded_checkpoint(name, folder, packed):
    """transformers' layout, with the numbers that the packed weights stand for."""
    write_checkpoint(CASES[name], folder)
    tensors = dict(mx.load(str(folder / "model.safetensors")))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors | packed, metadata={"format": "pt"})
    return folder


def decoder_only(path):
    return not path.startswith(("vision", "multi_modal_projector", "embed_vision"))


@pytest.mark.parametrize(
    "quantization",
    [
        {"group_size": 32, "bits": 4, "mode": "affine"},
        {"group_size": 32, "bits": 4},
        {"group_size": 32, "bits": 8, "mode": "mxfp8"},
        {"group_size": 64, "bits": 4, "mode": "affine", "language_model.lm_head": {"group_size": 32, "bits": 6}},
    ],
    ids=["affine", "no mode", "mxfp8", "override"],
)
@pytest.mark.parametrize("name", LAYOUTS)
def test_mlx_vlm_checkpoints_open_without_requantizing(tmp_path, monkeypatch, name, quantization):
    """Expanded and packed."""
    if name == "idefics3" and "language_model.lm_head" in quantization:
        quantization = {k.replace("language_model.lm_head", "lm_head"): v for k, v in quantization.items()}
    packed = mlx_vlm_checkpoint(name, tmp_path / "mlx", quantization, decoder_only)
    assert len(packed) > 5
    plain = rave_mlx.load(expanded_checkpoint(name, tmp_path / "hf", packed))
    text, prompt = (plain.prepare(CONVERSATIONS[conversation]) for conversation in ("text", "two images, two turns"))
    expected = [plain.logits(each) for each in (text, prompt)]
    for expand in (True, False):
        monkeypatch.setattr(backend, "expand_quantized", lambda stored, expanded, expand=expand: expand)
        lmm = rave_mlx.load(tmp_path / "mlx")
        assert relative(lmm.logits(text), expected[0]) <= 1e-5, expand
        if expand or quantization.get("mode") != "mxfp8":
            assert relative(lmm.logits(prompt), expected[1]) <= 1e-5, expand


@pytest.mark.parametrize("name", LAYOUTS)
def test_mlx_checkpoints_that_are_not_quantized_are_the_originals(tmp_path, name):
    """Same numbers, tensor by tensor, whichever way the convolutions lie."""
    mlx_vlm_checkpoint(name, tmp_path / "mlx")
    write_checkpoint(CASES[name], tmp_path / "hf")
    lmm, original = rave_mlx.load(tmp_path / "mlx"), rave_mlx.load(tmp_path / "hf")
    assert lmm.config == original.config
    assert all(mx.array_equal(w, original.named_weights()[n]) for n, w in lmm.named_weights().items())


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_quantized_tower_with_quantized_positions_opens(tmp_path, monkeypatch, name):
    """Positions are an embedding to mlx-vlm, and may be packed; here they are numbers."""
    monkeypatch.setattr(backend, "expand_quantized", lambda stored, expanded: False)
    packed = mlx_vlm_checkpoint(name, tmp_path / "mlx", {"group_size": 16, "bits": 4, "mode": "nvfp4"})
    plain = rave_mlx.load(expanded_checkpoint(name, tmp_path / "hf", packed), dtype="float32").named_weights()
    convert(tmp_path / "mlx", tmp_path / "rave")
    ours = dict(unpack(*stored(tmp_path / "rave")))
    table = plain.get("vision.positions")  # that of Gemma 4, of columns and of rows, is no embedding to mlx-vlm
    assert any("position" in n for n in packed) == (table is not None and table.ndim == 2)
    assert all(mx.array_equal(ours[n], w) for n, w in plain.items())
    if "vision.positions" in plain:
        assert ours["vision.positions"].dtype == mx.float32


def test_converting_keeps_the_very_bits(tmp_path):
    mlx_vlm_checkpoint("qwen2_5_vl", tmp_path / "mlx", {"group_size": 32, "bits": 4, "mode": "affine"}, decoder_only)
    convert(tmp_path / "mlx", tmp_path / "rave")
    raw = mx.load(str(tmp_path / "mlx" / "model.safetensors"))
    tensors, quantization = stored(tmp_path / "rave")
    assert quantization == QuantizationConfig(4, 32, layers={"vision": None, "connector": None})
    pairs = {
        "language_model.model.layers.1.mlp.up_proj": "decoder.layers.1.mlp.up_proj",
        "language_model.model.embed_tokens": "decoder.embed",
        "language_model.lm_head": "decoder.head",
    }
    for theirs, ours in pairs.items():
        for part in ("weight", "scales", "biases"):
            assert mx.array_equal(raw[f"{theirs}.{part}"], tensors[f"{ours}.{part}"])


def test_quantizing_what_is_quantized_is_refused(tmp_path):
    mlx_vlm_checkpoint("qwen2_5_vl", tmp_path / "mlx", {"group_size": 32, "bits": 4}, decoder_only)
    with pytest.raises(ModelError, match="quantized already"):
        convert(tmp_path / "mlx", tmp_path / "rave", quantize=Options(bits=4))
    assert not (tmp_path / "rave").exists()


def test_an_exported_import_is_read_by_transformers(tmp_path):
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    mlx_vlm_checkpoint("qwen2_5_vl", tmp_path / "mlx", {"group_size": 32, "bits": 4}, decoder_only)
    convert(tmp_path / "mlx", tmp_path / "rave")
    export(tmp_path / "rave", tmp_path / "hf", dequantize=True)
    model = transformers.AutoModelForImageTextToText.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
    lmm = rave_mlx.load(tmp_path / "mlx")
    prompt = lmm.prepare(CONVERSATIONS["text"])
    with torch.no_grad():
        expected = model(input_ids=torch.tensor(prompt.ids.astype(np.int64))).logits.numpy()
    assert relative(lmm.logits(prompt), expected) <= 1e-5


# -- what is refused


OTHERS = [
    ({"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}}, "by 'gptq', which is not"),
    ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "'awq'.*--quantize"),
    ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}}, "'bitsandbytes'"),
    ({"quantization_config": {"quant_method": "compressed-tensors", "format": "x"}}, "'compressed-tensors'"),
    ({"quantization_config": {"quant_method": "fp8"}}, "'fp8'.*mlx-community"),
    ({"compression_config": {"quant_method": "sparseml"}}, "'sparseml'"),
    ({"quantization_config": {"quant_algo": "NVFP4"}}, "'NVFP4'"),
    ({"quantization_config": {"what": 1}}, "'quantization_config'"),
]
"""Settings of other programs, and what a refusal of weights that they packed says."""


def pack_otherwise(folder):
    """One matrix as other programs pack it: integers under another name."""
    file = folder / "model.safetensors"
    tensors = dict(mx.load(str(file)))
    weight = tensors.pop("model.layers.0.mlp.up_proj.weight")
    tensors["model.layers.0.mlp.up_proj.qweight"] = mx.zeros((weight.shape[1] // 8, weight.shape[0]), mx.int32)
    mx.save_safetensors(str(file), tensors, metadata={"format": "pt"})


@pytest.mark.parametrize(("settings", "error"), OTHERS)
def test_what_other_programs_packed_is_refused_by_name(tmp_path, settings, error):
    write_checkpoint(CASES["llama"], tmp_path / "hf")
    set_config(tmp_path / "hf", **settings)
    pack_otherwise(tmp_path / "hf")
    with pytest.raises(RaveError, match=error):
        rave_mlx.load(tmp_path / "hf")


@pytest.mark.parametrize("settings", [settings for settings, _ in OTHERS])
def test_their_settings_beside_plain_weights_are_a_warning(tmp_path, settings, capsys):
    """As after merging: the weights are plain numbers, and transformers reads them as such once the block is gone."""
    plain = rave_mlx.load(write_checkpoint(CASES["llama"], tmp_path / "plain"))
    write_checkpoint(CASES["llama"], tmp_path / "hf")
    set_config(tmp_path / "hf", **settings)
    lmm = rave_mlx.load(tmp_path / "hf")
    assert "the weights are plain numbers; they are read as they are" in capsys.readouterr().err
    prompt = lmm.prepare([{"role": "user", "content": "How are you?"}])
    assert (np.array(lmm.logits(prompt)) == np.array(plain.logits(prompt))).all()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"quantization": {"group_size": 32, "bits": 4, "dwq": 1}}, "unknown keys dwq"),
        ({"quantization": {"group_size": 32, "bits": 1}}, "affine has 2, 3, 4, 5, 6 or 8 bits"),
        ({"quantization": {"group_size": 32, "bits": 4, "x": {"bits": 4, "group_size": 32, "global_scale": True}}},
         "unknown key global_scale"),
        ({"quantization": 4}, "should be an object, found 4"),
    ],
)  # fmt: skip
def test_settings_that_are_none_of_mlx_are_refused_by_name(tmp_path, settings, error):
    write_checkpoint(CASES["llama"], tmp_path / "hf")
    set_config(tmp_path / "hf", **settings)
    with pytest.raises(RaveError, match=error):
        rave_mlx.load(tmp_path / "hf")


def test_quantization_in_a_file_of_its_own_is_refused(tmp_path):
    write_checkpoint(CASES["llama"], tmp_path / "hf")
    (tmp_path / "hf" / "hf_quant_config.json").write_text('{"quantization": {"quant_algo": "NVFP4"}}')
    pack_otherwise(tmp_path / "hf")
    with pytest.raises(ModelError, match="by 'hf_quant_config.json', which is not read"):
        rave_mlx.load(tmp_path / "hf")


def damaged(folder, change):
    """A quantized checkpoint with something changed."""
    mlx_vlm_checkpoint("qwen2_5_vl", folder, {"group_size": 32, "bits": 4, "mode": "affine"}, decoder_only)
    file = folder / "model.safetensors"
    tensors = dict(mx.load(str(file)))
    change(tensors)
    mx.save_safetensors(str(file), tensors, metadata={"format": "mlx"})


LAYER = "language_model.model.layers.0.mlp.up_proj"


def drop(part):
    return lambda tensors: tensors.pop(f"{LAYER}.{part}")


def cut(part, axis):
    def change(tensors):
        tensor = tensors[f"{LAYER}.{part}"]
        tensors[f"{LAYER}.{part}"] = tensor[:-1] if axis == 0 else tensor[:, :-1]

    return change


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (drop("biases"), f"{LAYER}: these are not the parts of a matrix of 64 columns"),
        (drop("scales"), "unexpected: .*up_proj.biases; wrong shape: .*up_proj.weight"),
        (drop("weight"), "missing: .*up_proj.weight"),
        (cut("scales", 0), "not the parts of a matrix"),
        (cut("scales", 1), "not the parts of a matrix"),
        (cut("weight", 1), "not the parts of a matrix"),
        (cut("biases", 1), "not the parts of a matrix"),
        (lambda t: t.update({f"{LAYER}.weight": t[f"{LAYER}.weight"].astype(mx.int32)}), "not the parts of a matrix"),
        (lambda t: t.update({f"{LAYER}.scales": mx.zeros((96, 2), mx.uint8)}), "not the parts of a matrix"),
    ],
)
def test_damaged_packings_are_refused(tmp_path, change, error):
    damaged(tmp_path / "mlx", change)
    with pytest.raises(ModelError, match=error):
        rave_mlx.load(tmp_path / "mlx")


@pytest.mark.parametrize(
    ("quantization", "error"),
    [
        (None, "the weights are packed, but config.json has no quantization"),
        ({"group_size": 32, "bits": 4, LAYER: {"group_size": 32, "bits": 8}}, f"{LAYER}: config.json declares another"),
        ({"group_size": 32, "bits": 4, LAYER.removeprefix("language_model."): False}, f"{LAYER}: config.json declares"),
    ],
)
def test_a_configuration_that_contradicts_the_tensors_is_refused(tmp_path, quantization, error):
    damaged(tmp_path / "mlx", lambda tensors: None)
    set_config(tmp_path / "mlx", quantization=quantization, quantization_config=quantization)
    with pytest.raises((ModelError, ConfigError), match=error):
        rave_mlx.load(tmp_path / "mlx")


def test_widths_that_the_configuration_does_not_name_follow_from_the_tensors(tmp_path):
    """As mlx-lm reads them: the default of config.json need not hold where it names nothing."""
    four = {"group_size": 32, "bits": 4, "mode": "affine"}
    packed = mlx_vlm_checkpoint("qwen2_5_vl", tmp_path / "mlx", four | {LAYER: four | {"bits": 8}}, decoder_only)
    set_config(tmp_path / "mlx", quantization=four, quantization_config=four)
    lmm = rave_mlx.load(tmp_path / "mlx")
    assert lmm.config.quantization.layers["decoder.layers.0.mlp.up_proj"] == QuantizationConfig(8, 32)
    plain = rave_mlx.load(expanded_checkpoint("qwen2_5_vl", tmp_path / "hf", packed))
    prompt = lmm.prepare(CONVERSATIONS["one image"])
    assert relative(lmm.logits(prompt), plain.logits(prompt)) <= 1e-5


def test_a_convolution_that_may_lie_either_way_is_refused(tmp_path):
    """Three channels and patches of three pixels: the shapes are equal, and MLX wrote the file."""
    config = CASES["llava"].config | {"image_seq_length": 196}
    config["vision_config"] = config["vision_config"] | {"patch_size": 3}
    write_checkpoint(CASES["llava"], tmp_path)
    write_files(CASES["llava"], tmp_path, config)
    file = tmp_path / "model.safetensors"
    tensors = dict(mx.load(str(file)))
    conv = next(n for n, t in tensors.items() if t.ndim == 4)
    rng = np.random.default_rng(0)
    tensors[conv] = mx.array(rng.normal(size=(48, 3, 3, 3)).astype(np.float32))
    positions = next(n for n in tensors if "position_embedding" in n)
    tensors[positions] = mx.zeros((197, 48))
    mx.save_safetensors(str(file), tensors, metadata={"format": "pt"})
    weights = rave_mlx.load(tmp_path).named_weights()
    assert mx.array_equal(weights["vision.patch_embed.weight"], tensors[conv].reshape(48, 27))
    mx.save_safetensors(str(file), tensors, metadata={"format": "mlx"})
    with pytest.raises(ModelError, match="may have its channels first or last"):
        rave_mlx.load(tmp_path)
