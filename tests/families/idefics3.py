"""Idefics3: rows and columns written as plain text, as in Idefics3-8B."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from families import Case

SPECIAL = ("<fake_token_around_image>", "<image>", "<end_of_utterance>")
TEXT = {
    "model_type": "llama", "vocab_size": 276, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096, "eos_token_id": 2,
    "rms_norm_eps": 1e-5, "pad_token_id": 0, "bos_token_id": 1, "head_dim": 16, "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 5000.0},
}  # fmt: skip
VISION = {
    "model_type": "idefics3_vision", "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 3,
    "num_attention_heads": 3, "image_size": 32, "patch_size": 8,
}  # fmt: skip
CONFIG = {
    "architectures": ["Idefics3ForConditionalGeneration"], "model_type": "idefics3", "image_token_id": 273,
    "scale_factor": 2, "tie_word_embeddings": False, "text_config": TEXT, "vision_config": VISION,
}  # fmt: skip
PROCESSOR = {
    "size": {"longest_edge": 96}, "max_image_size": {"longest_edge": 32}, "do_image_splitting": True,
    "image_mean": [0.4, 0.5, 0.6], "image_std": [0.3, 0.25, 0.2],
}  # fmt: skip


def tiles(image, size):
    """Tiles (n, 3, size, size) of an image; what no patch covers is 0."""
    count, rows, columns = image.grid
    patch = round((image.pixels.shape[1] / 3) ** 0.5)
    found = image.pixels.reshape(count, rows, columns, 3, patch, patch).transpose(0, 3, 1, 4, 2, 5)
    whole = np.zeros((count, 3, size, size), np.float32)
    whole[:, :, : rows * patch, : columns * patch] = found.reshape(count, 3, rows * patch, columns * patch)
    return whole


def inputs_of(size):
    """The model's inputs: tiles of each prompt, filled up with black ones, which it leaves out."""

    def hf_inputs(prompts):
        shown = [[tile for image in prompt.images for tile in tiles(image, size)] for prompt in prompts]
        pixels = np.zeros((len(prompts), max(map(len, shown)), 3, size, size), np.float32)
        for row, found in zip(pixels, shown, strict=True):
            row[: len(found)] = np.reshape(found, (-1, 3, size, size))
        return {"pixel_values": pixels} if pixels.size else {}

    return hf_inputs


def old(config):
    """The configuration as transformers 4 wrote it: without what its classes default to."""
    text = dict(config["text_config"])
    text["rope_theta"] = text.pop("rope_parameters")["rope_theta"]
    for key in ("tie_word_embeddings", "bos_token_id", "eos_token_id"):
        text.pop(key, None)
    rest = {k: v for k, v in config.items() if k not in ("scale_factor", "text_config")}
    return {**rest, "text_config": text} | ({"scale_factor": s} if (s := config["scale_factor"]) != 2 else {})


PLAIN = Case(
    "idefics3",
    CONFIG,
    PROCESSOR,
    image_text="<image>",
    special=SPECIAL,
    hf_inputs=inputs_of(32),
    old_config=old(CONFIG),
)
WHOLE = PROCESSOR | {"do_image_splitting": False}
CASES = [PLAIN, replace(PLAIN, name="idefics3-whole", processor=WHOLE)]
