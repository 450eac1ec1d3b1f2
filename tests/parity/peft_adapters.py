"""Adapters that the peft package makes on tiny transformers models, and the logits that peft gives with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from families import CONVERSATIONS, Case, cases

import rave_mlx
from parity import golden as reference
from rave_mlx.inputs.prompt.prompt import Prompt


@dataclass
class Made:
    """A base checkpoint with an adapter for it, both on disk.

    Attributes:
        case: the tiny model.
        base, adapter: their folders.
        prompt: what is asked.
        logits: what peft answers, (1, L, vocab).
    """

    case: Case
    base: Path
    adapter: Path
    prompt: Prompt
    logits: np.ndarray = field(repr=False)

    @torch.no_grad()
    def peft_logits(self, adapter: Path) -> np.ndarray:
        """What peft answers with an adapter on this base."""
        model = peft.PeftModel.from_pretrained(reference.hf_model(self.case), adapter).eval()
        return model(**reference.batch(self.case, [self.prompt])).logits.numpy()


@torch.no_grad()
def make(folder: Path, name: str, **settings: Any) -> Made:
    """Save an adapter of random weights with `LoraConfig(r=4, lora_alpha=6, **settings)`, and ask peft once more."""
    case = cases()[name]
    model = reference.hf_model(case)
    base = reference.checkpoint(case, model, folder / "base")
    torch.manual_seed(3)
    model = peft.get_peft_model(model, peft.LoraConfig(**{"r": 4, "lora_alpha": 6} | settings))
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(folder / "peft")
    prompt = rave_mlx.load(base).prepare(CONVERSATIONS[next(iter(case.conversations))])
    made = Made(case, base, folder / "peft", prompt, np.empty(0))
    made.logits = made.peft_logits(folder / "peft")
    return made
