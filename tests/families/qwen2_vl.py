"""Qwen2-VL."""

from __future__ import annotations

from dataclasses import replace

from families import Case
from families.qwen2_5_vl import PROCESSOR, TEXT, flat, hf_inputs, old_name

VISION = {
    "model_type": "qwen2_vl_vision", "depth": 3, "embed_dim": 48, "hidden_size": 64, "mlp_ratio": 3, "num_heads": 3,
    "patch_size": 8, "hidden_act": "quick_gelu", "spatial_merge_size": 2, "temporal_patch_size": 2,
}  # fmt: skip
CONFIG = {
    "architectures": ["Qwen2VLForConditionalGeneration"], "model_type": "qwen2_vl", "image_token_id": 6,
    "video_token_id": 7, "vision_start_token_id": 3, "vision_end_token_id": 4, "tie_word_embeddings": False,
    "text_config": TEXT | {"model_type": "qwen2_vl_text"}, "vision_config": VISION,
}  # fmt: skip
PLAIN = Case(
    "qwen2_vl",
    CONFIG,
    PROCESSOR,
    image_text="<|vision_start|><|image_pad|><|vision_end|>",
    hf_inputs=hf_inputs,
    old_config=flat(CONFIG),
    old_name=old_name,
)
SLIDING = CONFIG | {
    "tie_word_embeddings": True,
    "text_config": CONFIG["text_config"] | {
        "use_sliding_window": True, "sliding_window": 11, "max_window_layers": 1, "tie_word_embeddings": True,
    },
}  # fmt: skip
"""Tied, with a sliding window in all layers but the first."""
CASES = [PLAIN, replace(PLAIN, name="qwen2_vl-sliding", config=SLIDING, old_config=flat(SLIDING))]
