"""Qwen3-VL with experts against transformers and peft where logits alone would not tell."""

from __future__ import annotations

import json

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from families import CONVERSATIONS
from families.qwen3_vl_moe import CONFIG, PLAIN
from mlx.utils import tree_flatten
from support import picture, relative

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

import rave_mlx  # noqa: E402
from parity import golden as reference  # noqa: E402
from rave_mlx.checkpoint import adapters  # noqa: E402
from rave_mlx.checkpoint.directory import BUILT_IN  # noqa: E402
from rave_mlx.convert import convert  # noqa: E402
from rave_mlx.convert.adapters import export_peft  # noqa: E402
from rave_mlx.convert.families import detect, qwen3_vl, qwen3_vl_moe  # noqa: E402
from rave_mlx.convert.fusing import fuse  # noqa: E402
from rave_mlx.convert.source import Source  # noqa: E402
from rave_mlx.errors import ConfigError, ModelError, UsageError  # noqa: E402
from rave_mlx.models.connectors import build_connector  # noqa: E402
from rave_mlx.models.decoder import Decoder  # noqa: E402
from rave_mlx.models.vision import build_tower  # noqa: E402
from rave_mlx.train.batch import collate  # noqa: E402
from rave_mlx.train.config import AdapterSettings, TrainConfig  # noqa: E402
from rave_mlx.train.dataset import open_dataset  # noqa: E402
from rave_mlx.train.features import FeatureCache  # noqa: E402
from rave_mlx.train.loss import loss  # noqa: E402
from rave_mlx.train.parameters import prepare, projections, trained_weights  # noqa: E402

TEXT = {
    "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 151643, "decoder_sparse_step": 1,
    "dtype": "bfloat16", "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu", "hidden_size": 2048,
    "initializer_range": 0.02, "intermediate_size": 6144, "max_position_embeddings": 262144, "mlp_only_layers": [],
    "model_type": "qwen3_vl_moe_text", "moe_intermediate_size": 768, "norm_topk_prob": True,
    "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8, "num_hidden_layers": 48,
    "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_theta": 5000000, "use_cache": True, "vocab_size": 151936,
    "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
}  # fmt: skip
VISION = {
    "deepstack_visual_indexes": [8, 16, 24], "depth": 27, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 1152,
    "in_channels": 3, "initializer_range": 0.02, "intermediate_size": 4304, "model_type": "qwen3_vl_moe",
    "num_heads": 16, "num_position_embeddings": 2304, "out_hidden_size": 2048, "patch_size": 16,
    "spatial_merge_size": 2, "temporal_patch_size": 2,
}  # fmt: skip
SMALL = {
    "architectures": ["Qwen3VLMoeForConditionalGeneration"], "image_token_id": 151655, "model_type": "qwen3_vl_moe",
    "text_config": TEXT, "tie_word_embeddings": False, "video_token_id": 151656, "vision_config": VISION,
    "vision_end_token_id": 151653, "vision_start_token_id": 151652,
}  # fmt: skip
"""The configuration of Qwen3-VL-30B-A3B-Instruct."""
LARGE = SMALL | {
    "text_config": TEXT | {"hidden_size": 4096, "intermediate_size": 12288, "moe_intermediate_size": 1536,
                           "num_attention_heads": 64, "num_hidden_layers": 94},
    "vision_config": VISION | {"out_hidden_size": 4096},
}  # fmt: skip
"""That of Qwen3-VL-235B-A22B-Instruct."""
PROCESSOR = {
    "size": {"longest_edge": 16777216, "shortest_edge": 65536}, "patch_size": 16, "temporal_patch_size": 2,
    "merge_size": 2, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    "processor_class": "Qwen3VLProcessor", "image_processor_type": "Qwen2VLImageProcessorFast",
}  # fmt: skip


def read(config, processor=PROCESSOR):
    source = Source(path=BUILT_IN, config=config, generation={}, processor=processor, tensors={})
    return detect(config, "config.json").config(source)


@pytest.mark.parametrize(
    ("hub", "total", "layer"), [(SMALL, 31_070_754_032, 48), (LARGE, 235_670_022_896, 94)], ids=["30B-A3B", "235B-A22B"]
)
def test_the_published_models(hub, total, layer):
    """Every layer has experts."""
    config = read(hub)
    parts = [Decoder(config), build_tower(config.vision), build_connector(config.connector, config.vision)]
    found = sum(a.size for part in parts for _, a in tree_flatten(part.parameters()))
    with torch.device("meta"):
        theirs = transformers.Qwen3VLMoeForConditionalGeneration(
            transformers.Qwen3VLMoeConfig(**json.loads(json.dumps(hub)))
        )
    assert found == sum(p.numel() for p in theirs.parameters()) == total
    experts = config.text.experts
    assert (experts.count, experts.chosen, experts.normalize, experts.layers) == (128, 8, True, "all")
    assert (config.text.num_layers, config.text.head_dim, config.text.rope.sections) == (layer, 128, (24, 20, 20))


def test_defaults_are_those_of_the_classes():
    for defaults, kind in ((qwen3_vl_moe.TEXT, "Text"), (qwen3_vl.VISION, "Vision")):
        found = getattr(transformers.models.qwen3_vl_moe, f"Qwen3VLMoe{kind}Config")()
        for name, value in defaults.items():
            own = getattr(found, name)
            assert (list(own) if isinstance(own, tuple) else own) == value, name


@pytest.mark.parametrize("ties", [(a, b) for a in (None, True, False) for b in (None, True, False)])
def test_ties_are_those_of_transformers(ties):
    outer, inner = ({} if tie is None else {"tie_word_embeddings": tie} for tie in ties)
    config = {k: v for k, v in CONFIG.items() if k != "tie_word_embeddings"} | outer
    config["text_config"] = CONFIG["text_config"] | inner
    with torch.device("meta"):
        theirs = transformers.Qwen3VLMoeForConditionalGeneration(
            transformers.Qwen3VLMoeConfig(**json.loads(json.dumps(config)))
        )
    tied = theirs.lm_head.weight is theirs.model.language_model.embed_tokens.weight
    assert read(config, PLAIN.processor).text.tie_embeddings == tied


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The checkpoint, transformers' model of it and a prompt."""
    model = reference.hf_model(PLAIN)
    folder = reference.checkpoint(PLAIN, model, tmp_path_factory.mktemp("moe") / "hf")
    return folder, model, rave_mlx.load(folder).prepare(CONVERSATIONS["one image"])


def trained(base, out, kind="lora", gates=False):
    """An adapter on everything that takes one, whose numbers are drawn instead of trained."""
    folder, _, prompt = base
    lmm, config = prepare(
        rave_mlx.load(folder), TrainConfig(gates=gates, adapter=AdapterSettings(rank=4, kind=kind, modules=("all",)))
    )
    rng = np.random.default_rng(0)
    drawn = {n: mx.array(rng.normal(0, 0.2, x.shape).astype(np.float32)) for n, x in trained_weights(lmm).items()
             if not n.endswith(".m")}  # fmt: skip
    lmm.load_weights(list(drawn.items()), strict=False)
    lmm.eval()
    adapters.save(lmm, config, out)
    return lmm.logits(prompt), config


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_peft_runs_our_adapter(base, kind, tmp_path):
    folder, _, prompt = base
    logits, config = trained(base, tmp_path / "own", kind)
    assert not any("mlp" in module for module in config.modules)  # experts and routers are left alone
    export_peft(tmp_path / "own", folder, tmp_path / "peft")
    theirs = peft.PeftModel.from_pretrained(reference.hf_model(PLAIN), tmp_path / "peft").eval()
    assert relative(logits, reference.hf_logits(PLAIN, theirs, [prompt])) < 1e-5
    again = rave_mlx.load(folder, adapter=tmp_path / "peft")
    assert relative(again.logits(prompt), logits) < 1e-6


@pytest.mark.parametrize("targets", ["all-linear", r".*language_model.*\.(q_proj|o_proj|gate_proj)"])
def test_we_run_pefts_adapter(base, targets, tmp_path):
    """To peft, too, experts and routers are no linear layers."""
    folder, _, prompt = base
    torch.manual_seed(0)
    model = peft.get_peft_model(
        reference.hf_model(PLAIN), peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False)
    ).eval()
    model.save_pretrained(tmp_path / "peft")
    ours = rave_mlx.load(folder, adapter=tmp_path / "peft").logits(prompt)
    assert relative(ours, reference.hf_logits(PLAIN, model, [prompt])) < 1e-5


def test_fused_adapters_and_gates(base, tmp_path):
    """What is fused into a converted model, packed or not, answers as the adapter on it."""
    logits, _ = trained(base, tmp_path / "own", gates=True)
    convert(base[0], tmp_path / "rave")
    fuse(tmp_path / "rave", tmp_path / "own", tmp_path / "fused")
    fused = rave_mlx.load(tmp_path / "fused")
    assert fused.config.gate is not None
    assert relative(fused.logits(base[2]), logits) < 1e-5


def test_adapters_of_experts_are_refused(base, tmp_path):
    folder, _, _ = base
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], target_parameters=["mlp.experts.down_proj"])
    peft.get_peft_model(reference.hf_model(PLAIN), settings).save_pretrained(tmp_path / "peft")
    with pytest.raises(ConfigError, match="target_parameters .* is not supported: it adapts the weights of experts"):
        rave_mlx.load(folder, adapter=tmp_path / "peft")
    theirs = tmp_path / "mlx"
    theirs.mkdir()
    said = {"fine_tune_type": "lora", "lora_parameters": {"rank": 2, "scale": 1.0, "dropout": 0.0}}
    (theirs / "adapter_config.json").write_text(json.dumps(said))
    stem = "language_model.model.layers.0.mlp.switch_mlp.down_proj"
    tensors = {f"{stem}.lora_a": mx.zeros((6, 2, 32)), f"{stem}.lora_b": mx.zeros((6, 48, 2))}
    mx.save_safetensors(str(theirs / "adapters.safetensors"), tensors)
    with pytest.raises(ModelError, match="adapts experts, .*switch_mlp.* is not supported; fuse it with mlx_lm.fuse"):
        rave_mlx.load(folder, adapter=theirs)
    lmm = rave_mlx.load(folder)
    for pattern in ("experts.gate_proj", "router", "gate_proj"):
        with pytest.raises(UsageError, match="experts, and what chooses them, take no low-rank updates"):
            projections(lmm, (pattern,))


def gradients(lmm, batch, features, checkpoint):
    value, found = nn.value_and_grad(lmm, lambda: loss(lmm, batch, features, checkpoint=checkpoint)[0])()
    return float(value), dict(tree_flatten(found))


@pytest.mark.parametrize("settings", [TrainConfig(), TrainConfig(gates=False, adapter=None, full=("decoder",))])
def test_training_changes_what_it_should(base, settings, tmp_path):
    """Gates and updates, or the whole decoder, whose experts and routers learn; as much with full checkpointing."""
    picture(64, 64).save(tmp_path / "a.png")
    row = {"image": "a.png", "question": "What?", "answer": "Words."}
    (tmp_path / "train.jsonl").write_text(json.dumps(row) + "\n")
    lmm, _ = prepare(rave_mlx.load(base[0]), settings)
    batch = collate(list(open_dataset(tmp_path, lmm)))
    features = FeatureCache(lmm).read(batch.images)
    first, plain = gradients(lmm, batch, features, checkpoint=False)
    second, again = gradients(lmm, batch, features, checkpoint=True)
    assert abs(first - second) < 1e-5
    moved = {n: x for n, x in plain.items() if float(mx.abs(x).max()) > 1e-6}
    assert all(relative(again[n], x) < 1e-4 for n, x in moved.items())
    assert bool([n for n in moved if ".mlp.experts." in n]) == bool(settings.full)
    assert bool([n for n in moved if ".mlp.router." in n]) == bool(settings.full)
    assert moved
