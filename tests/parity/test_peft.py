"""Adapters to and from the `peft` package, with transformers running them."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, cases
from support import relative

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

import rave_mlx  # noqa: E402
from parity import golden as reference  # noqa: E402
from rave_mlx.checkpoint import adapters  # noqa: E402
from rave_mlx.checkpoint.adapters import AdapterConfig  # noqa: E402
from rave_mlx.config import GateConfig  # noqa: E402
from rave_mlx.convert import convert  # noqa: E402
from rave_mlx.convert.adapters import export_peft, import_peft  # noqa: E402
from rave_mlx.errors import ConfigError, ModelError  # noqa: E402

CASE = cases()["qwen2_5_vl"]
MODULES = (
    "decoder.layers.0.attention.q_proj",
    "decoder.layers.1.attention.v_proj",
    "decoder.layers.2.attention.o_proj",
    "decoder.layers.1.mlp.down_proj",
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A checkpoint and transformers' model of it."""
    model = reference.hf_model(CASE)
    return reference.checkpoint(CASE, model, tmp_path_factory.mktemp("base") / "hf")


def adapted(base, kind, gate=None):
    lmm = rave_mlx.load(base)
    config = AdapterConfig(rank=4, scale=1.5, modules=MODULES, kind=kind, gate=gate)
    if gate is not None:
        lmm = adapters.with_gates(lmm, gate, base)
    adapters.attach(lmm, config)
    rng = np.random.default_rng(7)
    names = [n for n in adapters.adapter_weights(lmm, config) if n.endswith(("lora_a", "lora_b", ".m"))]
    old = lmm.named_weights()
    lmm.load_weights(
        [(n, old[n] + mx.array(rng.normal(0, 0.2, old[n].shape).astype(np.float32))) for n in names], strict=False
    )
    return lmm, config


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_peft_runs_our_adapter(base, tmp_path, kind):
    lmm, config = adapted(base, kind)
    adapters.save(lmm, config, tmp_path / "ours")
    export_peft(tmp_path / "ours", base, tmp_path / "peft")
    with torch.no_grad():
        model = peft.PeftModel.from_pretrained(reference.hf_model(CASE), tmp_path / "peft").eval()
        prompt = lmm.prepare(CONVERSATIONS["one image"])
        found = model(**reference.batch(CASE, [prompt])).logits.numpy()
    assert relative(lmm.logits(prompt), found) <= 1e-5
    assert relative(rave_mlx.load(base).logits(prompt), found) > 1e-2


@pytest.mark.parametrize("dora", [False, True], ids=["lora", "dora"])
def test_we_run_pefts_adapter(base, tmp_path, dora):
    settings = peft.LoraConfig(r=4, lora_alpha=6, use_dora=dora, target_modules=r".*language_model.*\.(q_proj|up_proj)")
    torch.manual_seed(3)
    model = peft.get_peft_model(reference.hf_model(CASE), settings).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if "lora_" in name:
                p.add_(torch.randn_like(p) * 0.1)
        model.save_pretrained(tmp_path / "peft")
        import_peft(tmp_path / "peft", base, tmp_path / "ours")
        lmm = adapters.load_adapter(rave_mlx.load(base), tmp_path / "ours")
        prompt = lmm.prepare(CONVERSATIONS["one image"])
        expected = model(**reference.batch(CASE, [prompt])).logits.numpy()
    assert relative(lmm.logits(prompt), expected) <= 1e-5


def test_there_and_back_keeps_every_bit_and_the_gates(base, tmp_path):
    convert(base, tmp_path / "rave")
    lmm, config = adapted(base, "dora", GateConfig(rank=3))
    adapters.save(lmm, config, tmp_path / "ours")
    export_peft(tmp_path / "ours", tmp_path / "rave", tmp_path / "peft")
    import_peft(tmp_path / "peft", tmp_path / "rave", tmp_path / "again")
    first, second = (adapters.read_weights(tmp_path / name) for name in ("ours", "again"))
    assert first.keys() == second.keys()
    assert all(mx.array_equal(x, second[n]) for n, x in first.items())
    again = adapters.read_config(tmp_path / "again")
    assert (again.rank, again.scale, again.kind, again.gate) == (4, 1.5, "dora", GateConfig(rank=3))
    assert set(again.modules) == set(MODULES)


def test_what_cannot_be_translated_is_refused(base, tmp_path):
    lmm, config = adapted(base, "lora")
    adapters.save(lmm, config, tmp_path / "ours")
    export_peft(tmp_path / "ours", base, tmp_path / "peft")
    file = tmp_path / "peft" / "adapter_config.json"
    settings = json.loads(file.read_text())
    for key, value, message in (
        ("use_rslora", True, "use_rslora True is not supported"),
        ("peft_type", "IA3", "peft_type 'IA3'"),
        ("rank_pattern", {"q_proj": 2}, "rank_pattern"),
    ):
        file.write_text(json.dumps(settings | {key: value}))
        with pytest.raises(ConfigError, match=message):
            import_peft(tmp_path / "peft", base, tmp_path / "out")
    file.write_text(json.dumps(settings))
    weights = mx.load(str(tmp_path / "peft" / "adapter_model.safetensors"))
    weights["base_model.model.model.visual.blocks.0.attn.qkv.lora_A.weight"] = mx.zeros((4, 48))
    mx.save_safetensors(str(tmp_path / "peft" / "adapter_model.safetensors"), weights)
    with pytest.raises(ModelError, match="tensors of no projection"):
        import_peft(tmp_path / "peft", base, tmp_path / "out")
    assert not (tmp_path / "out").exists()
