"""Adapters that peft trained: the same logits here, built into their base, and exported back to peft."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest
from command import rave
from support import relative

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

import rave_mlx  # noqa: E402
from parity import golden  # noqa: E402
from parity.peft_adapters import make  # noqa: E402
from rave_mlx import backend  # noqa: E402
from rave_mlx.checkpoint import adapters, directory  # noqa: E402
from rave_mlx.checkpoint.fingerprint import fingerprint  # noqa: E402
from rave_mlx.convert import Options, convert, export, fuse  # noqa: E402
from rave_mlx.convert.adapters import export_peft, import_adapter, import_peft  # noqa: E402
from rave_mlx.errors import ModelError  # noqa: E402

Q = ["q_proj", "up_proj"]
ROWS = [107, 40, 110]

SETTINGS = {
    "patterns under rsLoRA": (
        "qwen2",
        {
            "target_modules": Q,
            "use_rslora": True,
            "rank_pattern": {"layers.1.self_attn.q_proj": 2, "up_proj": 6},
            "alpha_pattern": {r"layers.[02].*": 11},
        },
    ),
    "head and embedding": ("qwen2", {"target_modules": [*Q, "lm_head", "embed_tokens"]}),
    "embedding of a tie": ("llama-tied", {"target_modules": ["embed_tokens"]}),
    "head of a tie": ("llama-tied", {"target_modules": ["lm_head"]}),
    "both of a tie": ("llama-tied", {"target_modules": ["embed_tokens"], "ensure_weight_tying": True}),
    "saved embedding of a tie": ("llama-tied", {"target_modules": Q, "modules_to_save": ["embed_tokens"]}),
    "saved head of a tie": ("llama-tied", {"target_modules": Q, "modules_to_save": ["lm_head"]}),
    "saved norms and head": ("qwen2", {"target_modules": Q, "modules_to_save": ["norm", "lm_head"]}),
    "tokens of a tie": ("llama-tied", {"target_modules": Q, "trainable_token_indices": ROWS}),
    "other tokens on each side of a tie": (
        "llama-tied",
        {"target_modules": Q, "trainable_token_indices": {"embed_tokens": [40, 110], "lm_head": [3, 50]}},
    ),
    "tokens of a head": ("llama", {"target_modules": Q, "trainable_token_indices": {"lm_head": ROWS}}),
    "all biases": ("qwen2", {"target_modules": Q, "bias": "all"}),
    "biases of updates": ("qwen2", {"target_modules": ["q_proj"], "lora_bias": True}),
    "fan_in_fan_out": ("qwen2", {"target_modules": Q, "fan_in_fan_out": True}),
    "one layer": ("qwen2", {"target_modules": Q, "layers_to_transform": [1], "exclude_modules": ["up_proj"]}),
    "VeLoRA": ("qwen2", {"target_modules": Q, "velora_config": {"num_groups": 4}}),
    "orthogonal start": ("qwen2", {"target_modules": Q, "init_lora_weights": "orthogonal"}),
    "MiCA": ("qwen2", {"target_modules": Q, "init_lora_weights": "mica"}),
    "fused projections": ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj", "o_proj"]}),
    "DoRA on fused projections": ("phi3", {"target_modules": ["qkv_proj", "gate_up_proj"], "use_dora": True}),
    "a saved fused projection": ("phi3", {"target_modules": ["o_proj"], "modules_to_save": ["qkv_proj"]}),
    "the whole of Qwen2.5-VL": ("qwen2_5_vl", {"target_modules": "all-linear", "use_rslora": True}),
    "DoRA on a tower with a 3-D convolution": (
        "qwen2_5_vl",
        {"target_modules": ["q_proj", "proj", "qkv"], "use_dora": True},
    ),
    "a saved merger": ("qwen2_5_vl", {"target_modules": ["q_proj"], "modules_to_save": ["merger"]}),
    "the whole of LLaVA": ("llava", {"target_modules": "all-linear"}),
    "a tower with a convolution": ("llava", {"target_modules": ["q_proj", "patch_embedding", "linear_1"]}),
    "a saved tower and connector": (
        "llava",
        {"target_modules": ["o_proj"], "modules_to_save": ["vision_tower", "multi_modal_projector"]},
    ),
}


@pytest.mark.parametrize("about", SETTINGS)
def test_logits_are_pefts_there_and_back(about, tmp_path):
    name, settings = SETTINGS[about]
    made = make(tmp_path, name, **settings)
    import_peft(made.adapter, made.base, tmp_path / "ours")
    beside = rave_mlx.load(made.base, adapter=tmp_path / "ours").logits(made.prompt)
    assert relative(beside, made.logits) <= 1e-5
    assert relative(rave_mlx.load(made.base).logits(made.prompt), made.logits) > 1e-2
    fuse(made.base, tmp_path / "ours", tmp_path / "fused")
    assert relative(rave_mlx.load(tmp_path / "fused").logits(made.prompt), made.logits) <= 1e-5
    export_peft(tmp_path / "ours", made.base, tmp_path / "back")
    assert relative(made.peft_logits(tmp_path / "back"), made.logits) <= 1e-6


def test_a_peft_directory_is_used_as_it_is(tmp_path):
    made = make(tmp_path, "qwen2_5_vl", target_modules=["q_proj", "qkv"], use_rslora=True)
    assert relative(rave_mlx.load(made.base, adapter=made.adapter).logits(made.prompt), made.logits) <= 1e-5
    fuse(made.base, made.adapter, tmp_path / "fused")
    assert relative(rave_mlx.load(tmp_path / "fused").logits(made.prompt), made.logits) <= 1e-5


def test_a_bias_where_the_model_has_none_is_used_but_not_built_in(tmp_path):
    made = make(tmp_path, "qwen2", target_modules=["up_proj"], lora_bias=True)
    assert relative(rave_mlx.load(made.base, adapter=made.adapter).logits(made.prompt), made.logits) <= 1e-5
    with pytest.raises(ModelError, match=r"layers.0.mlp.up_proj.bias, which the model does not have"):
        fuse(made.base, made.adapter, tmp_path / "fused")
    assert not (tmp_path / "fused").exists()


def test_pissa_saved_as_a_difference_is_plain(tmp_path):
    """Half of its factors undo the start: `save_pretrained(path_initial_model_for_weight_conversion=...)`."""
    made = make(tmp_path, "qwen2", target_modules=Q)
    settings = peft.LoraConfig(r=4, target_modules=Q, init_lora_weights="pissa")
    model = peft.get_peft_model(golden.hf_model(made.case), settings)
    model.peft_config["default"].init_lora_weights = True
    model.save_pretrained(tmp_path / "start")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
        model.peft_config["default"].init_lora_weights = "pissa"
        model.save_pretrained(tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "start"))
    expected = made.peft_logits(tmp_path / "plain")
    found = rave_mlx.load(made.base, adapter=tmp_path / "plain").logits(made.prompt)
    assert relative(found, expected) <= 1e-5


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_a_quantized_base_gives_what_peft_gives_on_its_numbers(tmp_path, monkeypatch, dora):
    """Six bits: no whole number of them in a word. The reference has the numbers that the packed weights stand for."""
    tables = {} if dora else {"modules_to_save": ["norm"], "trainable_token_indices": ROWS}
    made = make(tmp_path, "llama-tied", target_modules=Q if dora else [*Q, "lm_head"], use_dora=dora, **tables)
    packed = convert(made.base, tmp_path / "packed", quantize=Options(bits=6, group_size=32))
    export(packed, tmp_path / "numbers", dequantize=True)
    with torch.no_grad():
        plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "numbers", dtype=torch.float32)
        # peft saves the table under an update of the head, too; here that is the packed one.
        file = made.adapter / "adapter_model.safetensors"
        kept = {n: x for n, x in mx.load(str(file)).items() if "base_layer" not in n}
        mx.save_safetensors(str(file), kept, metadata={"format": "pt"})
        model = peft.PeftModel.from_pretrained(plain, made.adapter).eval()
        expected = model(**golden.batch(made.case, [made.prompt])).logits.numpy()
    monkeypatch.setattr(backend, "expand_quantized", lambda stored, wide: False)
    lmm = rave_mlx.load(packed, adapter=made.adapter)
    assert any(name.endswith("q_proj.linear.scales") for name in lmm.named_weights())
    assert relative(lmm.logits(made.prompt), expected) <= 1e-4
    fuse(packed, made.adapter, tmp_path / "fused", dequantize=True)
    assert relative(rave_mlx.load(tmp_path / "fused").logits(made.prompt), expected) <= 2e-3


def test_a_head_of_its_own_reaches_transformers(tmp_path):
    """Built into tied embeddings and exported: transformers must not tie them again."""
    made = make(tmp_path, "llama-tied", target_modules=["lm_head"])
    fuse(made.base, made.adapter, tmp_path / "fused")
    assert not directory.read_config(tmp_path / "fused").text.tie_embeddings
    export(tmp_path / "fused", tmp_path / "hf")
    with torch.no_grad():
        model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32).eval()
        found = model(**golden.batch(made.case, [made.prompt])).logits.numpy()
    assert relative(found, made.logits) <= 1e-5


ERAS = {
    "qwen2_5_vl": [("model.language_model.", "model."), ("model.visual.", "visual.")],
    "llava": [
        ("model.language_model.", "language_model.model."),
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
        ("lm_head.", "language_model.lm_head."),
    ],
}
"""What transformers 4 called the modules of transformers 5."""


@pytest.mark.parametrize("name", ERAS)
def test_names_of_transformers_4_are_the_same_modules(name, tmp_path):
    made = make(tmp_path, name, target_modules=["q_proj", "qkv", "linear_1", "lm_head"])
    import_peft(made.adapter, made.base, tmp_path / "new")
    file, prefix = made.adapter / "adapter_model.safetensors", "base_model.model."
    renamed = {}
    for key, x in mx.load(str(file)).items():
        stem = key.removeprefix(prefix)
        now, then = next(((a, b) for a, b in ERAS[name] if stem.startswith(a)), ("", ""))
        renamed[prefix + then + stem.removeprefix(now)] = x
    assert renamed.keys() != mx.load(str(file)).keys()
    mx.save_safetensors(str(file), renamed, metadata={"format": "pt"})
    import_peft(made.adapter, made.base, tmp_path / "old")
    first, second = (adapters.read_weights(tmp_path / era) for era in ("new", "old"))
    assert first.keys() == second.keys()
    assert all(mx.array_equal(x, second[key]) for key, x in first.items())
    assert adapters.read_config(tmp_path / "new") == adapters.read_config(tmp_path / "old")


def test_the_command_line_converts_an_adapter(tmp_path):
    made = make(tmp_path, "qwen2", target_modules=Q)

    def run(*arguments):
        return rave("convert", *arguments)

    done = run(made.adapter, tmp_path / "ours", "--base", made.base)
    assert (done.returncode, done.stdout) == (0, f"{tmp_path / 'ours'}\n"), done.stderr
    found = rave_mlx.load(made.base, adapter=tmp_path / "ours").logits(made.prompt)
    assert relative(found, made.logits) <= 1e-5
    for arguments, code, message in (
        ((made.adapter, tmp_path / "again"), 2, "is an adapter: name the model that it is for, --base MODEL"),
        ((made.adapter, "--base", made.base), 2, "missing OUT"),
        ((made.base, tmp_path / "again", "--base", made.base), 2, "--base goes with an adapter"),
        ((made.adapter, tmp_path / "again", "--base", made.base, "--gate"), 2, "translated as it is"),
        ((made.adapter, tmp_path / "ours", "--base", made.base), 1, "already exists"),
    ):
        done = run(*arguments)
        assert done.returncode == code and message in done.stderr, done.stderr
    assert not (tmp_path / "again").exists()


def test_another_base_is_named(tmp_path):
    """A name is a hint, not a proof: a note."""
    made = make(tmp_path, "qwen2", target_modules=["q_proj"])
    file = made.adapter / "adapter_config.json"
    settings = json.loads(file.read_text())
    said = {}
    for out, name in (("a", "Qwen/Qwen2-7B"), ("b", "somebody/Base"), ("c", None)):
        file.write_text(json.dumps(settings | {"base_model_name_or_path": name}))
        said[out] = []
        import_adapter(made.adapter, made.base, tmp_path / out, note=said[out].append)
    assert said["b"] == said["c"] == []
    assert said["a"] == [f"{made.adapter}: says that it was trained on Qwen/Qwen2-7B; it is put on base"]


def test_export_refuses_another_base(tmp_path):
    made = make(tmp_path, "qwen2", target_modules=["q_proj"])
    other = make(tmp_path / "other", "qwen2-sliding", target_modules=["q_proj"])
    lmm = rave_mlx.load(made.base)
    config = adapters.AdapterConfig(
        rank=2, scale=1.0, modules=("decoder.layers.0.attention.q_proj",), base=fingerprint(lmm)
    )
    adapters.attach(lmm, config)
    adapters.save(lmm, config, tmp_path / "ours")
    weights = mx.load(str(other.base / "model.safetensors"))
    weights["model.norm.weight"] = weights["model.norm.weight"] + 1
    mx.save_safetensors(str(other.base / "model.safetensors"), weights, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="trained on another base model"):
        export_peft(tmp_path / "ours", other.base, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    export_peft(tmp_path / "ours", made.base, tmp_path / "out")
    assert relative(made.peft_logits(tmp_path / "out"), np.array(lmm.logits(made.prompt))) <= 1e-5
