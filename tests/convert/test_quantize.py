"""Quantization: what is planned, what is written, how it is opened, and how far it is from the original."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from functools import cache

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from families import CONVERSATIONS, cases, write_checkpoint
from support import ask, form, picture, relative, tiny_model

import rave_mlx
from rave_mlx import backend
from rave_mlx.checkpoint import build, directory, packed
from rave_mlx.config import ConnectorConfig, GateConfig, LMMConfig, QuantizationConfig
from rave_mlx.convert import Options, bit_recipes, convert, plan, quantize
from rave_mlx.convert.open import open_model
from rave_mlx.errors import ConfigError, ModelError, UsageError
from rave_mlx.evaluate import quantization

CASES = cases()
SETTINGS = [*(("affine", b, g) for b, g in ((2, 32), (3, 32), (4, 32), (5, 32), (6, 64), (8, 32))),
            ("mxfp4", 4, 32), ("mxfp8", 8, 32), ("nvfp4", 4, 16)]  # fmt: skip


# -- what is asked for


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, (4, 64, "affine")),
        ({"mode": "mxfp4"}, (4, 32, "mxfp4")),
        ({"mode": "mxfp8"}, (8, 32, "mxfp8")),
        ({"mode": "nvfp4"}, (4, 16, "nvfp4")),
        ({"bits": 3, "group_size": 128}, (3, 128, "affine")),
        ({"recipe": "mixed_3_6", "group_size": 32}, (3, 32, "affine")),
    ],
)
def test_defaults_of_each_mode(options, expected):
    base = Options(**options).base
    assert (base.bits, base.group_size, base.mode) == expected


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"bits": 7}, "affine has 2, 3, 4, 5, 6 or 8 bits in groups of 32, 64 or 128, not 7 in 64"),
        ({"bits": 1}, "not 1 in 64"),
        ({"bits": 0}, "not 0 in 64"),
        ({"group_size": 0}, "not 4 in 0"),
        ({"group_size": 16}, "not 4 in 16"),
        ({"mode": "mxfp4", "bits": 8}, "mxfp4 has 4 bits in groups of 32, not 8 in 32"),
        ({"mode": "nvfp4", "group_size": 32}, "nvfp4 has 4 bits in groups of 16, not 4 in 32"),
        ({"mode": "int4"}, "'int4' is not one of affine"),
        ({"recipe": "mixed_9_9"}, "no such file, and not one of mixed_2_6"),
        ({"recipe": "mixed_4_6", "mode": "mxfp4"}, "mixes widths of the affine mode"),
        ({"recipe": "mixed_4_6", "bits": 4}, "sets the bits; leave out 4"),
    ],
)
def test_options_that_do_not_go_together(options, error):
    with pytest.raises(UsageError, match=error):
        Options(**options)


@pytest.mark.parametrize(
    ("values", "error"),
    [
        ({"bits": 4, "group_size": 48}, "groups of 32, 64 or 128"),
        ({"bits": 4, "group_size": 64, "mode": "fp4"}, "'fp4' is not one of"),
        ({"bits": 4, "group_size": 64, "layers": {"a": {"bits": 4, "group_size": 64, "layers": {"b": None}}}},
         "layers within layers"),
    ],
)  # fmt: skip
def test_configurations_that_mlx_does_not_have(values, error):
    with pytest.raises(ConfigError, match=error):
        QuantizationConfig.from_dict(values)


def test_the_longest_name_counts():
    eight = QuantizationConfig(8, 32)
    layers = {"vision": None, "decoder.layers.1": eight, "decoder.layers.1.mlp.up_proj": None}
    config = QuantizationConfig(4, 64, layers=layers)
    assert config.of("vision.layers.3.mlp.fc1") is None
    assert config.of("decoder.layers.1.mlp.down_proj") == eight
    assert config.of("decoder.layers.1.mlp.up_proj") is None
    assert config.of("decoder.layers.10.mlp.up_proj") is config
    assert QuantizationConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


# -- what is planned


def shapes(lmm):
    return {name: array.shape for name, array in lmm.named_weights().items()}


def planned(lmm, **options):
    """Names of the modules that would be packed, and how."""
    decisions = quantize.decide(lmm.config, shapes(lmm), Options(**options))
    return {d.module: d.setting for d in decisions if d.setting}


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """A model of a case, without weights."""

    def build(name):
        return open_model(write_checkpoint(CASES[name], tmp_path_factory.mktemp(name)))[0]  # fmt: skip

    return build


@pytest.mark.parametrize("name", CASES)
def test_what_may_be_quantized_is_what_mlx_can_quantize(opened, name):
    """By name and shape alone, and no norm, position, class token, newline, latent or scale among them."""
    lmm = opened(name)
    able = {path for path, module in lmm.named_modules() if hasattr(module, "to_quantized")}
    assert {n.removesuffix(".weight") for n, s in shapes(lmm).items() if quantize.quantizable(n, s)} == able


def gated_model():
    """The tiny model with gates, and of widths that groups of 32 divide."""
    config = tiny_model(GateConfig(rank=3)).config
    config = replace(config, text=replace(config.text, hidden_size=64), connector=ConnectorConfig(128, 64))
    template = (directory.BUILT_IN / "chat_template.jinja").read_text()
    return build.build(config, directory.BUILT_IN / "tokenizer.json", template, None)


def test_tower_connector_norms_and_gates_stay_as_they_are():
    lmm = gated_model()
    names = planned(lmm, group_size=32)
    assert any(".attention.gate." in n for n in shapes(lmm))
    assert {n.partition(".")[0] for n in names} == {"decoder"}
    assert not any(word in n for n in names for word in ("norm", ".gate."))
    assert {"decoder.embed", "decoder.head", "decoder.layers.2.attention.o_proj"} <= set(names)
    with_vision = planned(lmm, group_size=32, include_vision=True)
    assert {"connector.fc1", "vision.layers.1.attention.qkv"} <= set(with_vision)
    assert not any("norm" in n for n in with_vision)


def test_widths_that_the_group_does_not_divide_are_named(opened):
    lmm = opened("llama")
    left = [f"decoder.layers.{i}.mlp.down_proj" for i in range(3)]
    reasons = {d.module: d.reason for d in quantize.decide(lmm.config, shapes(lmm), Options(bits=4))}
    assert [reasons[module] for module in left] == ["width"] * 3
    plan = quantize.plan(lmm.config, shapes(lmm), Options(bits=4))
    assert plan == QuantizationConfig(4, 64, layers=dict.fromkeys(left))


def test_nothing_to_quantize_is_said(opened):
    lmm = opened("llama")
    with pytest.raises(UsageError, match="no weight that may be has rows that groups of 128 divide"):
        quantize.plan(lmm.config, shapes(lmm), Options(group_size=128))


def test_parts_that_stay_take_one_entry(opened):
    lmm = opened("llava")
    plan = quantize.plan(lmm.config, shapes(lmm), Options(bits=5, group_size=32))
    assert plan == QuantizationConfig(5, 32, layers={"vision": None, "connector": None})


# -- recipes


@pytest.mark.parametrize("layers", [1, 2, 3, 7, 8, 9, 16, 24, 28, 30, 32, 36])
@pytest.mark.parametrize("recipe", ["mixed_2_6", "mixed_3_4", "mixed_3_6", "mixed_4_6"])
def test_named_recipes_are_those_of_mlx_lm(recipe, layers):
    """Its own rule, on its own model of as many layers."""
    from mlx_lm.convert import mixed_quant_predicate_builder
    from mlx_lm.models import llama

    args = llama.ModelArgs("llama", hidden_size=64, num_hidden_layers=layers, intermediate_size=64, vocab_size=64,
                           num_attention_heads=1, rms_norm_eps=1e-5, tie_word_embeddings=False)  # fmt: skip
    model = llama.Model(args)
    theirs = mixed_quant_predicate_builder(recipe, model, 64)
    lmm = tiny_model()
    config = replace(lmm.config, text=replace(lmm.config.text, num_layers=layers, tie_embeddings=False))
    ours = bit_recipes.named(recipe, config, 64)
    names = {"model.embed_tokens": "decoder.embed", "lm_head": "decoder.head"}
    checked = 0
    for path, module in model.named_modules():
        if hasattr(module, "to_quantized"):
            name = names.get(path, path.replace("model.", "decoder.", 1).replace("self_attn", "attention"))
            assert ours(name).bits == theirs(path, module)["bits"], path
            checked += 1
    assert checked == 7 * layers + 2


def test_the_embedding_that_is_the_head_gets_the_heads_bits(opened):
    assert planned(opened("llama-tied"), recipe="mixed_2_6", group_size=32)["decoder.embed"].bits == 6
    assert planned(opened("llama"), recipe="mixed_2_6", group_size=32)["decoder.embed"].bits == 2
    assert planned(opened("llama"), recipe="mixed_4_8", group_size=32)["decoder.head"].bits == 8


def rules(tmp_path, text):
    (tmp_path / "rules.txt").write_text(text)
    return tmp_path / "rules.txt"


def test_rules_of_a_file(tmp_path, opened):
    file = rules(
        tmp_path,
        "# widths by pattern\n\ndecoder.layers.*: 3\ndecoder.layers.*.mlp.down_proj: 6 / 32   # sensitive\n"
        "decoder.layers.[01].attention.v_proj: 8\ndecoder.embed : 16\n",
    )
    found = planned(opened("qwen2"), recipe=file, bits=5, group_size=32)
    assert {b: sum(s.bits == b for s in found.values()) for b in (3, 5, 6, 8)} == {3: 16, 5: 1, 6: 3, 8: 2}
    assert found["decoder.layers.1.mlp.down_proj"] == QuantizationConfig(6, 32)
    assert found["decoder.layers.1.attention.v_proj"].bits == 8
    assert found["decoder.layers.2.attention.v_proj"].bits == 3
    assert found["decoder.head"].bits == 5
    assert "decoder.embed" not in found
    lmm, options = opened("qwen2"), Options(recipe=file, group_size=32)
    reasons = {d.module: d.reason for d in quantize.decide(lmm.config, shapes(lmm), options)}
    assert reasons["decoder.embed"] == "rule"


def test_rules_beside_another_mode_are_affine(tmp_path, opened):
    found = planned(opened("qwen2"), recipe=rules(tmp_path, "decoder.head: 8"), mode="mxfp4")
    assert found["decoder.head"] == QuantizationConfig(8, 64)
    assert found["decoder.embed"] == QuantizationConfig(4, 32, "mxfp4")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("decoder.head: 8\ndecoder.embed 4\n", r"rules.txt, line 2: 'decoder.embed 4' is not a rule like"),
        ("decoder.head: 7\n", r"rules.txt, line 1: .*not 7 in 64; 16 bits leave"),
        ("decoder.head: 4/48\n", r"line 1: .*not 4 in 48"),
        ("decoder.head: 16/32\n", r"line 1: 16 leaves weights as they are"),
        ("\n\ndecoder.haed: 8\n", r"line 3: decoder.haed matches nothing that may be quantized.*decoder.embed"),
        ("decoder.norm: 8\n", r"decoder.norm matches nothing"),
        ("vision.*: 8\n", r"vision.\* matches nothing .*only when included"),
        ("# nothing\n", r"rules.txt: has no rules"),
        ("decoder.head: many", r"line 1: 'decoder.head: many'"),
    ],
)
def test_rules_that_mean_nothing_are_refused_with_their_line(tmp_path, text, error):
    lmm = tiny_model()
    with pytest.raises(ConfigError, match=error):
        quantize.plan(lmm.config, shapes(lmm), Options(recipe=rules(tmp_path, text)))


def test_a_rules_file_that_is_no_text(tmp_path):
    (tmp_path / "rules.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="is not text"):
        quantize.plan(tiny_model().config, shapes(tiny_model()), Options(recipe=tmp_path / "rules.txt"))


# -- what is written


def quantized(tensor, mode, bits, group_size):
    """Names and parts as `apply` makes them of one matrix."""
    config = QuantizationConfig(bits, group_size, mode)
    return dict(quantize.apply([("decoder.head.weight", tensor)], config)), config


@pytest.mark.parametrize(("mode", "bits", "group_size"), SETTINGS)
@pytest.mark.parametrize("dtype", [mx.float32, mx.bfloat16, mx.float16])
def test_packed_weights_are_as_close_as_their_bits_allow(mode, bits, group_size, dtype):
    rng = np.random.default_rng(bits)
    tensor = mx.array(rng.normal(0, 1, (24, 192)).astype(np.float32)).astype(dtype)
    parts, config = quantized(tensor, mode, bits, group_size)
    suffixes = ["weight", "scales", "biases"] if mode == "affine" else ["weight", "scales"]
    assert list(parts) == [f"decoder.head.{s}" for s in suffixes]
    assert parts["decoder.head.weight"].nbytes == 24 * 192 * bits // 8
    found = np.array(dict(packed.expand(parts, config))["decoder.head.weight"]).reshape(-1, group_size)
    exact = np.array(tensor.astype(mx.float32)).reshape(-1, group_size).astype(np.float64)
    if mode == "affine":
        # Half a step, plus the rounding of scale and bias to the weights' type, plus a step at the ends of the range:
        # MLX moves the grid so that zero is on it.
        step = (exact.max(1) - exact.min(1)) / (2**bits - 1)
        coarse = {mx.float32: 1e-6, mx.float16: 2**-10, mx.bfloat16: 2**-7}[dtype] * 2**bits
        assert (np.abs(found - exact) <= (step * (1.05 + coarse))[:, None] + 1e-6).all()
        assert np.median(np.abs(found - exact) / step[:, None]) <= 0.5
    else:
        # e2m1 has steps of a quarter of the value, e4m3 of an eighth, and nearly all values are within half of one.
        assert np.linalg.norm(found - exact) / np.linalg.norm(exact) <= {4: 0.13, 8: 0.04}[bits]


@pytest.mark.parametrize("mode", ["mxfp4", "nvfp4"])
@pytest.mark.parametrize("rows", [1, 7, 64, 65])
def test_blocks_of_rows_change_nothing(monkeypatch, mode, rows):
    bits, group = quantize.DEFAULTS[mode]
    tensor = mx.array(np.random.default_rng(rows).normal(0, 1, (rows, 128)).astype(np.float32))
    monkeypatch.setattr(quantize, "_BLOCK", 16 * 128)
    parts, _ = quantized(tensor, mode, bits, group)
    for part, whole in zip(parts.values(), mx.quantize(tensor, group, bits, mode), strict=True):
        assert mx.array_equal(part, whole)


def test_other_tensors_pass_through_untouched():
    lmm = gated_model()
    config = quantize.plan(lmm.config, shapes(lmm), Options(group_size=32))
    before = lmm.named_weights()
    after = dict(quantize.apply(before.items(), config))
    packed = {n.removesuffix(".scales") for n in after if n.endswith(".scales")}
    assert packed == set(planned(lmm, group_size=32))
    for name, tensor in before.items():
        if name.removesuffix(".weight") not in packed:
            assert after[name] is tensor


def test_packed_tensors_are_not_packed_again():
    parts, config = quantized(mx.ones((8, 64)), "affine", 4, 32)
    with pytest.raises(ModelError, match="decoder.head.weight is quantized already"):
        list(quantize.apply(parts.items(), config))


@pytest.mark.parametrize(("mode", "bits", "group_size"), SETTINGS)
def test_the_planned_size_is_the_size_written(tmp_path, mode, bits, group_size):
    folder = write_checkpoint(CASES["llava"], tmp_path / "hf")
    options = Options(bits, group_size, mode)
    convert(folder, tmp_path / "rave", quantize=options)
    planned = plan(folder, quantize=options)
    tensors = directory.read_tensors(tmp_path / "rave")
    assert planned.after == sum(t.nbytes for t in tensors.values())
    assert planned.before == sum(math.prod(s) * 4 for s in shapes(open_model(folder)[0]).values())


# -- how it is opened


def expanded(folder, out):
    """The same model, with the numbers that its packed weights stand for (dequantized by MLX, not by us)."""
    config, tensors = directory.read_config(folder), directory.read_tensors(folder)
    plain = {n: t for n, t in tensors.items() if n.rpartition(".")[0] + ".scales" not in tensors}
    for name in [n for n in tensors if n.endswith(".scales")]:
        module = name.removesuffix(".scales")
        how = config.quantization.of(module)
        plain[f"{module}.weight"] = mx.dequantize(
            tensors[f"{module}.weight"], tensors[name], tensors.get(f"{module}.biases"), how.group_size, how.bits,
            mode=how.mode, dtype=mx.float32,
        )  # fmt: skip
        if f"{module}.bias" in tensors:
            plain[f"{module}.bias"] = tensors[f"{module}.bias"]
    directory.write(out, replace(config, quantization=None), plain.items(), tokenizer=folder / "tokenizer.json",
                template=(folder / "chat_template.jinja").read_text(), card="")  # fmt: skip
    return out


@pytest.mark.parametrize("keep", [True, False], ids=["packed", "expanded"])
@pytest.mark.parametrize(("mode", "bits", "group_size"), SETTINGS)
@pytest.mark.parametrize("name", ["llama-tied", "qwen2_5_vl"])
def test_packed_and_expanded_models_answer_alike(tmp_path, monkeypatch, name, mode, bits, group_size, keep):
    folder = tmp_path / "rave"
    convert(write_checkpoint(CASES[name], tmp_path / "hf"), folder, quantize=Options(bits, group_size, mode))
    seen = []
    monkeypatch.setattr(backend, "expand_quantized", lambda stored, wide: seen.append((stored, wide)) or not keep)
    lmm, plain = rave_mlx.load(folder), rave_mlx.load(expanded(folder, tmp_path / "plain"))
    kinds = {type(module) for _, module in lmm.named_modules()}
    assert (nn.QuantizedLinear in kinds, nn.QuantizedEmbedding in kinds) == (keep, keep)
    stored = sum(t.nbytes for t in directory.read_tensors(folder).values())
    assert seen == [(stored, 4 * sum(w.size for w in plain.named_weights().values()))]
    prompt = lmm.prepare(CONVERSATIONS["text"])
    assert relative(lmm.logits(prompt), plain.logits(prompt)) <= 1e-5


@pytest.mark.parametrize("keep", [True, False], ids=["packed", "expanded"])
@pytest.mark.parametrize(
    "name",
    [
        "llava_next",
        "internvl",
        "idefics3",
        "qwen3_vl",
        "paddleocr_vl",
        "glm4v",
        "mistral3",
        "got_ocr2",
        "deepseek_ocr2",
    ],
)
def test_quantized_towers_and_connectors(tmp_path, monkeypatch, name, keep):
    """Positions, class tokens, newlines and layer scales stand beside packed weights, and are none."""
    folder = tmp_path / "rave"
    options = Options(mode="nvfp4", include_vision=True)
    convert(write_checkpoint(CASES[name], tmp_path / "hf"), folder, quantize=options)
    monkeypatch.setattr(backend, "expand_quantized", lambda stored, wide: not keep)
    lmm, plain = rave_mlx.load(folder), rave_mlx.load(expanded(folder, tmp_path / "plain"))
    assert any(isinstance(m, nn.QuantizedLinear) for _, m in lmm.vision.named_modules()) == keep
    assert any(isinstance(m, nn.QuantizedLinear) for _, m in lmm.connector.named_modules()) == keep
    image = lmm.prepare(CONVERSATIONS["one image"]).images[0]
    assert relative(lmm.features(image), plain.features(image)) <= 1e-5


def test_mixed_widths_open_by_their_own(tmp_path, monkeypatch):
    file = rules(tmp_path, "decoder.*: 3/32\ndecoder.layers.1.*: 8/64\n*.down_proj: 6/32\ndecoder.head: 16\n")
    folder = tmp_path / "rave"
    convert(write_checkpoint(CASES["llava"], tmp_path / "hf"), folder, quantize=Options(mode="mxfp4", recipe=file))
    plain, seen = expanded(folder, tmp_path / "plain"), []
    for keep in (True, False):
        monkeypatch.setattr(backend, "expand_quantized", lambda stored, wide, keep=keep: seen.append(wide) or not keep)
        lmm, reference = rave_mlx.load(folder), rave_mlx.load(plain)
        assert seen.pop() == 4 * sum(w.size for w in reference.named_weights().values())
        prompt = lmm.prepare(CONVERSATIONS["one image"])
        assert relative(lmm.logits(prompt), reference.logits(prompt)) <= 1e-5


def test_packed_weights_that_the_configuration_leaves_out_are_refused(tmp_path):
    convert(write_checkpoint(CASES["llama"], tmp_path / "hf"), tmp_path / "rave", quantize=Options(group_size=32))
    file = tmp_path / "rave" / "config.json"
    config = json.loads(file.read_text())
    config["quantization"]["layers"]["decoder.head"] = None
    file.write_text(json.dumps(config))
    with pytest.raises(ModelError, match="decoder.head.weight is packed, but the quantization"):
        rave_mlx.load(tmp_path / "rave")


def test_a_rave_directory_says_how_it_is_quantized(tmp_path):
    convert(
        write_checkpoint(CASES["llava"], tmp_path / "hf"), tmp_path / "rave", quantize=Options(bits=6, group_size=32)
    )
    config = LMMConfig.from_dict(json.loads((tmp_path / "rave" / "config.json").read_text()))
    assert config.quantization == QuantizationConfig(6, 32, layers={"vision": None, "connector": None})


# -- how far it is from the original


SMALL = (("table", 3), ("lines", 6))
"""Two short pages, to be quick."""


@pytest.fixture
def small_pages(monkeypatch):
    monkeypatch.setattr(quantization, "PAGES", SMALL)


def test_divergence_of_known_distributions():
    p, q = np.array([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]]), np.array([[0.25, 0.75, 0.0], [0.2, 0.3, 0.5]])
    with np.errstate(divide="ignore"):
        logits = [np.maximum(np.log(x), -80).astype(np.float32) + 3.0 for x in (p, q)]
    assert quantization.divergence(*logits) == pytest.approx([0.5 * math.log(2) + 0.5 * math.log(2 / 3), 0.0], abs=1e-6)


def test_divergence_of_random_logits():
    rng = np.random.default_rng(0)
    p, q = (rng.normal(0, 4, (37, 301)).astype(np.float32) for _ in range(2))

    def one(a, b):
        za, zb = (math.fsum(math.exp(float(v)) for v in row) for row in (a, b))
        terms = (math.exp(float(x)) / za * (float(x) - math.log(za) - float(y) + math.log(zb))
                 for x, y in zip(a, b, strict=True))  # fmt: skip
        return math.fsum(terms)

    assert quantization.divergence(p, q) == pytest.approx([one(a, b) for a, b in zip(p, q, strict=True)], rel=1e-9)


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A function from options to the built-in model quantized with them."""

    @cache
    def quantize_built_in(**options):
        lmm, tensors = open_model(directory.BUILT_IN)
        folder = tmp_path_factory.mktemp("reader") / "rave"
        config = quantize.plan(lmm.config, lmm.named_weights(), Options(**options))
        directory.write(folder, replace(lmm.config, quantization=config), quantize.apply(tensors.items(), config),
                    tokenizer=directory.BUILT_IN / "tokenizer.json", card="",
                    template=(directory.BUILT_IN / "chat_template.jinja").read_text())  # fmt: skip
        return folder

    return quantize_built_in


@pytest.fixture(scope="module")
def four_bits(reader):
    """The report on the built-in model in four bits, made once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quantization, "PAGES", SMALL)
        return quantization.check(directory.BUILT_IN, reader(bits=4, group_size=32))


def test_a_model_is_no_distance_from_itself(small_pages):
    lmm = rave_mlx.load()
    report = quantization.check(lmm, lmm)
    assert (report.kl_mean, report.kl_99, report.kl_max, report.agreement, report.weights) == (0, 0, 0, 1, ())
    assert report.positions > 50
    assert "100.0 %" in report.text()


def test_fewer_bits_are_farther_away(reader, four_bits, small_pages):
    eight, two = (quantization.check(directory.BUILT_IN, reader(bits=b, group_size=32)) for b in (8, 2))
    reports = [eight, four_bits, two]
    means = [r.kl_mean for r in reports]
    assert 0 < means[0] < 0.001 < means[1] < 0.3 < means[2]
    assert reports[0].agreement > 0.98 > reports[1].agreement > 0.8 > reports[2].agreement
    for report in reports:
        assert report.kl_mean < report.kl_99 <= report.kl_max
        data = json.loads(json.dumps(report.to_dict()))
        assert data["kl_99"] == report.kl_99 and len(data["weights"]) == quantization.SHOWN


def test_the_worst_weights_are_the_worst(reader, tmp_path, small_pages):
    folder = reader(recipe=rules(tmp_path, "*.v_proj: 2\n*.embed: 3\n*: 8\n*.v_proj: 2\n*.embed: 3"), group_size=32)
    report = quantization.check(directory.BUILT_IN, folder)
    before = {n: np.array(t.astype(mx.float32)) for n, t in directory.read_tensors(directory.BUILT_IN).items()}
    after = dict(packed.expand(directory.read_tensors(folder), directory.read_config(folder).quantization))
    errors = {
        n.removesuffix(".weight"): relative(np.array(after[n]), w) for n, w in before.items()
        if n.startswith("decoder") and w.ndim == 2 and quantize.quantizable(n, w.shape)
    }  # fmt: skip
    worst = sorted(errors.items(), key=lambda item: -item[1])[: quantization.SHOWN]
    assert [w.module for w in report.weights] == [name for name, _ in worst]
    assert [w.error for w in report.weights] == pytest.approx([error for _, error in worst], rel=1e-4)
    layers = directory.read_config(directory.BUILT_IN).text.num_layers
    assert {w.setting for w in report.weights[:layers]} == {"affine, 2 bits in groups of 32"}
    assert report.weights[layers].module == "decoder.embed"
    assert "decoder.embed " in report.text()


def test_models_in_memory_and_on_disk_give_the_same_report(reader, four_bits, small_pages):
    folder = reader(bits=4, group_size=32)
    assert quantization.check(rave_mlx.load(), rave_mlx.load(folder)) == four_bits


def test_a_persons_images_are_read_too(reader, four_bits, tmp_path, small_pages):
    page = tmp_path / "page.png"
    form(["Total: $48.20"]).save(page)
    folder = reader(bits=4, group_size=32)
    more = quantization.check(directory.BUILT_IN, folder, [page])
    assert (more.prompts, four_bits.prompts) == (3, 2)
    assert more.positions > four_bits.positions


def test_text_models_are_checked_on_text(tmp_path):
    folder = write_checkpoint(CASES["qwen2"], tmp_path / "hf")
    convert(folder, tmp_path / "rave", quantize=Options(bits=8, group_size=32))
    report = quantization.check(folder, tmp_path / "rave")
    assert report.prompts == 4 and 0 < report.kl_mean < 0.05


def test_positions_are_thinned_out_to_what_memory_holds(monkeypatch, small_pages):
    monkeypatch.setattr(quantization, "_KEPT_VALUES", 40 * rave_mlx.load().config.text.vocab_size)
    assert quantization.check(directory.BUILT_IN, directory.BUILT_IN).positions == 40


def test_different_models_are_not_compared(tmp_path):
    convert(write_checkpoint(CASES["qwen2"], tmp_path / "hf"), tmp_path / "rave")
    template = tmp_path / "rave" / "chat_template.jinja"
    template.write_text(template.read_text().replace("<|im_end|>", ""))
    with pytest.raises(ModelError, match="different tokens; compare a model with what it was quantized from"):
        quantization.check(tmp_path / "hf", tmp_path / "rave")


def test_what_is_compared_is_what_the_model_says_with_its_gates():
    lmm = tiny_model(GateConfig(rank=3))
    prompt = lmm.prepare([ask("Read.", picture())])
    where = np.array([3, 17, len(prompt) - 1])
    expected = np.array(lmm.logits(prompt, gate=True))[0, where]
    assert relative(quantization._logits(lmm, prompt, where), expected) <= 1e-5
    assert relative(np.array(lmm.logits(prompt, gate=False))[0, where], expected) > 1e-3


def test_nothing_a_model_would_say_after_a_visual_token_counts():
    lmm = tiny_model()
    prompt = lmm.prepare([ask("Read.", picture())])
    (where,) = quantization._places([prompt], lmm.config.text.vocab_size)
    visual = prompt.token_map.visual
    assert not visual[where + 1].any()
    assert where.size == len(prompt) - 1 - visual.sum()
