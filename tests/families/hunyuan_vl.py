"""HunyuanOCR."""

from __future__ import annotations

import numpy as np

from families import Case
from families.paddleocr_vl import raster

TEXT = {
    "model_type": "hunyuan_vl_text", "vocab_size": 272, "hidden_size": 48, "intermediate_size": 80,
    "num_hidden_layers": 3, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "max_position_embeddings": 4096, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "rms_norm_eps": 1e-5,
    "attention_bias": False, "tie_word_embeddings": True,
    "rope_parameters": {"rope_type": "dynamic", "type": "dynamic", "rope_theta": 5000.0, "alpha": 50.0, "factor": 1.0,
                        "beta_fast": 32, "beta_slow": 1, "mscale": 1.0, "mscale_all_dim": 1.0,
                        "mrope_section": [2, 2, 2, 2]},
}  # fmt: skip
VISION = {
    "model_type": "hunyuan_vl_vision", "num_hidden_layers": 3, "hidden_size": 42, "intermediate_size": 72,
    "num_attention_heads": 3, "max_image_size": 44, "patch_size": 8, "hidden_act": "gelu", "rms_norm_eps": 1e-5,
    "spatial_merge_size": 2, "interpolate_mode": "bilinear", "temporal_patch_size": 1, "out_hidden_size": 48,
    "text_hidden_size": 48,
}  # fmt: skip
CONFIG = {
    "architectures": ["HunYuanVLForConditionalGeneration"], "model_type": "hunyuan_vl", "image_token_id": 6,
    "im_start_id": 3, "im_end_id": 4, "tie_word_embeddings": True, "text_config": TEXT, "vision_config": VISION,
}  # fmt: skip
UNTIED = CONFIG | {
    "tie_word_embeddings": False,
    "text_config": TEXT | {
        "attention_bias": True, "intermediate_size": 96, "num_key_value_heads": 4, "head_dim": 20,
        "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "mrope_section": [5, 2, 3]},
    },
    "vision_config": VISION | {
        "spatial_merge_size": 3, "max_image_size": 130, "interpolate_mode": "bicubic",
        "hidden_act": "gelu_pytorch_tanh",
    },
}  # fmt: skip
"""Untied, with biases, three axes, cells of nine patches, and a large table."""
PROCESSOR = {
    "image_processor_type": "HunYuanVLImageProcessor", "patch_size": 8, "merge_size": 2, "temporal_patch_size": 1,
    "min_pixels": 1024, "max_pixels": 1 << 18, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.3, 0.25, 0.2],
    "resample": 1,
}  # fmt: skip


def inputs_of(merge):
    """Patches, row by row, and grids of all images."""

    def hf_inputs(prompts):
        images = [image for prompt in prompts for image in prompt.images]
        if not images:
            return {}
        patches = [raster(image, merge) for image in images]
        return {
            "pixel_values": np.concatenate([x.reshape(len(x), -1) for x in patches]),
            "image_grid_thw": np.array([image.grid for image in images]),
        }

    return hf_inputs


def flat(config):
    """The configuration as the model's own code writes it."""
    text = dict(config["text_config"])
    rope = dict(text.pop("rope_parameters"))
    text.pop("model_type")
    text |= {"attention_head_dim": text["head_dim"], "org_vocab_size": text["vocab_size"], "pad_id": 0}
    rope["xdrope_section"] = [float(n) for n in rope.pop("mrope_section")]
    if rope["rope_type"] == "dynamic":
        rope |= {"rope_type": "xdrope", "type": "xdrope"}
    theta = rope.pop("rope_theta")
    rest = {k: v for k, v in config.items() if k != "text_config"}
    return {**text, **rest, "tie_word_embeddings": False, "rope_theta": theta, "rope_scaling": rope}


def old_name(name):
    """A parameter's name in the model's own code."""
    name = name.replace("model.language_model.", "model.").replace("model.vision_tower.", "vit.")
    if name.startswith("vit."):
        name = name.replace("mlp.fc1", "mlp.dense_h_to_4h").replace("mlp.fc2", "mlp.dense_4h_to_h")
        name = name.replace("layer_norm1", "input_layernorm").replace("layer_norm2", "post_attention_layernorm")
        name = name.replace("patch_merger.proj_conv", "perceive.proj.0").replace(
            "patch_merger.proj_out", "perceive.proj.2"
        )
        name = name.replace("patch_merger.", "perceive.")
    return name


def case(name, config, merge):
    return Case(
        name,
        config,
        PROCESSOR | {"merge_size": merge},
        image_text="<|vision_start|><|image_pad|><|vision_end|>",
        hf_inputs=inputs_of(merge),
        old_config=flat(config),
        old_name=old_name,
    )


PLAIN = case("hunyuan_vl", CONFIG, 2)
CASES = [PLAIN, case("hunyuan_vl-untied", UNTIED, 3)]
