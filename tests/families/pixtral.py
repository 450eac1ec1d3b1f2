"""Pixtral in LLaVA's layout, Mistral Small 3.1 (mistral3) and LightOnOCR: one vision tower, three models."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from families import Case

IMAGE, ROW, END = 272, "[IMG_BREAK]", "[IMG_END]"
MISTRAL = {
    "model_type": "mistral", "vocab_size": 276, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24, "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2, "sliding_window": None, "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}  # fmt: skip
QWEN3 = {
    "model_type": "qwen3", "vocab_size": 272, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6, "eos_token_id": 2, "use_sliding_window": False, "sliding_window": None,
    "tie_word_embeddings": True, "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
}  # fmt: skip
VISION = {
    "model_type": "pixtral", "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 4,
    "num_attention_heads": 4, "image_size": 96, "patch_size": 8, "hidden_act": "silu",
    "rope_parameters": {"rope_type": "axial", "rope_theta": 10000.0},
}  # fmt: skip
LLAVA = {
    "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "image_token_index": IMAGE,
    "projector_hidden_act": "gelu", "vision_feature_layer": -1, "vision_feature_select_strategy": "full",
    "multimodal_projector_bias": True, "tie_word_embeddings": False, "text_config": MISTRAL, "vision_config": VISION,
}  # fmt: skip
MISTRAL3 = {
    "architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "image_token_index": IMAGE,
    "projector_hidden_act": "gelu", "vision_feature_layer": -1, "multimodal_projector_bias": False,
    "spatial_merge_size": 2, "tie_word_embeddings": False, "text_config": MISTRAL, "vision_config": VISION,
}  # fmt: skip
LIGHTON = {
    "architectures": ["LightOnOcrForConditionalGeneration"], "model_type": "lighton_ocr", "image_token_id": 6,
    "spatial_merge_size": 2, "tie_word_embeddings": True, "text_config": QWEN3, "vision_config": VISION,
}  # fmt: skip
PROCESSOR = {
    "image_processor_type": "PixtralImageProcessor", "do_resize": True, "size": {"longest_edge": 96}, "resample": 3,
    "patch_size": {"height": 8, "width": 8}, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
    "do_convert_rgb": True, "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}  # fmt: skip
CELLS = PROCESSOR | {"patch_size": {"height": 16, "width": 16}}
_TOKENS = ("[IMG]", ROW, END)


def picture_of(image, patch, merge):
    """An image (3, height, width) from its patches, which come cell by cell, those outside of cells last."""
    _, rows, columns = image.grid
    whole = np.zeros((rows, columns, 3, patch, patch), np.float32)
    high, wide = rows - rows % merge, columns - columns % merge
    places = [
        (row + inner, column + across)
        for row in range(0, high, merge)
        for column in range(0, wide, merge)
        for inner in range(merge)
        for across in range(merge)
    ]
    places += [(r, c) for r in range(rows) for c in range(columns) if r >= high or c >= wide]
    for place, levels in zip(places, image.pixels, strict=True):
        whole[place] = levels.reshape(3, patch, patch)
    return whole.transpose(2, 0, 3, 1, 4).reshape(3, rows * patch, columns * patch)


def inputs_of(patch, merge):
    """The model's inputs: images padded at the right and bottom to one size, and their own sizes."""

    def hf_inputs(prompts):
        images = [picture_of(image, patch, merge) for prompt in prompts for image in prompt.images]
        if not images:
            return {}
        sizes = np.array([image.shape[1:] for image in images], np.int64)
        pixels = np.zeros((len(images), 3, *sizes.max(axis=0)), np.float32)
        for row, image in zip(pixels, images, strict=True):
            row[:, : image.shape[1], : image.shape[2]] = image
        return {"pixel_values": pixels, "image_sizes": sizes}

    return hf_inputs


def older(config, *dropped):
    """The configuration as transformers 4 wrote it: rotary settings of that time, defaults left out."""
    text, vision = dict(config["text_config"]), dict(config["vision_config"])
    text["rope_theta"] = text.pop("rope_parameters")["rope_theta"]
    vision["rope_theta"] = vision.pop("rope_parameters")["rope_theta"]
    vision |= {"head_dim": vision["hidden_size"] // vision["num_attention_heads"]}
    return {k: v for k, v in config.items() if k not in dropped} | {"text_config": text, "vision_config": vision}


def old_name(name):
    """A parameter's name in transformers 4."""
    for modern, old in (
        ("model.language_model.", "language_model.model."),
        ("lm_head.", "language_model.lm_head."),
        ("model.", ""),
    ):
        if name.startswith(modern):
            return old + name.removeprefix(modern)
    raise AssertionError(name)


PIXTRAL = Case(
    "pixtral",
    LLAVA,
    PROCESSOR,
    image_text="[IMG]",
    special=_TOKENS,
    hf_inputs=inputs_of(8, 1),
    old_config=older(LLAVA, "multimodal_projector_bias", "tie_word_embeddings"),
    old_name=old_name,
)
STATES = LLAVA | {
    "vision_feature_layer": [0, -2], "multimodal_projector_bias": False, "projector_hidden_act": "silu",
    "vision_config": VISION | {
        "patch_size": 7, "num_attention_heads": 8, "hidden_act": "gelu",
        "rope_parameters": {"rope_type": "axial", "rope_theta": 500.0},
    },
}  # fmt: skip
"""Two states side by side, heads of an odd number of frequencies, another base, patches of 7 pixels."""
SMALL = Case(
    "mistral3",
    MISTRAL3,
    PROCESSOR,
    image_text="[IMG]",
    special=_TOKENS,
    hf_inputs=inputs_of(8, 2),
    old_config=older(MISTRAL3, "tie_word_embeddings"),
    old_name=old_name,
)
TRIPLE = MISTRAL3 | {
    "spatial_merge_size": 3, "vision_feature_layer": [-2], "multimodal_projector_bias": True,
    "tie_word_embeddings": True, "text_config": QWEN3 | {"vocab_size": 280},
}  # fmt: skip
"""Three patches a side of a cell, a state before the last, tied, Qwen3."""
MINISTRAL = MISTRAL3 | {
    "text_config": {k: v for k, v in MISTRAL.items() if k != "rope_parameters"} | {
        "model_type": "ministral3", "max_position_embeddings": 512,
        "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 1000.0, "factor": 16.0, "original_max_position_embeddings": 16,
            "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.4,
        },
    },
}  # fmt: skip
"""Ministral 3: queries grow with every 16 positions."""


def placed(prompts):
    """With positions that padding does not count in, as transformers' `generate` makes them: here they matter."""
    length, shown = max(map(len, prompts)), inputs_of(8, 2)(prompts)
    if all(len(prompt) == length for prompt in prompts):
        return shown
    rows = [np.maximum(np.arange(length) - (length - len(prompt)), 0) for prompt in prompts]
    return shown | {"position_ids": np.stack(rows).astype(np.int64)}


READER = Case(
    "lighton_ocr",
    LIGHTON,
    CELLS,
    image_text="<|image_pad|>",
    hf_inputs=inputs_of(8, 2),
    old_config=older(LIGHTON),
    old_name=lambda name: name,
)
CASES = [
    PIXTRAL,
    replace(
        PIXTRAL,
        name="pixtral-states",
        config=STATES,
        processor=PROCESSOR | {"size": {"height": 60, "width": 110}, "patch_size": {"height": 7, "width": 7}},
        hf_inputs=inputs_of(7, 1),
        old_config=older(STATES),
    ),
    SMALL,
    replace(SMALL, name="mistral3-triple", config=TRIPLE, hf_inputs=inputs_of(8, 3), old_config=older(TRIPLE)),
    replace(SMALL, name="mistral3-ministral", config=MINISTRAL, old_config=None, hf_inputs=placed),
    READER,
    replace(
        READER,
        name="lighton_ocr-patches",
        processor=PROCESSOR,
        config=LIGHTON | {"tie_word_embeddings": False, "text_config": QWEN3 | {"tie_word_embeddings": False}},
        old_config=None,
    ),
]
"""`lighton_ocr-patches`: sides are whole patches, so that some fill no cell."""
