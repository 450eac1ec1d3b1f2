"""LLaVA 1.5."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from families import Case

LLAMA = {
    "model_type": "llama", "vocab_size": 288, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 4, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5,
    "bos_token_id": 1, "eos_token_id": 2, "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}  # fmt: skip
QWEN2 = {
    "model_type": "qwen2", "vocab_size": 288, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
    "eos_token_id": 2, "use_sliding_window": False, "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}  # fmt: skip
CLIP = {
    "model_type": "clip_vision_model", "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 4,
    "num_attention_heads": 3, "image_size": 44, "patch_size": 8, "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    "projection_dim": 32, "num_channels": 3,
}  # fmt: skip
SIGLIP = {
    "model_type": "siglip_vision_model", "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
    "num_attention_heads": 3, "image_size": 44, "patch_size": 8, "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6, "num_channels": 3, "vision_use_head": False,
}  # fmt: skip
CONFIG = {
    "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "image_token_index": 272,
    "image_seq_length": 25, "projector_hidden_act": "gelu", "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default", "multimodal_projector_bias": True, "tie_word_embeddings": False,
    "text_config": LLAMA, "vision_config": CLIP,
}  # fmt: skip
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor", "do_resize": True, "size": {"shortest_edge": 44}, "resample": 3,
    "do_center_crop": True, "crop_size": {"height": 44, "width": 44}, "do_rescale": True,
    "rescale_factor": 1 / 255, "do_normalize": True, "do_convert_rgb": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip
SIGLIP_PROCESSOR = {
    "image_processor_type": "SiglipImageProcessor", "do_resize": True, "size": {"height": 44, "width": 44},
    "resample": 3, "do_rescale": True, "do_normalize": True, "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}  # fmt: skip

_LEFT_OUT = {
    "llama": ("bos_token_id", "eos_token_id", "tie_word_embeddings", "num_key_value_heads", "rope_parameters"),
    "mistral": ("bos_token_id", "eos_token_id", "tie_word_embeddings", "rms_norm_eps"),
    "qwen2": ("max_position_embeddings", "rms_norm_eps", "use_sliding_window"),
    "clip_vision_model": ("hidden_act", "layer_norm_eps", "num_channels"),
    "siglip_vision_model": ("hidden_act", "layer_norm_eps", "num_channels"),
}
"""Keys with the value of the class's default, which transformers 4 did not write."""


def tiles(image, tile_size):
    """Patches put together again (tiles, 3, tile_size, tile_size); zero where the tower does not look."""
    count, rows, columns = image.grid
    patch = tile_size // rows
    levels = image.pixels.reshape(count, rows, columns, 3, patch, patch).transpose(0, 3, 1, 4, 2, 5)
    whole = np.zeros((count, 3, tile_size, tile_size), np.float32)
    whole[:, :, : rows * patch, : columns * patch] = levels.reshape(count, 3, rows * patch, columns * patch)
    return whole


def hf_inputs(prompts):
    """Every image as one tile."""
    images = [image for prompt in prompts for image in prompt.images]
    return {"pixel_values": np.concatenate([tiles(image, 44) for image in images])} if images else {}


def older(config):
    """The configuration as transformers 4 wrote it: what equals a default is left out."""
    parts = {}
    for name in ("text_config", "vision_config"):
        part = dict(config[name])
        rope = part.get("rope_parameters", {}).get("rope_theta", 10000.0)
        dropped = (*_LEFT_OUT[part["model_type"]], "rope_parameters")
        parts[name] = {k: v for k, v in part.items() if k not in dropped}
        if rope != 10000.0:
            parts[name]["rope_theta"] = rope
    kept = {k: v for k, v in config.items() if k not in ("multimodal_projector_bias", "tie_word_embeddings")}
    return kept | parts


def old_name(name):
    """A parameter's name in transformers 4."""
    for modern, old in (
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.vision_tower.", "vision_tower.vision_model."),
        ("model.", ""),
    ):
        if name.startswith(modern):
            return old + name.removeprefix(modern)
    raise AssertionError(name)


PLAIN = Case(
    "llava",
    CONFIG,
    PROCESSOR,
    image_text="<image>\n",
    special=("<image>",),
    hf_inputs=hf_inputs,
    old_config=older(CONFIG),
    old_name=old_name,
)
FULL = CONFIG | {"vision_feature_layer": [-4, -1], "vision_feature_select_strategy": "full"}
"""Class tokens and the states of two layers side by side; images padded to squares."""
PADDED = PROCESSOR | {"image_processor_type": "LlavaImageProcessor", "do_pad": True}
INTERLEAVE = CONFIG | {
    "text_config": QWEN2, "vision_config": SIGLIP, "vision_feature_layer": -1,
    "vision_feature_select_strategy": "full", "multimodal_projector_bias": False, "tie_word_embeddings": True,
}  # fmt: skip
CASES = [
    PLAIN,
    replace(PLAIN, name="llava-full", config=FULL, old_config=older(FULL), processor=PADDED),
    replace(
        PLAIN,
        name="llava-siglip",
        config=INTERLEAVE,
        processor=SIGLIP_PROCESSOR,
        old_config=older(INTERLEAVE) | {"multimodal_projector_bias": False},
    ),
]
