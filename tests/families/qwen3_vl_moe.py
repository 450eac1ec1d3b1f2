"""Qwen3-VL with experts."""

from __future__ import annotations

from dataclasses import replace

from families import Case, qwen3_vl
from families.qwen2_5_vl import hf_inputs

TEXT = qwen3_vl.TEXT | {
    "model_type": "qwen3_vl_moe_text", "num_hidden_layers": 3, "moe_intermediate_size": 32, "num_experts": 6,
    "num_experts_per_tok": 2, "decoder_sparse_step": 1, "mlp_only_layers": [], "norm_topk_prob": True,
    "hidden_act": "silu",
}  # fmt: skip
CONFIG = qwen3_vl.CONFIG | {
    "architectures": ["Qwen3VLMoeForConditionalGeneration"], "model_type": "qwen3_vl_moe", "text_config": TEXT,
    "vision_config": qwen3_vl.VISION | {"model_type": "qwen3_vl_moe_vision"},
}  # fmt: skip


def single(tensors):
    """The tensors of a checkpoint with one for each expert, as text models were published."""
    found = {}
    for name, x in tensors.items():
        stem, _, part = name.partition(".experts.")
        if not part:
            found[name] = x
        for expert in range(x.shape[0] if part else 0):
            if part == "down_proj":
                found[f"{stem}.experts.{expert}.down_proj.weight"] = x[expert]
            else:
                found[f"{stem}.experts.{expert}.gate_proj.weight"] = x[expert, : x.shape[1] // 2]
                found[f"{stem}.experts.{expert}.up_proj.weight"] = x[expert, x.shape[1] // 2 :]
    return found


PLAIN = Case(
    "qwen3_vl_moe",
    CONFIG,
    qwen3_vl.PROCESSOR,
    image_text="<|vision_start|><|image_pad|><|vision_end|>",
    hf_inputs=hf_inputs,
    old_config=qwen3_vl.first(CONFIG),
)
SPARSE = CONFIG | {
    "tie_word_embeddings": True,
    "text_config": TEXT | {
        "num_hidden_layers": 5, "decoder_sparse_step": 2, "mlp_only_layers": [1], "moe_intermediate_size": 24,
        "num_experts": 3, "num_experts_per_tok": 3,
    },
}  # fmt: skip
"""Tied; experts in the fourth layer alone, all of them chosen, whose fused gates are square."""
CASES = [PLAIN, replace(PLAIN, name="qwen3_vl_moe-sparse", config=SPARSE, old_config=qwen3_vl.first(SPARSE))]
