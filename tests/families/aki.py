"""AKI. transformers has no such model: tests/parity/aki_reference.py composes one; see tests/models/test_aki.py."""

from __future__ import annotations

from safetensors.numpy import save_file

from families import Case, draw, golden, write_files

TEXT = {
    "model_type": "phi3", "vocab_size": 288, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
    "original_max_position_embeddings": 180, "rope_theta": 10000.0, "sliding_window": 4096, "pad_token_id": 0,
    # Factors that float32 holds exactly, as Phi-3.5's are: transformers rounds them.
    "rope_scaling": {
        "type": "longrope",
        "short_factor": [1.0, 1.0, 1.03125, 1.0625, 1.25, 1.375, 1.875, 2.125],
        "long_factor": [1.125, 1.25, 1.875, 3.25, 5.125, 6.25, 7.25, 7.875],
    },
}  # fmt: skip
VISION = {
    "model_type": "siglip_vision_model", "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3,
    "num_attention_heads": 4, "image_size": 45, "patch_size": 6,
}  # fmt: skip
CONFIG = {
    "vision_encoder_path": "google/siglip-so400m-patch14-384", "lang_model_path": "microsoft/Phi-3.5-mini-instruct",
    "initial_tokenizer_len": 278, "pad_token_id": 277, "num_vision_tokens": 9, "base_img_size": None,
    "decoder_layers_attr_name": "model.layers", "gradient_checkpointing": False,
    "text_config": TEXT, "vision_config": VISION,
}  # fmt: skip
"""The arguments of the model's constructor, and what the two paths would hold."""

CASE = Case(
    "aki",
    CONFIG,
    image_text="<image>",
    special=("<s>", "<|assistant|>", "<|system|>", "<|end|>", "<|user|>", "<pad>", "<image>", "<|endofchunk|>"),
)
CASES: list[Case] = []


def write_released(folder, case=CASE, tensors=None):
    """The checkpoint as released: no chat template, no settings of an image processor, no generation settings."""
    write_files(case, folder, case.config)
    (folder / "chat_template.jinja").unlink()
    shapes, _ = golden(CASE)
    save_file(tensors or {n: draw(n, s) for n, s in shapes.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder
