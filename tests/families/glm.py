"""GLM-OCR, GLM-4V and GLM-4.6V."""

from __future__ import annotations

from families import Case
from families.qwen2_5_vl import hf_inputs

ROPE = {"rope_type": "default", "rope_theta": 5000.0, "mrope_section": [2, 3, 3], "partial_rotary_factor": 1.0}
OCR_TEXT = {
    "model_type": "glm_ocr_text", "vocab_size": 272, "hidden_size": 48, "intermediate_size": 80,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 4096, "eos_token_id": [2, 5], "pad_token_id": 0, "rms_norm_eps": 1e-5,
    "attention_bias": False, "rope_parameters": ROPE,
}  # fmt: skip
OCR_VISION = {
    "model_type": "glm_ocr_vision", "depth": 3, "hidden_size": 48, "intermediate_size": 72, "num_heads": 3,
    "patch_size": 8, "image_size": 32, "out_hidden_size": 48, "hidden_act": "silu", "attention_bias": True,
    "rms_norm_eps": 1e-5, "spatial_merge_size": 2, "temporal_patch_size": 2,
}  # fmt: skip
IDS = {"image_token_id": 6, "video_token_id": 7, "image_start_token_id": 3, "image_end_token_id": 4}
OCR = IDS | {
    "architectures": ["GlmOcrForConditionalGeneration"], "model_type": "glm_ocr", "tie_word_embeddings": False,
    "text_config": OCR_TEXT, "vision_config": OCR_VISION,
}  # fmt: skip
OCR_BARE = OCR | {
    "tie_word_embeddings": True,
    "text_config": OCR_TEXT | {
        "head_dim": 24, "num_key_value_heads": 4, "num_hidden_layers": 4,
        "rope_parameters": ROPE | {"mrope_section": [2, 2, 4], "partial_rotary_factor": 0.7},
    },
    "vision_config": OCR_VISION | {"attention_bias": False, "hidden_act": "gelu", "spatial_merge_size": 3,
                                   "rope_parameters": {"rope_type": "axial", "rope_theta": 300.0}},
}  # fmt: skip
"""Tied, a part of every head turns, no biases in the tower, cells of nine patches."""
TEXT = OCR_TEXT | {
    "model_type": "glm4v_text", "attention_bias": True, "hidden_size": 64, "num_hidden_layers": 3,
    "rope_parameters": ROPE | {"mrope_section": [1, 1, 2], "partial_rotary_factor": 0.5},
}  # fmt: skip
TEXT.pop("head_dim")
VISION = OCR_VISION | {
    "model_type": "glm4v_vision", "attention_bias": False, "image_size": 44, "out_hidden_size": 64,
    "intermediate_size": 88,
}  # fmt: skip
GLM4V = IDS | {
    "architectures": ["Glm4vForConditionalGeneration"], "model_type": "glm4v", "tie_word_embeddings": False,
    "text_config": TEXT, "vision_config": VISION,
}  # fmt: skip
GLM46V = GLM4V | {
    "architectures": ["Glm46VForConditionalGeneration"], "model_type": "glm46v", "tie_word_embeddings": True,
    "vision_config": VISION | {"attention_bias": True, "image_size": 130, "spatial_merge_size": 1},
}  # fmt: skip
PROCESSOR = {
    "image_processor_type": "Glm46VImageProcessor", "size": {"shortest_edge": 512, "longest_edge": 1 << 18},
    "patch_size": 8, "merge_size": 2, "temporal_patch_size": 2, "image_mean": [0.4, 0.5, 0.6],
    "image_std": [0.3, 0.25, 0.2],
}  # fmt: skip


def old(config):
    """The configuration as transformers 4 wrote it: rope_theta, rope_scaling and the rotated part beside each other."""
    text = dict(config["text_config"])
    rope = dict(text.pop("rope_parameters"))
    text |= {"rope_theta": rope["rope_theta"], "partial_rotary_factor": rope["partial_rotary_factor"]}
    text["rope_scaling"] = {"rope_type": "default", "mrope_section": rope["mrope_section"]}
    return config | {"text_config": text}


def old_name(name):
    """A parameter's name in mlx-vlm."""
    name = name.replace("model.language_model.", "language_model.model.").replace("model.visual.", "vision_tower.")
    return name.replace("lm_head.", "language_model.lm_head.")


def case(name, config, merge=2):
    return Case(
        name,
        config,
        PROCESSOR | {"merge_size": merge},
        image_text="<|vision_start|><|image_pad|><|vision_end|>",
        hf_inputs=hf_inputs,
        old_config=old(config),
        old_name=old_name,
    )


CASES = [
    case("glm_ocr", OCR),
    case("glm_ocr-bare", OCR_BARE, 3),
    case("glm4v", GLM4V),
    case("glm46v", GLM46V, 1),
]
