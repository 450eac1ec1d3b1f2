"""Granite-Docling (500M and 2B): two paths from tiles to tokens, DeepStack, scaled residuals and logits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from families import Case
from families.idefics3 import SPECIAL, inputs_of

TEXT = {
    "model_type": "granite_docling_text", "vocab_size": 276, "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": True,
    "hidden_act": "silu", "attention_bias": False, "mlp_bias": False, "embedding_multiplier": 3.0,
    "logits_scaling": 4.0, "residual_multiplier": 0.4, "attention_multiplier": 0.2,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
}  # fmt: skip
VISION = {
    "model_type": "granite_docling_vision", "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 4,
    "num_attention_heads": 3, "num_channels": 3, "image_size": 32, "patch_size": 8, "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6, "out_hidden_size": 64, "scale_factor": 2, "deepstack_visual_indexes": [0, 2],
    "use_fine_route": True,
}  # fmt: skip
CONFIG = {
    "architectures": ["GraniteDoclingForConditionalGeneration"], "model_type": "granite_docling",
    "image_token_id": 273, "tie_word_embeddings": True, "pad_token_id": 0, "density_router_hidden_size": 20,
    "density_router_threshold": 0.4, "density_router_loss_weight": 0.1, "text_config": TEXT, "vision_config": VISION,
}  # fmt: skip
PROCESSOR = {
    "image_processor_type": "GraniteDoclingImageProcessor", "size": {"height": 32, "width": 32},
    "crop_to_patches": True, "min_patches": 1, "max_patches": 6, "resample": 3, "do_resize": True, "do_rescale": True,
    "rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3,
    "do_convert_rgb": True, "fine_route": False, "dense_max_patches": 0, "dense_max_scale": 0.0,
    "dense_min_aspect": 0.0, "dense_max_aspect": 0.0,
}  # fmt: skip


def hf_inputs(prompts, fine=False):
    """Tiles of each prompt and which of them are real; of the fine path, a mark for every prompt."""
    found = inputs_of(32)(prompts)
    if not found:
        return {}
    counts = [sum(image.grid[0] for image in prompt.images) for prompt in prompts]
    found["pixel_attention_mask"] = np.arange(found["pixel_values"].shape[1]) < np.array(counts)[:, None]
    return found | ({"tile_fine_mask": np.ones(len(prompts), bool)} if fine else {})


PLAIN = Case(
    "granite_docling", CONFIG, PROCESSOR, image_text="<image>", special=SPECIAL, hf_inputs=hf_inputs,
)  # fmt: skip
COARSE = {k: v for k, v in CONFIG.items() if k != "density_router_hidden_size"} | {
    "tie_word_embeddings": False,
    "text_config": TEXT | {"attention_bias": True, "mlp_bias": True, "head_dim": 24, "num_key_value_heads": 1,
                           "tie_word_embeddings": False, "logits_scaling": 3.0},
    "vision_config": VISION | {"use_fine_route": False, "deepstack_visual_indexes": [1, 2, 3], "scale_factor": 4},
}  # fmt: skip
"""Like the 2B model without a fine path; a head of its own, biases, the last layer among those of DeepStack."""
CASES = [
    PLAIN,
    replace(
        PLAIN,
        name="granite_docling-fine",
        processor=PROCESSOR | {"fine_route": True, "max_patches": 4, "crop_to_patches": True},
        hf_inputs=lambda prompts: hf_inputs(prompts, fine=True),
    ),
    replace(
        PLAIN,
        name="granite_docling-coarse",
        config=COARSE,
        processor=PROCESSOR | {"dense_max_patches": 9, "dense_max_scale": 0.5, "dense_min_aspect": 1.2},
    ),
]
