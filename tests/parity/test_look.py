"""What `look` keeps against the attention that transformers computes (eager, all matrices)."""

from __future__ import annotations

import numpy as np
import pytest
from families import CONVERSATIONS, cases
from support import relative

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import rave_mlx  # noqa: E402
from parity import golden as reference  # noqa: E402
from rave_mlx.look import collect  # noqa: E402

NAMES = [
    "qwen2_5_vl", "qwen3_vl", "qwen3_vl_moe", "qwen2_vl-sliding", "llava", "llava_next", "llava_next-window",
    "llava_onevision", "internvl", "idefics3", "smolvlm", "paddleocr_vl-tied", "glm_ocr-bare", "glm4v",
    "hunyuan_vl-untied", "pixtral", "mistral3", "lighton_ocr-patches", "gemma3", "gemma3-untied",
    "gemma4", "gemma4-vision", "got_ocr2-tiled",
    "granite_docling", "deepseek_ocr2",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_first_token(name, tmp_path):
    case = cases()[name]
    model = reference.hf_model(case)
    folder = reference.checkpoint(case, model, tmp_path / "hf")
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder)
    lmm = rave_mlx.load(folder)
    for conversation in ("one image", "two images, two turns", "image between words"):
        messages = CONVERSATIONS[conversation]
        prompt = lmm.prepare(messages)
        with torch.no_grad():
            out = model(**reference.batch(case, [prompt]), output_attentions=True)
        last = np.stack([layer[0, :, -1].double().numpy() for layer in out.attentions])
        visual = prompt.token_map.visual
        seen = collect(lmm, messages, max_tokens=1)
        assert seen.weights.shape[1:] == (*last.shape[:2], visual.sum())
        assert relative(seen.weights[0], last[..., visual]) < 1e-3
        assert np.allclose(seen.mass[0].sum(axis=-1), 1, atol=1e-5)
        if not seen.sinks.any():
            assert np.allclose(seen.mass[0, ..., 0], last[..., visual].sum(axis=-1), atol=1e-4)
