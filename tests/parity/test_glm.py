"""GLM-OCR and GLM-4V against transformers where logits alone would not tell, and what is published of them."""

from __future__ import annotations

import json
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest
from families import CONVERSATIONS, cases, write_checkpoint
from families.glm import GLM4V, GLM46V, OCR, PROCESSOR
from mlx.utils import tree_flatten
from support import picture
from tokenizers import Tokenizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
from transformers.models.glm4v.image_processing_pil_glm4v import Glm4vImageProcessorPil  # noqa: E402
from transformers.models.glm46v.image_processing_pil_glm46v import Glm46VImageProcessorPil  # noqa: E402
from transformers.models.glm46v.processing_glm46v import Glm46VProcessor  # noqa: E402

import rave_mlx  # noqa: E402
from rave_mlx.checkpoint.directory import BUILT_IN  # noqa: E402
from rave_mlx.config import VisionConfig  # noqa: E402
from rave_mlx.convert.families import detect, glm4v, glm_ocr  # noqa: E402
from rave_mlx.convert.source import Source  # noqa: E402
from rave_mlx.errors import ConfigError, ModelError  # noqa: E402
from rave_mlx.inputs.images.preprocess import cut_patches  # noqa: E402
from rave_mlx.models.connectors import build_connector  # noqa: E402
from rave_mlx.models.decoder import Decoder  # noqa: E402
from rave_mlx.models.vision import build_tower  # noqa: E402
from rave_mlx.models.vision.windows import interpolation, plan_windows  # noqa: E402

CLASSES = {"glm_ocr": "GlmOcr", "glm4v": "Glm4v", "glm46v": "Glm46V"}
PUBLISHED_OCR = {
    "model_type": "glm_ocr", "image_start_token_id": 59256, "image_end_token_id": 59257, "image_token_id": 59280,
    "video_start_token_id": 59258, "video_end_token_id": 59259, "video_token_id": 59281, "tie_word_embeddings": False,
    "text_config": {
        "model_type": "glm_ocr_text", "pad_token_id": 59246, "vocab_size": 59392, "eos_token_id": [59246, 59253],
        "attention_bias": False, "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu", "hidden_size": 1536,
        "initializer_range": 0.02, "intermediate_size": 4608, "max_position_embeddings": 131072,
        "num_attention_heads": 16, "num_hidden_layers": 16, "num_nextn_predict_layers": 1, "num_key_value_heads": 8,
        "rms_norm_eps": 1e-05, "tie_word_embeddings": False, "use_cache": True,
        "rope_parameters": {"rope_type": "default", "mrope_section": [16, 24, 24], "partial_rotary_factor": 1.0,
                            "rope_theta": 10000},
    },
    "vision_config": {
        "model_type": "glm_ocr_vision", "hidden_size": 1024, "depth": 24, "num_heads": 16, "attention_bias": True,
        "intermediate_size": 4096, "hidden_act": "silu", "hidden_dropout_prob": 0.0, "image_size": 336,
        "patch_size": 14, "out_hidden_size": 1536, "rms_norm_eps": 1e-05, "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}  # fmt: skip
"""The configuration of zai-org/GLM-OCR."""
DEFAULT_4V = {
    "model_type": "glm4v", "text_config": {"rope_parameters": {"partial_rotary_factor": 0.5}, "eos_token_id": 1},
    "vision_config": {},
}  # fmt: skip
"""GLM-4.1V-9B, whose sizes are the defaults of its classes; half of a head turns."""
SETTINGS = {"image_processor_type": "Glm4vImageProcessor", "patch_size": 14}


def read(config, processor):
    source = Source(path=BUILT_IN, config=config, generation={}, processor=processor, tensors={})
    return detect(config, "config.json").config(source)


def theirs(config):
    kind = CLASSES[config["model_type"]]
    return getattr(transformers, f"{kind}Config")(**json.loads(json.dumps(config)))


@pytest.mark.parametrize("hub", [PUBLISHED_OCR, DEFAULT_4V], ids=["GLM-OCR", "GLM-4.1V-9B"])
def test_published_models_have_the_weights_of_transformers(hub):
    config = read(hub, SETTINGS)
    parts = [Decoder(config), build_tower(config.vision), build_connector(config.connector, config.vision)]
    with torch.device("meta"):
        model = getattr(transformers, f"{CLASSES[hub['model_type']]}ForConditionalGeneration")(theirs(hub))
    found = sum(a.size for part in parts for _, a in tree_flatten(part.parameters()))
    assert found == sum(p.numel() for p in model.parameters())
    assert found == {"glm_ocr": 1_107_405_824, "glm4v": 10_292_777_472}[hub["model_type"]]
    ocr = hub is PUBLISHED_OCR
    assert (config.text.rope.sections, config.text.rope.width) == (((16, 24, 24), None) if ocr else ((8, 12, 12), 64))
    assert (config.text.head_dim, config.text.rope.pairs) == (128, "neighbours")


@pytest.mark.parametrize("processor", [Glm4vImageProcessorPil, Glm46VImageProcessorPil])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"size": {"shortest_edge": 2000, "longest_edge": 100_000}, "resample": 2},
        {"size": {"shortest_edge": 12544, "longest_edge": 9633792}, "patch_size": 16, "image_mean": [0.5] * 3},
        {"size": {"shortest_edge": 300, "longest_edge": 1 << 18}, "temporal_patch_size": 1},
    ],
)
@pytest.mark.parametrize("size", [(40, 30), (333, 77), (501, 400), (300, 10), (9, 301), (27, 900), (1, 1), (14, 800)])
def test_image_processing_equals(processor, settings, size, tmp_path):
    """What the settings mean, as they were given and as transformers writes them; strips are made a cell high."""
    made = processor(**settings)
    expected = made(picture(*size), return_tensors="np")
    tower = VisionConfig(
        depth=1, hidden_size=8, intermediate_size=8, num_heads=2, patch_size=settings.get("patch_size", 14),
        temporal_patch_size=settings.get("temporal_patch_size", 2),
    )  # fmt: skip
    made.save_pretrained(tmp_path)
    written = json.loads((tmp_path / "preprocessor_config.json").read_text())
    for found in (settings | {"image_processor_type": "Glm4vImageProcessor"}, written):
        source = Source(path=tmp_path, config={}, generation={}, processor=found, tensors={})
        patches = cut_patches(picture(*size), glm4v._images(source, tower))
        assert patches.grid == tuple(expected["image_grid_thw"][0])
        np.testing.assert_array_equal(patches.pixels, expected["pixel_values"])


@pytest.mark.parametrize("merge", [1, 2])
@pytest.mark.parametrize("side", [1, 5, 24])
def test_interpolated_positions_equal(side, merge):
    """transformers looks them up with `grid_sample`, whose arithmetic is another one."""
    config = VisionConfig(
        depth=1, hidden_size=8, intermediate_size=8, num_heads=2, patch_size=4, merge_size=merge, position_side=side
    )
    hub = transformers.models.glm4v.Glm4vVisionConfig(image_size=side * 14, hidden_size=3)
    embeddings = transformers.models.glm4v.modeling_glm4v.Glm4vVisionEmbeddings(hub)
    table = torch.randn(side**2, 3, generator=torch.Generator().manual_seed(0))
    embeddings.position_embedding.weight.data = table
    for high, wide in [(1, 1), (1, 5), (3, 2), (7, 16), (24, 24), (31, 65)]:
        grid = (1, high * merge, wide * merge)
        plan = plan_windows(grid, config)
        rows, columns = (torch.from_numpy(x) for x in (plan.rows, plan.columns))
        zero = torch.zeros(len(plan.rows), 3)
        with torch.no_grad():
            expected = embeddings(zero, [len(plan.rows)], torch.tensor([grid]), rows, columns).numpy()
        places, weights = interpolation(plan, grid, side, "edges", "bicubic")
        found = (table.numpy()[places] * weights[..., None]).sum(axis=1)
        assert np.abs(found - expected).max() < 2e-5


@pytest.mark.parametrize(("kind", "module"), [("glm_ocr", glm_ocr), ("glm4v", glm4v)])
def test_defaults_are_those_of_the_classes(kind, module):
    for part, defaults in (("Text", module.TEXT), ("Vision", module.VISION)):
        found = getattr(getattr(transformers.models, kind), f"{CLASSES[kind]}{part}Config")
        assert {name: getattr(found, name) for name in defaults} == defaults


@pytest.mark.parametrize("ties", [(a, b) for a in (None, True, False) for b in (None, True, False)])
@pytest.mark.parametrize("base", [OCR, GLM4V, GLM46V], ids=CLASSES)
def test_ties_are_those_of_transformers(base, ties):
    outer, inner = ({} if tie is None else {"tie_word_embeddings": tie} for tie in ties)
    config = {k: v for k, v in base.items() if k != "tie_word_embeddings"} | outer
    config["text_config"] = base["text_config"] | inner
    processor = PROCESSOR | {"merge_size": base["vision_config"]["spatial_merge_size"]}
    assert read(config, processor).text.tie_embeddings == theirs(config).tie_word_embeddings


@pytest.mark.parametrize(
    ("base", "section", "change", "error"),
    [
        (OCR, "vision_config", {"hidden_act": "relu"}, "hidden_act 'relu' is not one of"),
        (OCR, "vision_config", {"out_hidden_size": 40}, "out_hidden_size 40 is not supported, only 48"),
        (OCR, "vision_config", {"patch_size": [8, 8]}, r"patch_size should be int, found \[8, 8\]"),
        (OCR, "text_config", {"attention_bias": True}, "attention_bias True is not supported"),
        (OCR, "text_config", {"rope_parameters": {"partial_rotary_factor": 0.3}}, "text.rope.sections"),
        (OCR, "text_config", {"hidden_act": "gelu"}, "hidden_act 'gelu'"),
        (GLM4V, "vision_config", {"image_size": 4}, "image_size is smaller than patch_size"),
        (GLM4V, "text_config", {"attention_bias": False}, "attention_bias False is not supported"),
        (GLM4V, "text_config", {"head_dim": 32}, "head_dim 32 is not supported, only 16"),
        (GLM4V, "text_config", {"model_type": "glm4v_moe_text"}, "model_type 'glm4v_moe_text' is not one of"),
        (GLM46V, "text_config", {"model_type": "glm4v_moe_text"}, "model_type 'glm4v_moe_text' is not one of"),
    ],
)  # fmt: skip
def test_what_is_not_implemented_is_refused(base, section, change, error):
    processor = PROCESSOR | {"merge_size": base["vision_config"]["spatial_merge_size"]}
    with pytest.raises(ConfigError, match=error):
        read(base | {section: base[section] | change}, processor)


def test_a_layer_that_predicts_further_tokens_is_left_out(tmp_path):
    folder = write_checkpoint(cases()["glm_ocr"], tmp_path / "hf")
    file = str(folder / "model.safetensors")
    own = dict(mx.load(file))
    stem = "model.language_model.layers."
    further = {n.replace(f"{stem}2.", f"{stem}3."): x for n, x in own.items() if n.startswith(f"{stem}2.")}
    further |= {f"{stem}3.eh_proj.weight": mx.zeros((48, 96)), f"{stem}3.shared_head.norm.weight": mx.zeros(48)}
    mx.save_safetensors(file, own | further, metadata={"format": "pt"})
    assert rave_mlx.load(folder).config.text.num_layers == 3
    beyond = {f"{stem}4.input_layernorm.weight": mx.zeros(48)}
    mx.save_safetensors(file, own | further | beyond, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"layers\.4"):
        rave_mlx.load(folder)


@pytest.mark.parametrize("name", ["glm_ocr", "glm4v"])
def test_names_of_mlx_vlm(name, tmp_path):
    """Its names, and its convolutions with channels last."""
    case = cases()[name]
    plain = rave_mlx.load(write_checkpoint(case, tmp_path / "hf"))
    folder = write_checkpoint(case, tmp_path / "mlx", old=True)
    (folder / "config.json").write_text(json.dumps(case.config))
    file = str(folder / "model.safetensors")
    tensors = {n: x.moveaxis(1, -1) if x.ndim > 3 else x for n, x in dict(mx.load(file)).items()}
    mx.save_safetensors(file, tensors, metadata={"format": "mlx"})
    prompt = plain.prepare(CONVERSATIONS["one image"])
    assert (np.array(rave_mlx.load(folder).logits(prompt)) == np.array(plain.logits(prompt))).all()


@pytest.mark.parametrize("name", ["glm_ocr", "glm_ocr-bare", "glm4v", "glm46v"])
def test_ids_equal(name, tmp_path):
    """What the processor (which needs torchvision) puts in an image's place, through the tokenizer's own reading."""
    case = cases()[name]
    folder = write_checkpoint(case, tmp_path / "hf")
    lmm, tokenizer = rave_mlx.load(folder), Tokenizer.from_file(str(folder / "tokenizer.json"))
    merge = SimpleNamespace(merge_size=case.processor["merge_size"])
    processor = SimpleNamespace(image_processor=merge, image_token="<|image_pad|>")
    for conversation in case.conversations:
        prompt = lmm.prepare(CONVERSATIONS[conversation])
        grids = {"image_grid_thw": np.array([image.grid for image in prompt.images])}
        template = lmm.template.render(CONVERSATIONS[conversation], add_generation_prompt=True)
        first, *rest = template.split("<|image_pad|>")
        spans = [Glm46VProcessor.replace_image_token(processor, grids, i) for i in range(len(rest))]
        whole = first + "".join(span + after for span, after in zip(spans, rest, strict=True))
        assert tokenizer.encode(whole, add_special_tokens=False).ids == prompt.ids[0].tolist()
