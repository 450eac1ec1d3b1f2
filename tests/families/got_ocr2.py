"""GOT-OCR 2.0: windows that are filled up, relative positions, pages as one tile or several."""

from __future__ import annotations

from dataclasses import replace

from families import Case
from families.gemma3 import inputs_of
from families.llava import QWEN2, old_name

TEXT = QWEN2 | {"num_hidden_layers": 3}
VISION = {
    "model_type": "got_ocr2_vision", "hidden_size": 48, "output_channels": 24, "num_hidden_layers": 4,
    "num_attention_heads": 3, "num_channels": 3, "image_size": 44, "patch_size": 4, "hidden_act": "gelu",
    "layer_norm_eps": 1e-6, "qkv_bias": True, "use_abs_pos": True, "use_rel_pos": True, "window_size": 4,
    "global_attn_indexes": [1, 3], "mlp_dim": 72,
}  # fmt: skip
CONFIG = {
    "architectures": ["GotOcr2ForConditionalGeneration"], "model_type": "got_ocr2", "image_token_index": 274,
    "image_seq_length": 9, "tie_word_embeddings": True, "text_config": TEXT, "vision_config": VISION,
}  # fmt: skip
PROCESSOR = {
    "image_processor_type": "GotOcr2ImageProcessor", "do_resize": True, "size": {"height": 44, "width": 44},
    "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "do_convert_rgb": True,
    "crop_to_patches": False, "min_patches": 1, "max_patches": 12,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip


def hf_inputs(prompts):
    """Every image as its tiles."""
    return {k: v for k, v in inputs_of(44)(prompts).items() if k == "pixel_values"}


def older(config):
    """The configuration as transformers 4 wrote it."""
    text = dict(config["text_config"])
    text["rope_theta"] = text.pop("rope_parameters")["rope_theta"]
    return config | {"text_config": text}


PLAIN = Case(
    "got_ocr2",
    CONFIG,
    PROCESSOR,
    image_text="<img><imgpad></img>\n",
    special=("<img>", "</img>", "<imgpad>"),
    hf_inputs=hf_inputs,
    old_config=older(CONFIG),
    old_name=lambda name: old_name(name).replace("vision_tower.vision_model.", "vision_tower."),
)
TILED = CONFIG | {
    "tie_word_embeddings": False, "text_config": TEXT | {"tie_word_embeddings": False},
    "vision_config": VISION | {
        "use_abs_pos": False, "qkv_bias": False, "window_size": 3, "global_attn_indexes": [], "num_attention_heads": 4,
        "layer_norm_eps": 1e-5, "hidden_act": "quick_gelu",
    },
}  # fmt: skip
CASES = [
    PLAIN,
    replace(
        PLAIN,
        name="got_ocr2-tiled",
        config=TILED,
        processor=PROCESSOR | {"crop_to_patches": True, "max_patches": 5},
        old_config=older(TILED),
    ),
    replace(
        PLAIN,
        name="got_ocr2-plain",
        config=CONFIG
        | {"vision_config": VISION | {"use_rel_pos": False, "window_size": 0, "image_size": 32, "patch_size": 8}},
        processor=PROCESSOR | {"size": {"height": 32, "width": 32}},
        hf_inputs=lambda prompts: {k: v for k, v in inputs_of(32)(prompts).items() if k == "pixel_values"},
        old_config=None,
    ),
]
