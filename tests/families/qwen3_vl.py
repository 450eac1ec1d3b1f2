"""Qwen3-VL."""

from __future__ import annotations

from dataclasses import replace

from families import Case
from families.qwen2_5_vl import hf_inputs

TEXT = {
    "model_type": "qwen3_vl_text", "vocab_size": 272, "hidden_size": 48, "intermediate_size": 80,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24,
    "max_position_embeddings": 4096, "eos_token_id": 2, "rms_norm_eps": 1e-6, "attention_bias": False,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 5000.0, "mrope_section": [6, 3, 3], "mrope_interleaved": True,
    },
}  # fmt: skip
VISION = {
    "model_type": "qwen3_vl_vision", "depth": 4, "hidden_size": 48, "intermediate_size": 72, "num_heads": 3,
    "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 48,
    "num_position_embeddings": 49, "deepstack_visual_indexes": [0, 2], "hidden_act": "gelu_pytorch_tanh",
}  # fmt: skip
CONFIG = {
    "architectures": ["Qwen3VLForConditionalGeneration"], "model_type": "qwen3_vl", "image_token_id": 6,
    "video_token_id": 7, "vision_start_token_id": 3, "vision_end_token_id": 4, "tie_word_embeddings": False,
    "text_config": TEXT, "vision_config": VISION,
}  # fmt: skip
PROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessorFast", "size": {"shortest_edge": 256, "longest_edge": 1 << 18},
    "patch_size": 8, "merge_size": 2, "temporal_patch_size": 2, "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}  # fmt: skip


def first(config):
    """The configuration as transformers 4.57 wrote it: nested, but with rope_theta and rope_scaling."""
    text = dict(config["text_config"])
    rope = text.pop("rope_parameters")
    text |= {"rope_theta": rope["rope_theta"], "rope_scaling": {k: v for k, v in rope.items() if k != "rope_theta"}}
    return config | {"text_config": text, "vision_config": config["vision_config"] | {"model_type": "qwen3_vl"}}


PLAIN = Case(
    "qwen3_vl",
    CONFIG,
    PROCESSOR,
    image_text="<|vision_start|><|image_pad|><|vision_end|>",
    hf_inputs=hf_inputs,
    old_config=first(CONFIG),
)
DEEP = CONFIG | {
    "tie_word_embeddings": True,
    "text_config": TEXT | {"num_hidden_layers": 3, "num_key_value_heads": 4},
    "vision_config": VISION | {"deepstack_visual_indexes": [0, 1, 3], "num_position_embeddings": 1024},
}
"""Tied; deepstack features for every decoder layer, those of the tower's last layer among them; a large table."""
CASES = [PLAIN, replace(PLAIN, name="qwen3_vl-deep", config=DEEP, old_config=first(DEEP))]
