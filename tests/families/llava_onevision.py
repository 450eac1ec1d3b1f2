"""LLaVA-OneVision."""

from __future__ import annotations

from dataclasses import replace

from families import Case
from families.llava import QWEN2, SIGLIP, SIGLIP_PROCESSOR, old_name, older
from families.llava_next import NEXT, hf_inputs

PINPOINTS = [[44 * rows, 44 * columns] for rows in (1, 2, 3) for columns in (1, 2, 3)]
ONEVISION = NEXT | {
    "architectures": ["LlavaOnevisionForConditionalGeneration"], "model_type": "llava_onevision",
    "text_config": QWEN2 | {"tie_word_embeddings": False}, "vision_config": SIGLIP, "video_token_index": 273,
    "vision_feature_layer": -1, "vision_feature_select_strategy": "full", "vision_aspect_ratio": "anyres_max_9",
    "image_grid_pinpoints": PINPOINTS,
}  # fmt: skip
ONEVISION_PROCESSOR = SIGLIP_PROCESSOR | {
    "image_processor_type": "LlavaOnevisionImageProcessor", "image_grid_pinpoints": PINPOINTS, "do_pad": True,
}  # fmt: skip
PLAIN = Case(
    "llava_onevision",
    ONEVISION,
    ONEVISION_PROCESSOR,
    image_text="<image>\n",
    special=("<image>", "<video>"),
    hf_inputs=hf_inputs,
    old_config=older(ONEVISION),
    old_name=old_name,
)
SCALED = ONEVISION | {"vision_aspect_ratio": "anyres_max_2", "text_config": QWEN2, "tie_word_embeddings": True}
"""Features of more than two tiles scaled down; tied embeddings, as the text part alone said in transformers 4."""
CASES = [PLAIN, replace(PLAIN, name="llava_onevision-scaled", config=SCALED, old_config=older(SCALED))]
