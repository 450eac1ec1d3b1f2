"""Adapters to and from the `peft` package, with transformers running them."""

from __future__ import annotations

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
from rave_mlx.errors import ModelError  # noqa: E402

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


def drawn(lmm, config):
    """A model with an adapter of random weights on it (its gates as they are)."""
    adapters.attach(lmm, config)
    rng = np.random.default_rng(7)
    weights = {n: x for n, x in adapters.adapter_weights(lmm, config).items() if ".gate." not in n}
    noise = {n: mx.array(rng.normal(0, 0.2, x.shape).astype(np.float32)) for n, x in weights.items()}
    lmm.load_weights([(n, x + noise[n]) for n, x in weights.items()], strict=False)
    return lmm


def adapted(base, kind, gate=None):
    lmm = rave_mlx.load(base)
    config = AdapterConfig(rank=4, scale=1.5, modules=MODULES, kind=kind, gate=gate)
    if gate is not None:
        lmm = adapters.with_gates(lmm, gate, base)
    return drawn(lmm, config), config


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


def test_parts_of_a_fused_projection_go_to_peft_side_by_side(tmp_path):
    """Phi-3 has queries, keys and values in one matrix, which our adapters treat apart."""
    case = cases()["phi3"]
    model = reference.hf_model(case)
    base = reference.checkpoint(case, model, tmp_path / "hf")
    modules = (
        "decoder.layers.1.attention.q_proj",
        "decoder.layers.1.attention.v_proj",
        "decoder.layers.0.mlp.up_proj",
    )
    config = AdapterConfig(
        rank=3, scale=1.5, modules=modules, ranks={modules[1]: 5}, scales={modules[1]: 0.25, modules[2]: 2.0}
    )
    lmm = drawn(rave_mlx.load(base), config)
    adapters.save(lmm, config, tmp_path / "ours")
    export_peft(tmp_path / "ours", base, tmp_path / "peft")
    with torch.no_grad():
        adapted = peft.PeftModel.from_pretrained(model, tmp_path / "peft").eval()
        prompt = lmm.prepare(CONVERSATIONS["text"])
        found = adapted(**reference.batch(case, [prompt])).logits.numpy()
    assert relative(lmm.logits(prompt), found) <= 1e-5
    assert relative(rave_mlx.load(base).logits(prompt), found) > 1e-2
    dora = AdapterConfig(rank=3, scale=1.5, modules=modules, kind="dora")
    adapters.save(drawn(rave_mlx.load(base), dora), dora, tmp_path / "dora")
    with pytest.raises(ModelError, match="DoRA on a part of it"):
        export_peft(tmp_path / "dora", base, tmp_path / "out")


def test_parts_trained_whole_go_to_peft_as_saved_modules(base, tmp_path):
    config = AdapterConfig(rank=4, scale=1.0, modules=MODULES[:1], full=("connector", "vision"))
    lmm = drawn(rave_mlx.load(base), config)
    adapters.save(lmm, config, tmp_path / "ours")
    export_peft(tmp_path / "ours", base, tmp_path / "peft")
    with torch.no_grad():
        model = peft.PeftModel.from_pretrained(reference.hf_model(CASE), tmp_path / "peft").eval()
        prompt = lmm.prepare(CONVERSATIONS["one image"])
        found = model(**reference.batch(CASE, [prompt])).logits.numpy()
    assert relative(lmm.logits(prompt), found) <= 1e-5
    whole = AdapterConfig(rank=4, scale=1.0, full=("decoder",))
    adapters.save(rave_mlx.load(base), whole, tmp_path / "whole")
    with pytest.raises(ModelError, match="replaces the whole decoder, which PEFT's LoRA cannot hold"):
        export_peft(tmp_path / "whole", base, tmp_path / "out")
