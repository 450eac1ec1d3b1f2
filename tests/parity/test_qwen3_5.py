"""Qwen3.5 against transformers where logits alone would not tell: gradients, adapters, layouts, what is published."""

from __future__ import annotations

import json
from dataclasses import replace

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest
from families import CONVERSATIONS, write_checkpoint
from families.qwen3_5 import CONFIG, EXPERTS, PLAIN, PROCESSOR, TEXT
from mlx.utils import tree_flatten
from mlx_lm.models import qwen3_5 as mlx_lm_qwen3_5
from support import relative

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil  # noqa: E402

import rave_mlx  # noqa: E402
from parity import golden as reference  # noqa: E402
from rave_mlx.checkpoint import adapters  # noqa: E402
from rave_mlx.checkpoint.directory import BUILT_IN  # noqa: E402
from rave_mlx.convert import convert  # noqa: E402
from rave_mlx.convert.adapters import export_peft, import_peft  # noqa: E402
from rave_mlx.convert.families import detect, qwen3_5, qwen3_5_moe, qwen3_vl  # noqa: E402
from rave_mlx.convert.fusing import fuse  # noqa: E402
from rave_mlx.convert.source import Source  # noqa: E402
from rave_mlx.errors import ConfigError, ModelError  # noqa: E402
from rave_mlx.inputs.prompt.parse_messages import read_messages  # noqa: E402
from rave_mlx.models.connectors import build_connector  # noqa: E402
from rave_mlx.models.decoder import Decoder  # noqa: E402
from rave_mlx.models.vision import build_tower  # noqa: E402
from rave_mlx.train.batch import collate  # noqa: E402
from rave_mlx.train.example import make_example  # noqa: E402
from rave_mlx.train.loss import loss  # noqa: E402

PUBLISHED = {
    "model_type": "qwen3_5", "image_token_id": 248056, "tie_word_embeddings": False,
    "text_config": {
        "model_type": "qwen3_5_text", "attention_bias": False, "attn_output_gate": True, "eos_token_id": 248044,
        "full_attention_interval": 4, "head_dim": 256, "hidden_act": "silu", "hidden_size": 5120,
        "intermediate_size": 17408, "layer_types": (["linear_attention"] * 3 + ["full_attention"]) * 16,
        "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16,
        "linear_num_value_heads": 48, "linear_value_head_dim": 128, "mamba_ssm_dtype": "float32",
        "max_position_embeddings": 262144, "mlp_only_layers": [], "mtp_num_hidden_layers": 1,
        "mtp_use_dedicated_embeddings": False, "num_attention_heads": 24, "num_hidden_layers": 64,
        "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "use_cache": True, "vocab_size": 248320,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000000, "mrope_interleaved": True,
                            "mrope_section": [11, 11, 10], "partial_rotary_factor": 0.25},
    },
    "vision_config": {
        "model_type": "qwen3_5", "deepstack_visual_indexes": [], "depth": 27, "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 1152, "in_channels": 3, "intermediate_size": 4304, "num_heads": 16,
        "num_position_embeddings": 2304, "out_hidden_size": 5120, "patch_size": 16, "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}  # fmt: skip
"""Qwen3.5-27B."""
DEFAULT_EXPERTS = {
    "model_type": "qwen3_5_moe", "tie_word_embeddings": False, "text_config": {"eos_token_id": 248044},
    "vision_config": {"out_hidden_size": 2048},
}  # fmt: skip
"""Qwen3.5-35B-A3B, whose sizes are the defaults of its classes."""
PUBLISHED_PROCESSOR = PROCESSOR | {"patch_size": 16}
CLASSES = {"qwen3_5": "Qwen3_5", "qwen3_5_moe": "Qwen3_5Moe"}


def read(config, processor=PROCESSOR):
    source = Source(path=BUILT_IN, config=config, generation={}, processor=processor, tensors={})
    return detect(config, "config.json").config(source)


def theirs(config):
    return getattr(transformers, f"{CLASSES[config['model_type']]}Config")(**json.loads(json.dumps(config)))


@pytest.mark.parametrize("hub", [PUBLISHED, DEFAULT_EXPERTS], ids=["Qwen3.5-27B", "Qwen3.5-35B-A3B"])
def test_published_models_have_the_weights_of_transformers(hub):
    config = read(hub, PUBLISHED_PROCESSOR)
    parts = [Decoder(config), build_tower(config.vision), build_connector(config.connector, config.vision)]
    with torch.device("meta"):
        model = getattr(transformers, f"{CLASSES[hub['model_type']]}ForConditionalGeneration")(theirs(hub))
    found = sum(a.size for part in parts for _, a in tree_flatten(part.parameters()))
    assert found == sum(p.numel() for p in model.parameters())
    assert found == {"qwen3_5": 27_356_728_560, "qwen3_5_moe": 35_107_181_936}[hub["model_type"]]
    text = config.text
    assert (text.rope.sections, text.rope.width, text.rope.interleaved) == ((11, 11, 10), 64, True)
    assert text.attention_layers == tuple(range(3, text.num_layers, 4))


@pytest.mark.parametrize("module", [qwen3_5, qwen3_5_moe])
def test_defaults_are_those_of_the_classes(module):
    name = module.__name__.rpartition(".")[2]
    kinds = getattr(transformers.models, name)
    text = {k: v for k, v in module.TEXT.items() if name == "qwen3_5" or k != "intermediate_size"}
    for part, defaults in (("Text", text), ("Vision", qwen3_vl.TOWER)):
        found = getattr(kinds, f"{CLASSES[name]}{part}Config")
        assert {key: getattr(found, key) for key in defaults} == defaults
    assert getattr(kinds, f"{CLASSES[name]}Config").image_token_id == qwen3_5.IMAGE
    bare = getattr(kinds, f"{CLASSES[name]}TextConfig")()
    assert bare.rope_parameters["partial_rotary_factor"] == 0.25
    config = read({"model_type": f"{name}_text", "eos_token_id": 1})
    assert config.text.attention_layers == tuple(i for i, k in enumerate(bare.layer_types) if k == "full_attention")
    assert config.text.rope.width == bare.head_dim // 4


@pytest.mark.parametrize("ties", [(a, b) for a in (None, True, False) for b in (None, True, False)])
@pytest.mark.parametrize("base", [CONFIG, EXPERTS], ids=CLASSES)
def test_ties_are_those_of_transformers(base, ties):
    outer, inner = ({} if tie is None else {"tie_word_embeddings": tie} for tie in ties)
    config = {k: v for k, v in base.items() if k != "tie_word_embeddings"} | outer
    config["text_config"] = base["text_config"] | inner
    assert read(config).text.tie_embeddings == theirs(config).tie_word_embeddings


@pytest.mark.parametrize(
    ("section", "change", "error"),
    [
        ("text_config", {"layer_types": ["linear_attention"]}, "layer_types has 1 entries; .* each of 2 layers"),
        ("text_config", {"layer_types": ["mamba", "full_attention"]}, "layer_types has 'mamba'"),
        ("text_config", {"layer_types": ["linear_attention"] * 2}, "at least one needs attention"),
        ("text_config", {"layer_types": None, "full_attention_interval": 0}, "full_attention_interval is 0"),
        ("text_config", {"linear_num_value_heads": 3}, "value_heads 3 is not a multiple of key_heads 2"),
        ("text_config", {"linear_key_head_dim": 0}, "key_dim must be at least 1, found 0"),
        ("text_config", {"linear_conv_kernel_dim": "4"}, "linear_conv_kernel_dim should be int, found '4'"),
        ("text_config", {"num_key_value_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
        ("text_config", {"attn_output_gate": False}, "attn_output_gate False is not supported"),
        ("text_config", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("text_config", {"rope_parameters": TEXT["rope_parameters"] | {"mrope_interleaved": False}}, "interleaved"),
        ("text_config", {"rope_parameters": TEXT["rope_parameters"] | {"partial_rotary_factor": 0.5}}, "sections"),
        ("vision_config", {"deepstack_visual_indexes": [0]}, "deepstack_visual_indexes is not supported"),
        ("vision_config", {"out_hidden_size": 40}, "out_hidden_size 40 is not supported, only 48"),
    ],
)  # fmt: skip
def test_what_is_not_implemented_is_refused(section, change, error):
    with pytest.raises(ConfigError, match=error):
        read(CONFIG | {section: CONFIG[section] | change})


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"mlp_only_layers": [0]}, r"mlp_only_layers \[0\] is not supported"),
        ({"num_experts_per_tok": 7}, "num_experts_per_tok is 7"),
        ({"norm_topk_prob": False}, "norm_topk_prob False is not supported"),
    ],
)
def test_experts_that_are_not_implemented_are_refused(change, error):
    with pytest.raises(ConfigError, match=error):
        read(EXPERTS | {"text_config": EXPERTS["text_config"] | change})


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """transformers' model, its checkpoint and our model."""
    found = reference.hf_model(PLAIN)
    folder = reference.checkpoint(PLAIN, found, tmp_path_factory.mktemp("plain") / "hf")
    return found, folder, rave_mlx.load(folder)


def test_gradients_of_every_weight_are_torchs(model):
    """Through chunks of the recurrence, convolutions and gates, over a batch of rows of several lengths."""
    hf, _, lmm = model
    answer = {"role": "assistant", "content": "They differ a little."}
    rows = [[*CONVERSATIONS[name], answer] for name in ("text", "odd size", "one image")]
    examples = [make_example(lmm, read_messages(row, lmm.config.image), "") for row in rows]
    batch = collate(examples)
    value, grads = nn.value_and_grad(lmm, lambda m: loss(m, batch)[0])(lmm)
    length = max(map(len, examples))
    marked = [np.where(e.loss_mask, e.prompt.ids[0], -100) for e in examples]
    labels = np.stack([np.pad(m, (length - len(m), 0), constant_values=-100) for m in marked])
    hf.zero_grad()
    found = hf(**reference.batch(PLAIN, [e.prompt for e in examples]), labels=torch.from_numpy(labels).long())
    (found.loss * batch.count).backward()
    assert abs(float(value) / (found.loss.item() * batch.count) - 1) < 1e-5
    expected = {name: p.grad.numpy() for name, p in hf.named_parameters() if p.grad is not None}
    names = [name for name, _ in tree_flatten(grads) if name.startswith("decoder.")]
    assert sum(".attention." in name for name in names) == 9 + 6
    for name, grad in tree_flatten(grads):
        if name.startswith("decoder."):
            right = expected[qwen3_5.origin(name, lmm.config, CONFIG).name].reshape(grad.shape)
            assert relative(grad, right) <= 1e-4, name


MODULES = ["in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "out_proj", "q_proj", "o_proj", "up_proj"]


def test_adapters_of_peft_on_linear_attention(model, tmp_path):
    peft = pytest.importorskip("peft")
    _, base, _ = model
    torch.manual_seed(3)
    tuned = peft.get_peft_model(
        reference.hf_model(PLAIN), peft.LoraConfig(r=4, lora_alpha=6, target_modules=MODULES)
    ).eval()
    with torch.no_grad():
        for name, p in tuned.named_parameters():
            if "lora_" in name:
                p.add_(torch.randn_like(p) * 0.1)
        tuned.save_pretrained(tmp_path / "peft")
        import_peft(tmp_path / "peft", base, tmp_path / "ours")
        lmm = adapters.load_adapter(rave_mlx.load(base), tmp_path / "ours")
        prompt = lmm.prepare(CONVERSATIONS["one image"])
        expected = tuned(**reference.batch(PLAIN, [prompt])).logits.numpy()
    assert relative(lmm.logits(prompt), expected) <= 1e-5
    fuse(base, tmp_path / "ours", tmp_path / "fused")
    assert relative(rave_mlx.load(tmp_path / "fused").logits(prompt), lmm.logits(prompt)) <= 1e-5
    export_peft(tmp_path / "ours", base, tmp_path / "again")
    there, back = (dict(mx.load(str(tmp_path / f / "adapter_model.safetensors"))) for f in ("peft", "again"))
    assert there.keys() == back.keys()
    assert all(mx.array_equal(there[name], back[name]).item() for name in there)


def mlx_tensors(folder):
    """What mlx-lm's own code makes of the decoder, and the tower as mlx-vlm 0.7.10 stores it."""
    own = dict(mx.load(str(folder / "model.safetensors")))
    args = mlx_lm_qwen3_5.ModelArgs.from_dict({"model_type": "qwen3_5", "text_config": dict(TEXT)})
    tensors = mlx_lm_qwen3_5.Model(args).sanitize(dict(own))
    for name, x in own.items():
        if name.startswith("model.visual."):
            tower = name.replace("model.visual.", "vision_tower.")
            tensors[tower] = x.moveaxis(1, -1) if x.ndim == 5 else x
    return tensors


@pytest.mark.parametrize("packed", [False, True])
def test_checkpoints_of_mlx_packages(model, packed, tmp_path):
    """Norms are stored with what they multiply with, convolutions with channels last; packed or not."""
    _, folder, plain = model
    tensors = mlx_tensors(folder)
    config = json.loads((folder / "config.json").read_text())
    if packed:
        for name in [n for n, x in tensors.items() if n.startswith("language_model") and x.ndim == 2]:
            if tensors[name].shape[-1] % 16 == 0:
                stem = name.removesuffix("weight")
                parts = mx.quantize(tensors[name], group_size=16, bits=4, mode="nvfp4")
                tensors |= dict(zip((f"{stem}weight", f"{stem}scales"), parts, strict=True))
        config["quantization"] = {"group_size": 16, "bits": 4, "mode": "nvfp4"}
    write_checkpoint(PLAIN, tmp_path / "mlx")
    (tmp_path / "mlx" / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(tmp_path / "mlx" / "model.safetensors"), tensors, metadata={"format": "mlx"})
    lmm = rave_mlx.load(tmp_path / "mlx")
    assert (lmm.config.quantization is not None) == packed
    prompt = plain.prepare(CONVERSATIONS["one image"])
    error = relative(lmm.logits(prompt), plain.logits(prompt))
    assert 1e-3 < error < 1 if packed else error <= 1e-5


def test_layers_that_predict_further_tokens_are_left_out(model, tmp_path):
    _, _, plain = model
    folder = write_checkpoint(PLAIN, tmp_path / "hf")
    file = str(folder / "model.safetensors")
    own = dict(mx.load(file))
    further = {"mtp.fc.weight": mx.zeros((48, 96)), "mtp.layers.0.self_attn.q_proj.weight": mx.zeros((256, 48))}
    mx.save_safetensors(file, own | further, metadata={"format": "pt"})
    prompt = plain.prepare(CONVERSATIONS["text"])
    assert mx.array_equal(rave_mlx.load(folder).logits(prompt), plain.logits(prompt)).item()
    stray = "model.language_model.layers.0.linear_attn.in_proj_qkvz.weight"
    mx.save_safetensors(file, own | {stray: mx.zeros((8, 8))}, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="in_proj_qkvz"):
        rave_mlx.load(folder)


def test_how_fast_a_state_fades_is_never_rounded(model, tmp_path):
    """Not when it is loaded in 16 bits, nor when a conversion stores the others so."""
    _, folder, plain = model
    convert(folder, tmp_path / "half", dtype="bfloat16")
    decay = plain.decoder.layers[0].attention.decay_log
    for lmm in (rave_mlx.load(folder, dtype="bfloat16"), rave_mlx.load(tmp_path / "half", dtype="bfloat16")):
        attention = lmm.decoder.layers[0].attention
        assert attention.decay_bias.dtype == mx.bfloat16
        assert mx.array_equal(attention.decay_log, decay).item()


TEMPLATE = (
    "{%- for message in messages -%}<|im_start|>{{ message.role }}\n"
    "{%- if message.content is string -%}{{ message.content }}{%- else -%}"
    "{%- for part in message.content -%}{%- if part.type == 'image' -%}<|vision_start|><|image_pad|><|vision_end|>"
    "{%- else -%}{{ part.text }}{%- endif -%}{%- endfor -%}{%- endif -%}<|im_end|>\n{%- endfor -%}"
    "{%- if add_generation_prompt -%}<|im_start|>assistant\n<think>\n\n</think>\n\n{%- endif -%}"
)
"""What the published template does for plain questions without thoughts."""


@pytest.mark.parametrize("name", ["odd size", "two images, two turns", "image between words"])
def test_ids_and_pixels_are_those_of_the_processor(name, tmp_path):
    folder = write_checkpoint(replace(PLAIN, files={"chat_template.jinja": TEMPLATE}), tmp_path / "hf")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        extra_special_tokens={
            "image_token": "<|image_pad|>", "video_token": "<|video_pad|>",
            "vision_bos_token": "<|vision_start|>", "vision_eos_token": "<|vision_end|>",
        },
    )  # fmt: skip
    settings = {k: v for k, v in PROCESSOR.items() if k != "image_processor_type"}
    processor = transformers.models.qwen3_vl.Qwen3VLProcessor.__new__(transformers.models.qwen3_vl.Qwen3VLProcessor)
    processor.image_processor, processor.tokenizer = Qwen2VLImageProcessorPil(**settings), tokenizer
    words = [m | {"content": m["content"]} for m in CONVERSATIONS[name]]
    lmm = rave_mlx.load(folder)
    prompt = lmm.prepare(words)
    pictures = [p["image"] for m in words if not isinstance(m["content"], str) for p in m["content"] if "image" in p]
    made = processor.image_processor(pictures, return_tensors="np")
    text = lmm.template.render(words, add_generation_prompt=True)
    first, *rest = text.split("<|image_pad|>")
    processor.image_token = "<|image_pad|>"
    spans = [processor.replace_image_token(made, i) for i in range(len(rest))]
    whole = first + "".join(span + after for span, after in zip(spans, rest, strict=True))
    assert tokenizer(whole, add_special_tokens=False)["input_ids"] == prompt.ids[0].tolist()
    np.testing.assert_array_equal(np.concatenate([i.pixels for i in prompt.images]), made["pixel_values"])
