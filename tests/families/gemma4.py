"""Gemma 4: two kinds of layers with heads of their own, borrowed keys, per-layer embeddings, images filling an area."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from families import Case
from rave_mlx.inputs.images.patch_order import in_reading_order

BOI, EOI, IMAGE = 272, 273, 274
TEXT = {
    "model_type": "gemma4_text", "vocab_size": 280, "hidden_size": 64, "intermediate_size": 48,
    "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 1, "head_dim": 8,
    "hidden_activation": "gelu_pytorch_tanh", "max_position_embeddings": 4096, "rms_norm_eps": 1e-6,
    "eos_token_id": 2, "bos_token_id": 1, "pad_token_id": 0, "attention_bias": False, "sliding_window": 9,
    "tie_word_embeddings": True, "final_logit_softcapping": 5.0, "use_bidirectional_attention": None,
    "vocab_size_per_layer_input": 276, "hidden_size_per_layer_input": 8, "attention_k_eq_v": False,
    "num_kv_shared_layers": 3, "use_double_wide_mlp": True, "enable_moe_block": False,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention", "sliding_attention",
                    "sliding_attention", "full_attention"],
    "per_layer_config": {"1": {"head_dim": 16}, "5": {"head_dim": 16}},
    "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "rope_theta": 1000000.0, "partial_rotary_factor": 0.25},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    },
}  # fmt: skip
VISION = {
    "model_type": "gemma4_vision", "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 2,
    "num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 8, "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6, "pooling_kernel_size": 3, "patch_size": 2, "position_embedding_size": 256,
    "use_clipped_linears": True, "standardize": False, "attention_bias": False,
    "rope_parameters": {"rope_type": "axial", "rope_theta": 100.0},
}  # fmt: skip
CONFIG = {
    "architectures": ["Gemma4ForConditionalGeneration"], "model_type": "gemma4", "boi_token_id": BOI,
    "eoi_token_id": EOI, "image_token_id": IMAGE, "video_token_id": 275, "audio_token_id": 276,
    "tie_word_embeddings": True, "text_config": TEXT, "vision_config": VISION, "audio_config": None,
}  # fmt: skip
PROCESSOR = {
    "image_processor_type": "Gemma4ImageProcessor", "processor_class": "Gemma4Processor", "do_resize": True,
    "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": False, "do_convert_rgb": True,
    "image_mean": [0.0, 0.0, 0.0], "image_std": [1.0, 1.0, 1.0], "patch_size": 2, "max_soft_tokens": 70,
    "pooling_kernel_size": 3,
}  # fmt: skip
SPECIAL = ("<|image>", "<image|>", "<|image|>")


def raster(image, merge, side, scaled=True):
    """The patches of an image as Gemma4ImageProcessor writes them, and the column and row of each."""
    _, rows, columns = image.grid
    pixels = in_reading_order(image.pixels.reshape(len(image.pixels), 3, side**2), rows, columns, merge)
    places = np.stack(np.meshgrid(np.arange(columns), np.arange(rows)), axis=-1)
    pixels = pixels.reshape(-1, 3, side**2).swapaxes(1, 2).reshape(rows * columns, -1)
    return pixels / 2 + 0.5 if scaled else pixels, places.reshape(-1, 2)


def inputs_of(merge, side, most, scaled=True):
    """Every image as patches, filled up to the largest number, and which tokens are of an image."""

    def hf_inputs(prompts):
        images = [image for prompt in prompts for image in prompt.images]
        length = max(map(len, prompts))
        visual = np.stack([np.pad(p.token_map.visual, (length - len(p), 0)) for p in prompts])
        shown = {}
        if images:
            cut = [raster(image, merge, side, scaled) for image in images]
            shown["pixel_values"] = np.stack([np.pad(p, [(0, most - len(p)), (0, 0)]) for p, _ in cut])
            shown["image_position_ids"] = np.stack(
                [np.pad(q, [(0, most - len(q)), (0, 0)], constant_values=-1) for _, q in cut]
            )
        return shown | {"mm_token_type_ids": visual.astype(np.int64)}

    return hf_inputs


PLAIN = Case(
    "gemma4",
    CONFIG,
    PROCESSOR,
    image_text="<|image|>",
    special=SPECIAL,
    hf_inputs=inputs_of(3, 2, 630),
)
LARGE = CONFIG | {
    "tie_word_embeddings": False,
    "text_config": {k: v for k, v in TEXT.items() if k != "per_layer_config"} | {
        "tie_word_embeddings": False, "num_key_value_heads": 2, "head_dim": 12, "global_head_dim": 20,
        "attention_k_eq_v": True, "num_global_key_value_heads": 1, "num_kv_shared_layers": 0,
        "use_double_wide_mlp": False, "hidden_size_per_layer_input": 0, "use_bidirectional_attention": "vision",
        "final_logit_softcapping": None, "sliding_window": 33, "rms_norm_eps": 1e-5, "num_hidden_layers": 4,
        "layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"],
        "rope_parameters": {
            "full_attention": {
                "rope_type": "proportional", "rope_theta": 5000.0, "partial_rotary_factor": 0.4, "factor": 2.0,
            },
            "sliding_attention": {"rope_type": "linear", "rope_theta": 300.0, "factor": 4.0},
        },
    },
    "vision_config": VISION | {
        "use_clipped_linears": False, "standardize": True, "pooling_kernel_size": 2, "patch_size": 3,
        "num_key_value_heads": 2, "head_dim": 4, "rms_norm_eps": 1e-5,
    },
}  # fmt: skip
"""Values that are keys, windows shorter than an image whose tokens see each other, other squares and rotations."""
SPARSE = LARGE | {
    "tie_word_embeddings": True,
    "text_config": LARGE["text_config"] | {
        "tie_word_embeddings": True, "enable_moe_block": True, "num_experts": 6, "top_k_experts": 2,
        "moe_intermediate_size": 40, "hidden_size_per_layer_input": 8, "attention_k_eq_v": False, "head_dim": 20,
        "sliding_window": 5,
    },
}  # fmt: skip
"""Experts beside the MLP, windows much shorter than an image, heads of one width."""
UNIFIED = {
    "architectures": ["Gemma4UnifiedForConditionalGeneration"], "model_type": "gemma4_unified",
    **{name: value for name, value in CONFIG.items() if name.endswith("_id")}, "tie_word_embeddings": True,
    "audio_config": None,
    "text_config": {
        **{name: value for name, value in LARGE["text_config"].items() if "per_layer" not in name},
        "model_type": "gemma4_unified_text", "tie_word_embeddings": True, "num_kv_shared_layers": 1,
        "sliding_window": 11, "final_logit_softcapping": 4.0,
    },
    "vision_config": {
        "model_type": "gemma4_unified_vision", "patch_size": 3, "pooling_kernel_size": 2, "mm_embed_dim": 40,
        "mm_posemb_size": 75, "rms_norm_eps": 1e-5, "output_proj_dims": 40,
    },
}  # fmt: skip
"""Pixels without a tower; the tokens of an image see each other through windows that are shorter."""
ALONE = {
    **TEXT, "architectures": ["Gemma4ForCausalLM"], "vocab_size": 272, "vocab_size_per_layer_input": 272,
    "attention_bias": True, "num_attention_heads": 2, "per_layer_config": None, "global_head_dim": 20,
}  # fmt: skip
CASES = [
    PLAIN,
    replace(
        PLAIN,
        name="gemma4-vision",
        config=LARGE,
        image_text="<soft>",
        special=("<boi>", "<eoi>", "<soft>"),
        processor=PROCESSOR | {"patch_size": 3, "pooling_kernel_size": 2},
        hf_inputs=inputs_of(2, 3, 280),
    ),
    replace(
        PLAIN,
        name="gemma4-moe",
        config=SPARSE,
        processor=PROCESSOR | {"patch_size": 3, "pooling_kernel_size": 2},
        hf_inputs=inputs_of(2, 3, 280),
        conversations=("text", "one image", "two images, two turns"),
    ),
    replace(
        PLAIN,
        name="gemma4_unified",
        config=UNIFIED,
        processor=PROCESSOR
        | {
            "patch_size": 3,
            "pooling_kernel_size": 2,
            "image_processor_type": "Gemma4UnifiedImageProcessor",
            "processor_class": "Gemma4UnifiedProcessor",
        },
        hf_inputs=inputs_of(1, 6, 70, scaled=False),
    ),
    Case("gemma4-text", {k: v for k, v in ALONE.items() if k != "per_layer_config"}, conversations=("text",)),
]
