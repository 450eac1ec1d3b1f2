"""Qwen3.5."""

from __future__ import annotations

from dataclasses import replace

from families import Case
from families.qwen2_5_vl import hf_inputs
from families.qwen3_vl import PROCESSOR

TEXT = {
    "model_type": "qwen3_5_text", "vocab_size": 272, "hidden_size": 48, "intermediate_size": 80,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
    "max_position_embeddings": 4096, "eos_token_id": 2, "rms_norm_eps": 1e-6, "attention_bias": False,
    "layer_types": ["linear_attention", "full_attention"],
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 16, "linear_value_head_dim": 24, "linear_num_key_heads": 2,
    "linear_num_value_heads": 4, "attn_output_gate": True,
    "rope_parameters": {
        "rope_type": "default", "rope_theta": 5000.0, "mrope_section": [2, 1, 1], "mrope_interleaved": True,
        "partial_rotary_factor": 0.25,
    },
}  # fmt: skip
VISION = {
    "model_type": "qwen3_5_vision", "depth": 2, "hidden_size": 48, "intermediate_size": 72, "num_heads": 3,
    "patch_size": 8, "spatial_merge_size": 2, "temporal_patch_size": 2, "out_hidden_size": 48,
    "num_position_embeddings": 49, "hidden_act": "gelu_pytorch_tanh",
}  # fmt: skip
CONFIG = {
    "architectures": ["Qwen3_5ForConditionalGeneration"], "model_type": "qwen3_5", "image_token_id": 6,
    "video_token_id": 7, "vision_start_token_id": 3, "vision_end_token_id": 4, "tie_word_embeddings": False,
    "text_config": TEXT, "vision_config": VISION,
}  # fmt: skip


def first(config):
    """The configuration with the tower's first model type, and the layers' kinds as an interval."""
    text = {k: v for k, v in config["text_config"].items() if k != "layer_types"} | {"full_attention_interval": 2}
    vision = config["vision_config"] | {"model_type": "qwen3_5", "deepstack_visual_indexes": []}
    return config | {"text_config": text, "vision_config": vision}


PLAIN = Case(
    "qwen3_5",
    CONFIG,
    PROCESSOR,
    image_text="<|vision_start|><|image_pad|><|vision_end|>",
    hf_inputs=hf_inputs,
    old_config=first(CONFIG),
)
TIED = CONFIG | {
    "tie_word_embeddings": True,
    "text_config": TEXT
    | {"num_hidden_layers": 3, "linear_num_key_heads": 4, "linear_value_head_dim": 16, "linear_conv_kernel_dim": 3}
    | {"layer_types": ["full_attention", "linear_attention", "full_attention"], "tie_word_embeddings": True},
    "vision_config": VISION | {"num_position_embeddings": 1024},
}
"""Tied; attention first and last, heads of keys for each head of values, a shorter convolution, a large table."""
ALONE = {"architectures": ["Qwen3_5ForCausalLM"]} | TEXT | {"vocab_size": 272}
"""The decoder alone."""
EXPERTS = CONFIG | {
    "architectures": ["Qwen3_5MoeForConditionalGeneration"], "model_type": "qwen3_5_moe",
    "text_config": {k: v for k, v in TEXT.items() if k != "intermediate_size"}
    | {"model_type": "qwen3_5_moe_text", "moe_intermediate_size": 32, "num_experts": 6, "num_experts_per_tok": 2}
    | {"shared_expert_intermediate_size": 40},
    "vision_config": VISION | {"model_type": "qwen3_5_moe_vision"},
}  # fmt: skip
"""With experts, and an MLP beside them."""
CASES = [
    PLAIN,
    replace(PLAIN, name="qwen3_5-tied", config=TIED, old_config=None),
    replace(PLAIN, name="qwen3_5_moe", config=EXPERTS, old_config=None),
    Case("qwen3_5-text", ALONE, conversations=("text",)),
]
