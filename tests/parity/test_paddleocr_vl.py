"""PaddleOCR-VL against transformers where logits alone would not tell, and what is published of it."""

from __future__ import annotations

import json
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, cases, write_checkpoint
from families.paddleocr_vl import CONFIG, PLAIN, PROCESSOR, raster
from mlx.utils import tree_flatten
from support import picture, relative

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from transformers.models.paddleocr_vl.image_processing_pil_paddleocr_vl import PaddleOCRVLImageProcessorPil  # noqa: E402
from transformers.vision_utils import get_vision_interpolation_indices_and_weights  # noqa: E402

import rave_mlx  # noqa: E402
from parity import golden as reference  # noqa: E402
from rave_mlx.checkpoint import adapters  # noqa: E402
from rave_mlx.checkpoint.directory import BUILT_IN  # noqa: E402
from rave_mlx.config import VisionConfig  # noqa: E402
from rave_mlx.convert.adapters import import_peft  # noqa: E402
from rave_mlx.convert.families import detect, paddleocr_vl  # noqa: E402
from rave_mlx.convert.source import Source  # noqa: E402
from rave_mlx.errors import ConfigError, ModelError  # noqa: E402
from rave_mlx.inputs.images.preprocess import cut_patches  # noqa: E402
from rave_mlx.models.connectors import build_connector  # noqa: E402
from rave_mlx.models.decoder import Decoder  # noqa: E402
from rave_mlx.models.vision import build_tower  # noqa: E402
from rave_mlx.models.vision.windows import interpolation, plan_windows  # noqa: E402

PUBLISHED = {
    "model_type": "paddleocr_vl", "compression_ratio": 1.0, "head_dim": 128, "hidden_act": "silu",
    "hidden_dropout_prob": 0.0, "hidden_size": 1024, "ignored_index": -100, "image_token_id": 100295,
    "intermediate_size": 3072, "max_position_embeddings": 131072, "max_sequence_length": None,
    "num_attention_heads": 16, "num_hidden_layers": 18, "num_key_value_heads": 2, "pad_token_id": 0,
    "rms_norm_eps": 1e-05, "rope_is_neox_style": True, "rope_theta": 500000, "sliding_window": None,
    "rope_scaling": {"mrope_section": [16, 24, 24], "rope_type": "default", "type": "default"},
    "tie_word_embeddings": False, "use_3d_rope": True, "use_bias": False, "video_token_id": 101307,
    "vision_start_token_id": 101305, "vocab_size": 103424,
    "vision_config": {
        "attention_dropout": 0.0, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 1152, "image_size": 384,
        "intermediate_size": 4304, "layer_norm_eps": 1e-06, "model_type": "paddleocr_vl", "num_attention_heads": 16,
        "num_channels": 3, "num_hidden_layers": 27, "patch_size": 14, "spatial_merge_size": 2,
        "temporal_patch_size": 2, "tokens_per_second": 2,
    },
}  # fmt: skip
"""The configuration of PaddlePaddle/PaddleOCR-VL."""
PUBLISHED_PROCESSOR = {
    "do_convert_rgb": True, "do_normalize": True, "do_rescale": True, "do_resize": True, "image_mean": [0.5] * 3,
    "image_processor_type": "PaddleOCRVLImageProcessor", "image_std": [0.5] * 3, "max_pixels": 2822400,
    "merge_size": 2, "min_pixels": 147384, "patch_size": 14, "resample": 3, "rescale_factor": 0.00392156862745098,
    "size": {"max_pixels": 2822400, "min_pixels": 147384}, "temporal_patch_size": 1,
}  # fmt: skip


def read(config, processor):
    source = Source(path=BUILT_IN, config=config, generation={}, processor=processor, tensors={})
    return detect(config, "config.json").config(source)


def test_the_published_model():
    """958,588,736 weights on the Hub, among them packed positions and a pooling head, which are not used."""
    config = read(PUBLISHED, PUBLISHED_PROCESSOR)
    parts = [Decoder(config), build_tower(config.vision), build_connector(config.connector, config.vision)]
    used = sum(a.size for part in parts for _, a in tree_flatten(part.parameters()))
    head, width, inner = config.text.vocab_size * config.text.hidden_size, 1152, 4304
    pooling = 4 * width * (width + 1) + 3 * width + 2 * width * inner + inner + width
    assert used + head + 32768 * width + pooling == 958_588_736
    with torch.device("meta"):
        theirs = transformers.PaddleOCRVLForConditionalGeneration(transformers.PaddleOCRVLConfig(**PUBLISHED))
    assert used == sum(p.numel() for p in theirs.parameters())
    assert (config.text.rope.sections, config.text.rope.theta) == ((16, 24, 24), 5e5)
    assert (config.vision.position_side, config.text.head_dim, config.text.max_positions) == (27, 128, 131072)
    assert (config.image.min_pixels, config.image.max_pixels) == (147384, 2822400)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"min_pixels": 900, "max_pixels": 50_000},
        {"size": {"shortest_edge": 800, "longest_edge": 1 << 18}, "patch_size": 16, "image_mean": [0.5] * 3},
        {"size": {"min_pixels": 147384, "max_pixels": 2822400}, "min_pixels": 1, "max_pixels": 2822400, "resample": 2},
    ],
)
@pytest.mark.parametrize("size", [(40, 30), (333, 77), (501, 400), (300, 10), (9, 301), (27, 900), (1, 1), (14, 800)])
def test_image_processing_equals(settings, size, tmp_path):
    """What the settings mean, as they were given and as transformers writes them; strips are made a cell high."""
    processor = PaddleOCRVLImageProcessorPil(**settings)
    expected = processor(picture(*size), return_tensors="np")
    tower = VisionConfig(
        depth=1, hidden_size=8, intermediate_size=8, num_heads=2, patch_size=settings.get("patch_size", 14),
        temporal_patch_size=1,
    )  # fmt: skip
    processor.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    for found in (settings | {"image_processor_type": "PaddleOCRVLImageProcessor"}, written):
        source = Source(path=tmp_path, config={}, generation={}, processor=found, tensors={})
        patches = cut_patches(picture(*size), paddleocr_vl._images(source, tower))
        assert patches.grid == tuple(expected["image_grid_thw"][0])
        np.testing.assert_array_equal(raster(patches), expected["pixel_values"])


@pytest.mark.parametrize("merge", [1, 2, 3])
@pytest.mark.parametrize("side", [1, 5, 27])
def test_interpolated_positions_equal(side, merge):
    config = VisionConfig(
        depth=1, hidden_size=8, intermediate_size=8, num_heads=2, patch_size=4, merge_size=merge, position_side=side
    )
    for high, wide in [(1, 1), (1, 5), (3, 2), (7, 16), (27, 27), (31, 65)]:
        grid = (1, high * merge, wide * merge)
        expected = get_vision_interpolation_indices_and_weights(torch.tensor([grid]), side, spatial_merge_size=merge)
        found = interpolation(plan_windows(grid, config), grid, side, "edges")
        for ours, theirs in zip(found, expected, strict=True):
            np.testing.assert_array_equal(ours, theirs.numpy())


def test_defaults_are_those_of_the_classes():
    for part, defaults in (("Text", paddleocr_vl.TEXT), ("Vision", paddleocr_vl.VISION)):
        theirs = getattr(transformers.models.paddleocr_vl, f"PaddleOCR{part}Config")
        assert {name: getattr(theirs, name) for name in defaults} == defaults
    short = {"model_type": "paddleocr_vl", "text_config": {}, "vision_config": {}}
    processor = {"image_processor_type": "PaddleOCRVLImageProcessor", "patch_size": 14}
    full = PUBLISHED | {"eos_token_id": 2, "bos_token_id": 1, "tie_word_embeddings": True}
    assert read(short, processor) == read(full, processor)


@pytest.mark.parametrize("ties", [(a, b) for a in (None, True, False) for b in (None, True, False)])
@pytest.mark.parametrize("flat", [True, False], ids=["flat", "nested"])
def test_ties_are_those_of_transformers(flat, ties):
    outer, inner = ({} if tie is None else {"tie_word_embeddings": tie} for tie in ties)
    config = {k: v for k, v in CONFIG.items() if k != "tie_word_embeddings"}
    text = {k: v for k, v in config.pop("text_config").items() if k != "tie_word_embeddings"}
    config |= ({**text, "model_type": "paddleocr_vl"} if flat else {"text_config": text | inner}) | outer
    theirs = transformers.PaddleOCRVLConfig(**json.loads(json.dumps(config)))
    assert read(config, PROCESSOR).text.tie_embeddings == theirs.tie_word_embeddings


@pytest.mark.parametrize(
    ("section", "change", "error"),
    [
        ("vision_config", {"hidden_act": "relu"}, "hidden_act 'relu' is not one of"),
        ("vision_config", {"num_channels": 1}, "num_channels 1 is not supported"),
        ("vision_config", {"image_size": 4}, "image_size is smaller than patch_size"),
        ("vision_config", {"rope_parameters": {"rope_type": "yarn"}}, "rope_type 'yarn'"),
        ("vision_config", {"num_attention_heads": 5}, "hidden_size 48 must split over 5 heads"),
        ("vision_config", {"spatial_merge_size": 3}, "merge_size 2 is not supported, only 3"),
        ("text_config", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        ("text_config", {"sliding_window": 8}, "sliding_window 8 is not supported"),
        ("text_config", {"rope_parameters": {"mrope_section": [2, 2, 2, 2], "rope_theta": 1e4}}, "one of time"),
        ("text_config", {"rope_parameters": {"rope_theta": 1e4}}, r"\[16, 24, 24\] must add up to head_dim / 2 = 8"),
        ("text_config", {"rope_parameters": {"mrope_section": [2, 3, 3], "partial_rotary_factor": 0.5}}, "partial"),
    ],
)  # fmt: skip
def test_what_is_not_implemented_is_refused(section, change, error):
    with pytest.raises(ConfigError, match=error):
        read(CONFIG | {section: CONFIG[section] | change}, PROCESSOR)


def mlx_name(name):
    """mlx-vlm's name of a tensor, from the model's own code's."""
    if name.startswith("visual.vision_model."):
        return name.replace("vision_model.encoder." if ".encoder." in name else "vision_model.", "")
    return name.replace("mlp_AR.", "visual.projector.") if name.startswith("mlp_AR") else f"language_model.{name}"


def write_mlx_vlm(folder, quantize):
    """A checkpoint as mlx-vlm 0.7.10 writes it: the tower's projections stacked, its convolution with channels last."""
    write_checkpoint(PLAIN, folder, old=True)
    own = dict(mx.load(str(folder / "model.safetensors")))
    tensors = {}
    for name, x in own.items():
        if "visual" in name and ".q_proj" in name:
            parts = [own[name.replace("q_proj", p)] for p in ("q_proj", "k_proj", "v_proj")]
            tensors[mlx_name(name.replace("q_proj", "qkv"))] = mx.concatenate(parts)
        elif "visual" not in name or (".k_proj" not in name and ".v_proj" not in name):
            tensors[mlx_name(name)] = x.moveaxis(1, -1) if x.ndim > 3 else x
    if quantize:
        for name in [n for n, x in tensors.items() if n.endswith(".weight") and x.ndim == 2 and x.shape[-1] % 16 == 0]:
            if "position_embedding" not in name:
                stem = name.removesuffix("weight")
                parts = mx.quantize(tensors[name], group_size=16, bits=4, mode="nvfp4")
                tensors |= dict(zip((f"{stem}weight", f"{stem}scales"), parts, strict=True))
        config = json.loads((folder / "config.json").read_text())
        setting = {"group_size": 16, "bits": 4, "mode": "nvfp4"}
        (folder / "config.json").write_text(json.dumps(config | {"quantization": setting}))
    mx.save_safetensors(str(folder / "model.safetensors"), tensors, metadata={"format": "mlx"})
    return folder, own


def test_names_of_mlx_vlm(tmp_path):
    folder, _ = write_mlx_vlm(tmp_path / "mlx", quantize=False)
    plain = rave_mlx.load(write_checkpoint(PLAIN, tmp_path / "hf"))
    prompt = plain.prepare(CONVERSATIONS["one image"])
    assert (np.array(rave_mlx.load(folder).logits(prompt)) == np.array(plain.logits(prompt))).all()


def test_packed_stacks_are_split_without_packing_again(tmp_path):
    folder, own = write_mlx_vlm(tmp_path / "mlx", quantize=True)
    lmm = rave_mlx.load(folder)
    assert lmm.config.quantization is not None
    for name, x in own.items():
        if x.ndim == 2 and x.shape[-1] % 16 == 0 and "position_embedding" not in name:
            own[name] = mx.dequantize(*mx.quantize(x, 16, 4, mode="nvfp4"), group_size=16, bits=4, mode="nvfp4")
    write_checkpoint(PLAIN, tmp_path / "plain", old=True)
    mx.save_safetensors(str(tmp_path / "plain" / "model.safetensors"), own, metadata={"format": "pt"})
    plain = rave_mlx.load(tmp_path / "plain")
    for name in ("one image", "image between words"):
        prompt = plain.prepare(CONVERSATIONS[name])
        assert relative(lmm.logits(prompt), plain.logits(prompt)) <= 1e-5


def test_unused_tensors_are_left_out_and_strange_ones_named(tmp_path):
    folder = write_checkpoint(cases()["paddleocr_vl"], tmp_path / "hf", old=True)
    file = str(folder / "model.safetensors")
    extra = {
        "visual.vision_model.head.probe": mx.zeros((1, 1, 48)),
        "visual.vision_model.embeddings.packing_position_embedding.weight": mx.zeros((32, 48)),
    }
    mx.save_safetensors(file, dict(mx.load(file)) | extra, metadata={"format": "pt"})
    assert rave_mlx.load(folder).config.family == "paddleocr_vl"
    mx.save_safetensors(file, dict(mx.load(file)) | {"mlp_AR.linear_3.weight": mx.zeros((8, 8))})
    with pytest.raises(ModelError, match=r"linear_3"):
        rave_mlx.load(folder)


def test_an_adapter_of_peft_that_names_projections_finds_the_towers_as_well(tmp_path):
    peft = pytest.importorskip("peft")
    model = reference.hf_model(PLAIN)
    base = reference.checkpoint(PLAIN, model, tmp_path / "hf")
    torch.manual_seed(3)
    tuned = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "linear_1"])).eval()
    with torch.no_grad():
        for name, p in tuned.named_parameters():
            if "lora_" in name:
                p.add_(torch.randn_like(p) * 0.1)
        tuned.save_pretrained(tmp_path / "peft")
        import_peft(tmp_path / "peft", base, tmp_path / "ours")
        lmm = adapters.load_adapter(rave_mlx.load(base), tmp_path / "ours")
        prompt = lmm.prepare(CONVERSATIONS["one image"])
        expected = tuned(**reference.batch(PLAIN, [prompt])).logits.numpy()
    assert any(name.startswith("vision.") for name in adapters.read_config(tmp_path / "ours").modules)
    assert relative(lmm.logits(prompt), expected) <= 1e-5


TEMPLATE = (
    "{%- if not start is defined -%}{%- set start = '<|im_start|>' -%}{%- endif -%}"
    "{%- for message in messages -%}{{- start -}}"
    "{%- if message.role == 'user' -%}{{- 'User: ' -}}"
    "{%- for part in message.content if part.type == 'image' -%}IMAGE{%- endfor -%}"
    "{%- for part in message.content if part.type == 'text' -%}{{- part.text -}}{%- endfor -%}{{- '\\n' -}}"
    "{%- else -%}{{- 'Assistant: ' -}}"
    "{%- for part in message.content if part.type == 'text' -%}{{- part.text -}}{%- endfor -%}{{- '<|im_end|>' -}}"
    "{%- endif -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'Assistant: ' -}}{%- endif -%}"
).replace("IMAGE", PLAIN.image_text)
"""What the published template does: images before the words of their message, parts only, a start token of its own."""


@pytest.mark.parametrize("name", ["one image", "odd size", "two images, two turns", "image between words"])
def test_ids_and_pixels_are_those_of_the_processor(name, tmp_path):
    folder = write_checkpoint(replace(PLAIN, files={"chat_template.jinja": TEMPLATE}), tmp_path / "hf")
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), extra_special_tokens={"image_token": "<|image_pad|>"}
    )
    settings = {k: v for k, v in PROCESSOR.items() if k != "image_processor_type"}
    processor = transformers.models.paddleocr_vl.PaddleOCRVLProcessor(
        PaddleOCRVLImageProcessorPil(**settings), tokenizer, chat_template=TEMPLATE
    )
    words = [
        m | {"content": [{"type": "text", "text": m["content"]}] if isinstance(m["content"], str) else m["content"]}
        for m in CONVERSATIONS[name]
    ]
    expected = processor.apply_chat_template(
        words, add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="np"
    )
    prompt = rave_mlx.load(folder).prepare(words)
    assert prompt.ids.tolist() == expected["input_ids"].tolist()
    pixels = np.concatenate([raster(image) for image in prompt.images])
    np.testing.assert_array_equal(pixels, expected["pixel_values"])
    assert prompt.token_map.visual.astype(int).tolist() == expected["mm_token_type_ids"][0].tolist()
