"""SmolVLM: a token for every row and column, tiles that patches do not fill, embeddings that serve as the head."""

from __future__ import annotations

from families import Case
from families.idefics3 import CONFIG as IDEFICS3
from families.idefics3 import PROCESSOR, TEXT, VISION, inputs_of, old

ROWS = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
SPECIAL = ("<global-img>", *ROWS, "<fake_token_around_image>", "<image>", "<end_of_utterance>")
CONFIG = IDEFICS3 | {
    "architectures": ["SmolVLMForConditionalGeneration"], "model_type": "smolvlm", "image_token_id": 290,
    "scale_factor": 3, "tie_word_embeddings": True,
    "text_config": TEXT | {"vocab_size": 292, "num_key_value_heads": 4, "tie_word_embeddings": True},
    "vision_config": VISION | {
        "model_type": "smolvlm_vision", "image_size": 38, "patch_size": 6, "hidden_act": "gelu", "layer_norm_eps": 1e-5,
    },
}  # fmt: skip


def old_name(name):
    """A parameter's name in MLX packages."""
    name = name.replace("model.text_model.", "language_model.").replace("lm_head.", "language_model.lm_head.")
    return name.removeprefix("model.")


CASES = [
    Case(
        "smolvlm",
        CONFIG,
        PROCESSOR | {"size": {"longest_edge": 114}, "max_image_size": {"longest_edge": 38}},
        image_text="<image>",
        special=SPECIAL,
        hf_inputs=inputs_of(38),
        old_config=old(CONFIG),
        old_name=old_name,
    )
]
