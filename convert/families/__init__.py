"""One module a model family: how its configuration translates and where its tensors lie.

One direction is enough: the runtime knows the canonical names it expects and looks each of them up; export writes
them where they were found.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rave_mlx.convert.families import (
    aki,
    deepseek_ocr2,
    deepseek_published,
    gemma3,
    gemma4,
    gemma4_unified,
    glm4v,
    glm_ocr,
    got_ocr2,
    granite_docling,
    hunyuan_vl,
    idefics3,
    internvl,
    lighton_ocr,
    llava,
    llava_next,
    llava_onevision,
    mistral3,
    paddleocr_vl,
    qwen2_5_vl,
    qwen2_vl,
    qwen3_5,
    qwen3_5_moe,
    qwen3_vl,
    qwen3_vl_moe,
    text_only,
)
from rave_mlx.convert.families.aki_parts import describes
from rave_mlx.convert.families.base import Family
from rave_mlx.convert.families.text import BACKBONES, EXPERT_BACKBONES
from rave_mlx.errors import ModelError

FAMILIES: dict[str, Family] = {
    "qwen2_vl": qwen2_vl.FAMILY,
    "qwen2_5_vl": qwen2_5_vl.FAMILY,
    "qwen3_vl": qwen3_vl.FAMILY,
    "qwen3_vl_moe": qwen3_vl_moe.FAMILY,
    "qwen3_5": qwen3_5.FAMILY,
    "qwen3_5_text": qwen3_5.TEXT_FAMILY,
    "qwen3_5_moe": qwen3_5_moe.FAMILY,
    "qwen3_5_moe_text": qwen3_5_moe.TEXT_FAMILY,
    "llava": llava.FAMILY,
    "llava_next": llava_next.FAMILY,
    "llava_onevision": llava_onevision.FAMILY,
    "got_ocr2": got_ocr2.FAMILY,
    "deepseek_ocr2": deepseek_ocr2.FAMILY,
    "granite_docling": granite_docling.FAMILY,
    "gemma3": gemma3.FAMILY,
    "gemma3_text": gemma3.TEXT_FAMILY,
    "gemma4": gemma4.FAMILY,
    "gemma4_text": gemma4.TEXT_FAMILY,
    "gemma4_unified": gemma4_unified.FAMILY,
    "gemma4_unified_text": gemma4_unified.TEXT_FAMILY,
    "mistral3": mistral3.FAMILY,
    "lighton_ocr": lighton_ocr.FAMILY,
    "idefics3": idefics3.FAMILY,
    "smolvlm": idefics3.FAMILY,
    "internvl": internvl.FAMILY,
    "aki": aki.FAMILY,
    "paddleocr_vl": paddleocr_vl.FAMILY,
    "glm_ocr": glm_ocr.FAMILY,
    "glm4v": glm4v.FAMILY,
    "glm46v": glm4v.FAMILY,
    "hunyuan_vl": hunyuan_vl.FAMILY,
    **dict.fromkeys(BACKBONES, text_only.FAMILY),
    **dict.fromkeys(EXPERT_BACKBONES, text_only.EXPERT_FAMILY),
}
"""By `model_type` of config.json."""

_ELSEWHERE = {
    "internvl_chat": "the original layout of InternVL is not read; take the same model in the layout of transformers, "
    "whose name ends in -hf (OpenGVLab/InternVL3-2B-hf, say)",
}
"""What to take in place of a model type that is not read."""


def detect(config: Mapping[str, Any], where: str) -> Family:
    """The family of a checkpoint's configuration.

    Raises:
        ModelError: for a model type that is not supported; the message lists those that are.
    """
    name = "aki" if describes(config) else config.get("model_type")
    name = "deepseek_ocr2" if deepseek_published.describes(config) else name
    if isinstance(name, str) and name in _ELSEWHERE:
        raise ModelError(f"{where}: {_ELSEWHERE[name]}")
    if not isinstance(name, str) or name not in FAMILIES:
        raise ModelError(f"{where}: model type {name!r} is not supported; supported: {', '.join(FAMILIES)}")
    return FAMILIES[name]
