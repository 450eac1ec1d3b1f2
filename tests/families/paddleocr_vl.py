"""PaddleOCR-VL."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from families import Case

TEXT = {
    "model_type": "paddleocr_vl_text", "vocab_size": 272, "hidden_size": 48, "intermediate_size": 80,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "rms_norm_eps": 1e-5,
    "use_bias": False, "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0, "mrope_section": [2, 3, 3]},
}  # fmt: skip
VISION = {
    "model_type": "paddleocr_vl_vision", "num_hidden_layers": 3, "hidden_size": 48, "intermediate_size": 72,
    "num_attention_heads": 3, "image_size": 44, "patch_size": 8, "hidden_act": "gelu_pytorch_tanh",
    "layer_norm_eps": 1e-6, "spatial_merge_size": 2,
}  # fmt: skip
CONFIG = {
    "architectures": ["PaddleOCRVLForConditionalGeneration"], "model_type": "paddleocr_vl", "image_token_id": 6,
    "video_token_id": 7, "vision_start_token_id": 3, "vision_end_token_id": 4, "tie_word_embeddings": False,
    "text_config": TEXT, "vision_config": VISION,
}  # fmt: skip
PROCESSOR = {
    "image_processor_type": "PaddleOCRVLImageProcessor", "patch_size": 8, "merge_size": 2, "temporal_patch_size": 1,
    "min_pixels": 256, "max_pixels": 1 << 18, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5],
}  # fmt: skip


def raster(image, merge=2):
    """Patches (n, 3, side, side) row by row, as transformers' processor gives them."""
    _, rows, columns = image.grid
    side = round((image.pixels.shape[1] / 3) ** 0.5)
    cells = image.pixels.reshape(rows // merge, columns // merge, merge, merge, 3, side, side)
    return cells.swapaxes(1, 2).reshape(rows * columns, 3, side, side)


def inputs_of(merge):
    """Patches and grids of all images."""

    def hf_inputs(prompts):
        images = [image for prompt in prompts for image in prompt.images]
        if not images:
            return {}
        return {
            "pixel_values": np.concatenate([raster(image, merge) for image in images]),
            "image_grid_thw": np.array([image.grid for image in images]),
        }

    return hf_inputs


def flat(config):
    """The configuration as the model's own code writes it: without ties, which it does not know."""
    text = dict(config["text_config"])
    rope = text.pop("rope_parameters")
    text.pop("model_type")
    scaling = {"type": "default", "rope_type": "default", "mrope_section": rope["mrope_section"]}
    vision = config["vision_config"] | {"model_type": "paddleocr_vl", "tokens_per_second": 2, "temporal_patch_size": 2}
    rest = {k: v for k, v in config.items() if k != "text_config"} | {"vision_config": vision}
    return {**text, **rest, "tie_word_embeddings": False, "rope_theta": rope["rope_theta"], "rope_scaling": scaling}


def old_name(name):
    """A parameter's name in the model's own code."""
    name = name.replace("model.language_model.", "model.").replace("model.visual.", "visual.")
    return name.replace("model.projector.", "mlp_AR.")


PLAIN = Case(
    "paddleocr_vl",
    CONFIG,
    PROCESSOR,
    image_text="<|vision_start|><|image_pad|><|vision_end|>",
    hf_inputs=inputs_of(2),
    old_config=flat(CONFIG),
    old_name=old_name,
)
TIED = CONFIG | {
    "tie_word_embeddings": True,
    "text_config": TEXT | {"use_bias": True, "num_key_value_heads": 4, "head_dim": 24, "tie_word_embeddings": True}
    | {"rope_parameters": TEXT["rope_parameters"] | {"mrope_section": [4, 4, 4]}},
    "vision_config": VISION | {
        "spatial_merge_size": 3, "image_size": 200, "hidden_act": "gelu", "layer_norm_eps": 1e-5,
        "rope_parameters": {"rope_type": "axial", "rope_theta": 700.0},
    },
}  # fmt: skip
"""Tied, with biases everywhere, another rotary base of the tower, cells of nine patches, and a large table."""
CASES = [
    PLAIN,
    replace(
        PLAIN, name="paddleocr_vl-tied", config=TIED, processor=PROCESSOR | {"merge_size": 3}, hf_inputs=inputs_of(3),
        old_config=flat(TIED),
    ),
]  # fmt: skip
