"""Tiny checkpoints of every model family, for tests with and without torch.

A `Case` says what a checkpoint's files hold. Its weights are drawn by name with NumPy, so that the plain test run
writes the very checkpoint that transformers ran when `tests/golden/` was made (`python tests/parity/golden.py`).
"""

from __future__ import annotations

import hashlib
import importlib
import json
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file
from support import ask, picture

from rave_mlx.checkpoint.directory import BUILT_IN

GOLDEN = Path(__file__).parent.parent / "golden"
POSITIONS = 6
"""Positions of a prompt at which golden logits are kept: evenly spread, the last one included."""

CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "text": [{"role": "user", "content": "How are you?"}],
    "one image": [ask("What is the total?", picture(200, 120))],
    "odd size": [ask("Read.", picture(333, 77))],
    "two images, two turns": [
        ask("Compare.", picture(64, 160, 1), picture(97, 33, 2)),
        {"role": "assistant", "content": "They differ."},
        ask("How?", picture(48, 48, 3)),
    ],
    "image between words": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "First this"},
                {"type": "image", "image": picture(70, 90, 4)},
                {"type": "text", "text": "then that"},
                {"type": "image", "image": picture(120, 40, 5)},
            ],
        }
    ],
}
"""Prompts that every family with images answers; text-only ones answer the first."""

TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.content is string %}{{ m.content }}{% else %}"
    "{% for part in m.content %}{% if part.type == 'image' %}IMAGE{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""A chat template; IMAGE is replaced by the text that stands for an image."""


@dataclass(frozen=True)
class Case:
    """One tiny checkpoint.

    Attributes:
        name: of the case and its golden file.
        config: config.json as transformers 5 writes it.
        processor: preprocessor_config.json; empty for none.
        image_text: what the chat template writes for an image.
        special: control tokens added to the built-in model's tokenizer, with ids from 272 on.
        hf_inputs: NumPy inputs of the transformers model for prompts, besides ids and attention mask.
        old_config: config.json as transformers 4 wrote it, or None.
        old_name: a tensor's name in such a checkpoint, from transformers 5's parameter name.
        files: further files, name to text.
        conversations: names of the CONVERSATIONS it answers.
        hf_class: class of transformers; None for the one that AutoModelForImageTextToText or -CausalLM finds.
    """

    name: str
    config: dict[str, Any]
    processor: dict[str, Any] = field(default_factory=dict)
    image_text: str = ""
    special: tuple[str, ...] = ()
    hf_inputs: Callable[[Sequence[Any]], dict[str, np.ndarray]] = lambda prompts: {}
    old_config: dict[str, Any] | None = None
    old_name: Callable[[str], str] | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    conversations: tuple[str, ...] = tuple(CONVERSATIONS)
    hf_class: str | None = None


def cases() -> dict[str, Case]:
    """All cases by name: the CASES of every module in this folder."""
    found: dict[str, Case] = {}
    for module in pkgutil.iter_modules(__path__):
        for case in importlib.import_module(f"families.{module.name}").CASES:
            assert case.name not in found, case.name
            found[case.name] = case
    return found


def draw(name: str, shape: Sequence[int]) -> np.ndarray:
    """The weights called `name`: large enough for sharp attention, the same on every machine."""
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]))
    if name.endswith(("_min", "_max")):  # bounds that clip some numbers and leave most
        return np.asarray(rng.uniform(1.0, 2.0) * (-1 if name.endswith("_min") else 1), np.float32)
    if name.endswith(("layer_scalar", "router.scale", "per_expert_scale")):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) == 1 and ("norm" in name or "ln_" in name) and name.endswith("weight"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) == 1:
        return rng.normal(0, 0.3, shape).astype(np.float32)
    return rng.normal(0, 1.2 * np.prod(shape[1:]) ** -0.5, shape).astype(np.float32)


def write_files(case: Case, folder: Path, config: Mapping[str, Any]) -> None:
    """Everything of a checkpoint but its weights."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    if case.processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(case.processor, indent=2))
    tokenizer = json.loads((BUILT_IN / "tokenizer.json").read_text())
    for index, content in enumerate(case.special, 272):
        token = {"id": index, "content": content, "special": True, "normalized": False}
        tokenizer["added_tokens"].append(token | {"lstrip": False, "rstrip": False, "single_word": False})
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    if "chat_template.jinja" not in case.files:
        (folder / "chat_template.jinja").write_text(TEMPLATE.replace("IMAGE", case.image_text))
    for name, text in case.files.items():
        (folder / name).write_text(text)


def golden(case: Case) -> tuple[dict[str, tuple[int, ...]], dict[str, np.ndarray]]:
    """Shapes of the checkpoint's tensors by name, and transformers' logits by conversation."""
    stored = np.load(GOLDEN / f"{case.name}.npz")
    shapes = json.loads(str(stored["shapes"]))
    return {n: tuple(s) for n, s in shapes.items()}, {n: stored[n] for n in stored.files if n != "shapes"}


def write_checkpoint(case: Case, folder: Path, *, old: bool = False) -> Path:
    """The checkpoint, without torch: of transformers 5, or with the configuration and the names of transformers 4."""
    config = case.old_config if old else case.config
    assert config is not None
    write_files(case, folder, config)
    rename = case.old_name if old and case.old_name else str
    shapes, _ = golden(case)
    save_file({rename(n): draw(n, s) for n, s in shapes.items()}, folder / "model.safetensors", {"format": "pt"})
    return folder


def kept_positions(length: int) -> list[int]:
    """The positions of a prompt whose logits are in the golden file."""
    return sorted({round(i) for i in np.linspace(0, length - 1, POSITIONS)})
