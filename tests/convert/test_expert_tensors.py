"""Experts in every layout that checkpoints have: the same model, or a reason why not."""

from __future__ import annotations

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, cases, write_checkpoint
from families.qwen3_vl_moe import CONFIG, PLAIN, single
from parity.test_mlx_community import qwen_name
from support import relative

import rave_mlx
from rave_mlx import backend
from rave_mlx.checkpoint import directory
from rave_mlx.checkpoint.fingerprint import fingerprint
from rave_mlx.convert import Options, convert
from rave_mlx.convert.exporting import export
from rave_mlx.convert.open import open_headers
from rave_mlx.errors import ConfigError, ModelError

WIDTH, HIDDEN, COUNT = 32, 48, 6
STEM = "model.language_model.layers.1.mlp.experts."


def turned(tensors):
    """As Qwen3-VL was published: transformers 4 multiplies from the left."""
    return {n: x.swapaxes(1, 2) if ".experts." in n else x for n, x in tensors.items()}


def mlx(tensors):
    """As MLX packages call and stack them."""
    found = {}
    for name, x in tensors.items():
        stem, _, part = qwen_name(name).partition(".experts.")
        if not part:
            found[stem] = x.moveaxis(1, -1) if x.ndim > 3 else x
        elif part == "down_proj":
            found[f"{stem}.switch_mlp.down_proj.weight"] = x
        else:
            found[f"{stem}.switch_mlp.gate_proj.weight"] = x[:, :WIDTH]
            found[f"{stem}.switch_mlp.up_proj.weight"] = x[:, WIDTH:]
    return found


@pytest.fixture(scope="module")
def fused(tmp_path_factory):
    """The checkpoint as transformers 5 writes it, its tensors and the logits of its model."""
    folder = write_checkpoint(PLAIN, tmp_path_factory.mktemp("moe") / "hf")
    lmm = rave_mlx.load(folder)
    prompt = lmm.prepare(CONVERSATIONS["one image"])
    return folder, dict(mx.load(str(folder / "model.safetensors"))), prompt, np.array(lmm.logits(prompt))


def rewrite(folder, source, tensors, form="pt", **changes):
    """A checkpoint with other tensors, and other settings of the decoder."""
    folder.mkdir()
    for file in source.iterdir():
        if file.suffix != ".safetensors":
            (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    config["text_config"] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": form})
    return folder


@pytest.mark.parametrize(("layout", "form"), [(turned, "pt"), (single, "pt"), (mlx, "mlx")])
def test_every_layout_is_the_same_model(fused, layout, form, tmp_path):
    source, tensors, prompt, logits = fused
    folder = rewrite(tmp_path / "other", source, layout(tensors), form)
    assert (np.array(rave_mlx.load(folder).logits(prompt)) == logits).all()


def test_an_export_is_as_published(fused, tmp_path):
    source, tensors, _, _ = fused
    convert(source, tmp_path / "rave")
    export(tmp_path / "rave", tmp_path / "out")
    found = mx.load(str(tmp_path / "out" / "model.safetensors"))
    expected = turned(tensors)
    assert set(found) == set(expected)
    assert all(mx.array_equal(found[n], expected[n]) for n in expected)
    stored = directory.read_tensors(tmp_path / "rave")
    gates = stored["decoder.layers.1.mlp.experts.gate_proj.weight"]
    assert gates.shape == (COUNT, WIDTH, HIDDEN)
    assert mx.array_equal(gates, tensors[f"{STEM}gate_up_proj"][:, :WIDTH])


def test_square_experts_are_read_as_transformers_reads_them(tmp_path):
    """What could be either is as the rest of the layer; an export turns nothing."""
    case = cases()["qwen3_vl_moe-sparse"]
    folder = write_checkpoint(case, tmp_path / "hf")
    tensors = dict(mx.load(str(folder / "model.safetensors")))
    assert tensors["model.language_model.layers.3.mlp.experts.gate_up_proj"].shape == (3, HIDDEN, HIDDEN)
    lmm = rave_mlx.load(folder)
    prompt = lmm.prepare(CONVERSATIONS["text"])
    other = rewrite(tmp_path / "turned", folder, turned(tensors))
    assert (np.array(rave_mlx.load(other).logits(prompt)) == np.array(lmm.logits(prompt))).all()
    convert(other, tmp_path / "rave")
    export(tmp_path / "rave", tmp_path / "out")
    found = mx.load(str(tmp_path / "out" / "model.safetensors"))
    assert all(mx.array_equal(found[n], tensors[n]) for n in tensors)


def pack(tensors):
    """As mlx-vlm packs a decoder, and the numbers that it stands for; rows of 48 are in no groups of 32."""
    found, plain = {}, {}
    for name, x in mlx(tensors).items():
        stem = name.removesuffix(".weight")
        if "vision_tower" in name or "norm" in name or x.shape[-1] % 32:
            found[name] = plain[name] = x
            continue
        parts = mx.quantize(x, group_size=32, bits=4)
        found |= dict(zip((name, f"{stem}.scales", f"{stem}.biases"), parts, strict=True))
        plain[name] = mx.dequantize(*parts, group_size=32, bits=4)
    return found, plain


@pytest.mark.parametrize("expand", [True, False])
def test_what_mlx_vlm_packed_is_not_packed_again(fused, expand, tmp_path, monkeypatch):
    source, tensors, prompt, _ = fused
    found, plain = pack(tensors)
    folder = rewrite(tmp_path / "packed", source, found, "mlx")
    packed = "language_model.model.layers.0.mlp.switch_mlp.down_proj"
    said = {"group_size": 32, "bits": 4, packed: {"group_size": 32, "bits": 4}}
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization": said}))
    expected = rave_mlx.load(rewrite(tmp_path / "plain", source, plain, "mlx")).logits(prompt)
    monkeypatch.setattr(backend, "expand_quantized", lambda stored, expanded: expand)
    assert relative(rave_mlx.load(folder).logits(prompt), expected) < 1e-5
    convert(folder, tmp_path / "rave")
    stored = directory.read_tensors(tmp_path / "rave")
    for part in ("weight", "scales", "biases"):
        assert mx.array_equal(stored[f"decoder.layers.0.mlp.experts.down_proj.{part}"], found[f"{packed}.{part}"])
    said[packed]["bits"] = 8
    (folder / "config.json").write_text(json.dumps(config | {"quantization": said}))
    with pytest.raises(ModelError, match="layers.0.*config.json declares another quantization"):
        rave_mlx.load(folder)


@pytest.mark.parametrize("mode", ["affine", "mxfp4"])
def test_our_quantization_leaves_routers_alone(fused, mode, tmp_path, monkeypatch):
    """Packed experts read as they are stored, and answer as the numbers that they stand for."""
    source, tensors, prompt, _ = fused
    folder = rewrite(tmp_path / "wide", source, {n: wider(n, x) for n, x in tensors.items()}, moe_intermediate_size=64)
    out = convert(folder, tmp_path / "rave", quantize=Options(mode=mode, group_size=32, include_vision=False))
    assert out is not None
    config = directory.read_config(tmp_path / "rave")
    assert config.quantization.of("decoder.layers.0.mlp.experts.down_proj") is not None
    assert config.quantization.of("decoder.layers.0.mlp.router") is None
    found = []
    for expand in (True, False):
        monkeypatch.setattr(backend, "expand_quantized", lambda stored, expanded, expand=expand: expand)
        found.append(rave_mlx.load(tmp_path / "rave"))
    first, second = (lmm.logits(prompt) for lmm in found)
    assert relative(first, second) < 1e-5
    assert fingerprint(found[0]) == fingerprint(found[1])


def wider(name, x):
    """A tensor with experts twice as wide, of which half are zero."""
    if name.endswith("down_proj") and ".experts." in name:
        return mx.concatenate([x, mx.zeros_like(x)], axis=2)
    if name.endswith("gate_up_proj"):
        zero = mx.zeros((COUNT, WIDTH, HIDDEN))
        return mx.concatenate([x[:, :WIDTH], zero, x[:, WIDTH:], zero], axis=1)
    return x


def test_a_plan_from_headers(fused):
    source, tensors, _, _ = fused
    stored = open_headers(source)
    assert sum(x.size for _, x in stored.tensors) == sum(x.size for x in tensors.values())


def without(tensors, *ends):
    return {n: x for n, x in tensors.items() if not n.endswith(ends)}


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda t: without(single(t), "experts.2.up_proj.weight"), "experts 2 of .*up_proj.weight are missing"),
        (
            lambda t: single(t) | {f"{STEM}6.up_proj.weight": mx.zeros((WIDTH, HIDDEN))},
            "experts 6 of .*layers.1.* are too many, config.json says 6",
        ),
        (lambda t: t | {f"{STEM}down_proj": t[f"{STEM}down_proj"].swapaxes(1, 2)}, "6 experts should be .* all alike"),
        (lambda t: t | {f"{STEM}gate_up_proj": mx.zeros((6, 60, HIDDEN))}, r"gate_up_proj \[6, 60, 48\].* should be"),
        (lambda t: without(t, "1.mlp.experts.down_proj"), "missing.*layers.1.mlp.experts.down_proj"),
        (lambda t: without(t, "1.mlp.gate.weight"), "missing.*layers.1.mlp.gate.weight"),
        (lambda t: t | {f"{STEM}gate_up_proj_bias": mx.zeros((6, 64))}, "gate_up_proj_bias"),
        (lambda t: t | {STEM.replace("experts", "shared_expert") + "up_proj.weight": mx.zeros((8, 48))}, "shared_exp"),
    ],
)
def test_experts_that_do_not_fit_are_refused(fused, change, error, tmp_path):
    source, tensors, _, _ = fused
    with pytest.raises(ModelError, match=error) as caught:
        rave_mlx.load(rewrite(tmp_path / "wrong", source, change(tensors)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"num_experts_per_tok": 7}, "num_experts_per_tok is 7; it must be from 1 to num_experts 6"),
        ({"num_experts_per_tok": 0}, "num_experts_per_tok is 0"),
        ({"norm_topk_prob": False}, "norm_topk_prob False is not supported, only True"),
        ({"decoder_sparse_step": 0}, "decoder_sparse_step is 0; it must be at least 1"),
        ({"decoder_sparse_step": "2"}, "decoder_sparse_step should be int"),
        ({"mlp_only_layers": ["0"]}, "mlp_only_layers should be a list of numbers"),
        ({"mlp_only_layers": 1}, "mlp_only_layers should be list"),
        ({"num_experts": "6"}, "num_experts should be int"),
        ({"num_experts": -6}, "num_experts is -6; it cannot be negative"),
        ({"moe_intermediate_size": 0}, "intermediate_size must be at least 1"),
        ({"moe_intermediate_size": 10**8}, "text.experts.intermediate_size is 100000000"),
        ({"shared_expert_intermediate_size": 64}, "shared_expert_intermediate_size is given"),
        ({"n_shared_experts": 1}, "n_shared_experts is given, and this kind of model has no shared experts"),
        ({"use_sliding_window": True}, "use_sliding_window True is not supported"),
    ],
)
def test_wrong_settings_are_refused(fused, changes, error, tmp_path):
    source, tensors, _, _ = fused
    with pytest.raises(ConfigError, match=error):
        rave_mlx.load(rewrite(tmp_path / "wrong", source, tensors, **changes))


def test_no_experts_at_all_is_a_dense_model(tmp_path):
    """Every layer but the first may be dense; what is said of experts then is not read."""
    folder = write_checkpoint(cases()["qwen3_vl_moe-sparse"], tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["mlp_only_layers"] = [0, 1, 2, 3, 4]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match="layers.3.mlp"):
        rave_mlx.load(folder)


def test_settings_of_transformers_4(tmp_path):
    old = replace(PLAIN, config=PLAIN.old_config)
    assert old.config["text_config"]["num_experts"] == CONFIG["text_config"]["num_experts"]
    found = rave_mlx.load(write_checkpoint(old, tmp_path / "old")).config.text.experts
    assert (found.count, found.chosen, found.intermediate_size, found.layers) == (COUNT, 2, WIDTH, "all")
