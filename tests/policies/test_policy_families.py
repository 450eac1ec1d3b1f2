"""Every method on a tiny checkpoint of every family: it answers, differently where it should, or says why it cannot."""

from __future__ import annotations

import pytest
from families import cases, write_checkpoint
from support import ask, picture, relative

import rave_mlx
from rave_mlx.chat.session import Session
from rave_mlx.errors import UsageError
from rave_mlx.policies.methods.act import ACT
from rave_mlx.policies.methods.aif import AIF
from rave_mlx.policies.methods.debias import Debias
from rave_mlx.policies.methods.dyvte import DyVTE
from rave_mlx.policies.methods.ee_mllm import EEMLLM
from rave_mlx.policies.methods.gift import GIFT
from rave_mlx.policies.methods.iri import IRI
from rave_mlx.policies.methods.paint import PAI, PAINT
from rave_mlx.policies.methods.vflowopt import VFlowOpt
from rave_mlx.policies.methods.vhr import VHR
from rave_mlx.policies.methods.visiondrop import VisionDrop
from rave_mlx.policies.runtime import attach

ONE_EACH = ["idefics3", "internvl", "llava", "llava_next", "llava_onevision", "qwen2_5_vl", "qwen2_vl", "qwen3_vl",
            "qwen3_vl_moe", "paddleocr_vl", "glm_ocr", "glm4v", "hunyuan_vl", "pixtral", "mistral3", "lighton_ocr",
            "gemma3", "gemma4", "gemma4-vision", "got_ocr2", "qwen3_5-tied", "granite_docling",
            "deepseek_ocr2"]  # fmt: skip


@pytest.mark.parametrize("name", [*ONE_EACH, "smolvlm", "qwen2"])
def test_every_method_answers_or_says_why_not(name, tmp_path):
    lmm = rave_mlx.load(write_checkpoint(cases()[name], tmp_path))
    sees = lmm.config.vision is not None
    question = ask("What is the total?", picture(100, 60)) if sees else {"role": "user", "content": "How are you?"}
    count = len(lmm.config.text.attention_layers)
    every = {"first": 0, "last": count - 1, "of": count}
    rates = tuple(0.1 + 0.2 * i for i in range(count))
    prompt = lmm.prepare([question])
    plain = lmm.logits(prompt)[:, -1]
    for policy in (
        GIFT(**every),
        ACT(**every, alpha=1.5),
        VHR(),
        PAI(**every),
        PAINT(**every),
        AIF(),
        EEMLLM(),
        IRI(rates, rates, sources=count, targets=count, of=count),
        DyVTE(exit=0),
        Debias(4),
        VisionDrop(dominant=(4, 3, 2), contextual=(1, 1, 1)),
        VFlowOpt(later=(0.5, 0.5)),
    ):
        takes = (sees or isinstance(policy, ACT | IRI)) and (not isinstance(policy, PAINT) or name == "llava")
        takes = takes and not (isinstance(policy, VFlowOpt) and sees and lmm.config.vision.kind != "tiles")
        drops = isinstance(policy, DyVTE | Debias | VisionDrop)
        takes = takes and not (drops and lmm.config.text.borrowed_layers)
        if not takes:
            with pytest.raises(UsageError, match=f"^--attention {policy.name}: .*this") as caught:
                Session(lmm, policy=policy)
            assert "\n" not in str(caught.value)
            continue
        session = Session(lmm, policy=policy, max_tokens=3)
        assert 1 <= len(list(session.answer([question]))) <= 3
        assert relative(lmm.logits(prompt, hooks=attach(lmm, [policy]))[:, -1], plain) > 1e-5
