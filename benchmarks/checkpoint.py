"""A random Qwen2.5-VL checkpoint of about 160 M parameters in the Hub's layout, for timings side by side.

The configuration is flat, as transformers 4 wrote it, because not every program reads the nested form; the
tokenizer is the built-in model's (ids beyond its vocabulary decode to nothing, which timings do not mind).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from rave_mlx.checkpoint.directory import BUILT_IN

TEXT = {
    "vocab_size": 32000,
    "hidden_size": 768,
    "intermediate_size": 2048,
    "num_hidden_layers": 14,
    "num_attention_heads": 12,
    "num_key_value_heads": 4,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [8, 12, 12]},
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}
VISION = {
    "depth": 12,
    "hidden_size": 512,
    "intermediate_size": 1536,
    "num_heads": 8,
    "patch_size": 14,
    "window_size": 112,
    "fullatt_block_indexes": [2, 5, 8, 11],
    "out_hidden_size": 768,
    "hidden_act": "silu",
    "in_channels": 3,
    "in_chans": 3,
    "spatial_merge_size": 2,
    "spatial_patch_size": 14,
    "temporal_patch_size": 2,
    "tokens_per_second": 2,
}
TOKENS = {"image_token_id": 6, "video_token_id": 7, "vision_start_token_id": 3, "vision_end_token_id": 4}
END = 31999
"""The end-of-answer token: one that a random model is most unlikely to choose."""


def build(folder: Path, seed: int = 0, vocabulary: int = TEXT["vocab_size"]) -> Path:
    """Write the checkpoint; returns its folder.

    Args:
        folder: to write into.
        seed: of the weights.
        vocabulary: rows of the embedding; ids beyond 32,000 are words that no text has.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(seed)

    def matrix(*shape: int) -> np.ndarray:
        """Random weights, scaled so that activations neither grow nor vanish."""
        scale = np.float32(np.prod(shape[1:]) ** -0.5)
        return rng.standard_normal(shape, dtype=np.float32) * scale

    wide, narrow = TEXT["hidden_size"], VISION["hidden_size"]
    key_width = wide // TEXT["num_attention_heads"] * TEXT["num_key_value_heads"]
    merged = narrow * VISION["spatial_merge_size"] ** 2
    tensors = {
        "visual.patch_embed.proj.weight": matrix(narrow, 3, 2, 14, 14),
        "visual.merger.ln_q.weight": np.ones(narrow, np.float32),
        "visual.merger.mlp.0.weight": matrix(merged, merged),
        "visual.merger.mlp.0.bias": np.zeros(merged, np.float32),
        "visual.merger.mlp.2.weight": matrix(wide, merged),
        "visual.merger.mlp.2.bias": np.zeros(wide, np.float32),
        "model.embed_tokens.weight": matrix(vocabulary, wide),
        "model.norm.weight": np.ones(wide, np.float32),
    }
    for i in range(VISION["depth"]):
        at = f"visual.blocks.{i}"
        for name in ("norm1", "norm2"):
            tensors[f"{at}.{name}.weight"] = np.ones(narrow, np.float32)
        for name, rows, columns in (
            ("attn.qkv", 3 * narrow, narrow),
            ("attn.proj", narrow, narrow),
            ("mlp.gate_proj", VISION["intermediate_size"], narrow),
            ("mlp.up_proj", VISION["intermediate_size"], narrow),
            ("mlp.down_proj", narrow, VISION["intermediate_size"]),
        ):
            tensors[f"{at}.{name}.weight"] = matrix(rows, columns)
            tensors[f"{at}.{name}.bias"] = np.zeros(rows, np.float32)
    for i in range(TEXT["num_hidden_layers"]):
        at = f"model.layers.{i}"
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"{at}.{name}.weight"] = np.ones(wide, np.float32)
        for name, rows in (("q_proj", wide), ("k_proj", key_width), ("v_proj", key_width)):
            tensors[f"{at}.self_attn.{name}.weight"] = matrix(rows, wide)
            tensors[f"{at}.self_attn.{name}.bias"] = np.zeros(rows, np.float32)
        tensors[f"{at}.self_attn.o_proj.weight"] = matrix(wide, wide)
        tensors[f"{at}.mlp.gate_proj.weight"] = matrix(TEXT["intermediate_size"], wide)
        tensors[f"{at}.mlp.up_proj.weight"] = matrix(TEXT["intermediate_size"], wide)
        tensors[f"{at}.mlp.down_proj.weight"] = matrix(wide, TEXT["intermediate_size"])
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {"model_type": "qwen2_5_vl", "architectures": ["Qwen2_5_VLForConditionalGeneration"],
              "eos_token_id": END, "torch_dtype": "float32", "vision_config": {"model_type": "qwen2_5_vl", **VISION},
              **TEXT, **TOKENS, "vocab_size": vocabulary}  # fmt: skip
    processor = {
        "patch_size": 14,
        "merge_size": 2,
        "temporal_patch_size": 2,
        "min_pixels": 3136,
        "max_pixels": 12845056,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": END}))
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    for name in ("tokenizer.json", "chat_template.jinja"):
        (folder / name).write_bytes((BUILT_IN / name).read_bytes())
    return folder


def page(width: int = 868, height: int = 896, seed: int = 1) -> np.ndarray:
    """A page of noise, (height, width, 3) uint8; of 992 visual tokens unless told.

    Args:
        width: in pixels.
        height: in pixels.
        seed: of the noise.
    """
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
