"""LLaVA-NeXT."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from families import Case
from families.llava import CLIP, CONFIG, LLAMA, PROCESSOR, QWEN2, old_name, older, tiles

MISTRAL = {
    **LLAMA, "model_type": "mistral", "num_key_value_heads": 2, "rms_norm_eps": 1e-6, "sliding_window": None,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}  # fmt: skip
PINPOINTS = [[44, 88], [88, 44], [88, 88], [132, 44], [44, 132]]
NEXT = {k: v for k, v in CONFIG.items() if k != "image_seq_length"} | {
    "architectures": ["LlavaNextForConditionalGeneration"], "model_type": "llava_next", "text_config": MISTRAL,
    "image_grid_pinpoints": PINPOINTS,
}  # fmt: skip
NEXT_PROCESSOR = PROCESSOR | {
    "image_processor_type": "LlavaNextImageProcessor", "image_grid_pinpoints": PINPOINTS, "do_pad": True,
}  # fmt: skip


def hf_inputs(prompts):
    """Every image as tiles, filled up to one number of them, and its size."""
    images = [image for prompt in prompts for image in prompt.images]
    if not images:
        return {}
    most = max(image.grid[0] for image in images)
    filled = [np.pad(tiles(image, 44), [(0, most - image.grid[0]), (0, 0), (0, 0), (0, 0)]) for image in images]
    return {"pixel_values": np.stack(filled), "image_sizes": np.array([image.size[::-1] for image in images])}


PLAIN = Case(
    "llava_next",
    NEXT,
    NEXT_PROCESSOR,
    image_text="<image>\n",
    special=("<image>",),
    hf_inputs=hf_inputs,
    old_config=older(NEXT) | {"use_image_newline_parameter": True},
    old_name=old_name,
)
WINDOW = NEXT | {"text_config": MISTRAL | {"sliding_window": 24}, "vision_feature_layer": [1, -2]}
"""A sliding window shorter than an image, and the states of two layers."""
VICUNA = NEXT | {"text_config": LLAMA, "vision_config": CLIP | {"patch_size": 14}}
QWEN = NEXT | {"text_config": QWEN2 | {"tie_word_embeddings": False}}
CASES = [
    PLAIN,
    replace(PLAIN, name="llava_next-window", config=WINDOW, old_config=older(WINDOW)),
    replace(PLAIN, name="llava_next-vicuna", config=VICUNA, old_config=older(VICUNA)),
    replace(PLAIN, name="llava_next-qwen2", config=QWEN, old_config=older(QWEN)),
]
