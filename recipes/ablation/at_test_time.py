"""Attention policies of the package on the finished start: nothing is trained, only answered.

    python -m recipes.ablation.at_test_time --out RUN

The start becomes a checkpoint in the layout of the Hub, which the package opens as any other Qwen2.5-VL.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import rave_mlx
from rave_mlx.checkpoint.directory import BUILT_IN
from rave_mlx.evaluate.statistics import mean_interval
from recipes.ablation.measure import held_out
from recipes.ablation.model import make
from recipes.ablation.pages import KINDS, Kind
from recipes.builtin import weights
from recipes.builtin.data import Batch
from recipes.builtin.layers import NanoConfig
from recipes.builtin.model import Nano
from recipes.builtin.tokens import decode

POLICIES = ("none", "var:cosine", "var:cosine,p=0.3", "var:cosine,p=0.9", "var:cosine,rho=0.5")
"""VAR finds sinks by direction: its threshold on single dimensions cannot be reached at this width."""
TEMPLATE = (
    "{% for m in messages %}<|im_start|>user\n{% for c in m['content'] %}{% if c['type'] == 'image' %}<|vision_start|>"
    "<|image_pad|><|vision_end|>{% else %}{{ c['text'] }}{% endif %}{% endfor %}{% endfor %}"
)
"""A page and a question with nothing behind it, as the reader is trained."""
PAGES = 40


def as_checkpoint(model: Nano, folder: Path) -> None:
    """Write the reader in the layout of the Hub.

    Args:
        model: without gates.
        folder: to create.
    """
    weights.save(model, folder)
    (folder / "config.json").write_text(json.dumps(_config(model.c)), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    shutil.copyfile(BUILT_IN / "tokenizer.json", folder / "tokenizer.json")
    for name in ("generation_config.json", "preprocessor_config.json", "tokenizer_config.json"):
        shutil.copyfile(BUILT_IN / "hub" / name, folder / name)


def _config(c: NanoConfig) -> dict[str, Any]:
    """config.json: that of the built-in model with another shape."""
    config: dict[str, Any] = json.loads((BUILT_IN / "hub" / "config.json").read_text(encoding="utf-8"))
    config.pop("pair_gate")
    rope = {"mrope_section": list(c.rope_sections), "rope_theta": c.rope_theta, "rope_type": "default"}
    config["text_config"] |= {
        "head_dim": c.head_dim, "hidden_size": c.width, "intermediate_size": c.mlp, "rope_parameters": rope,
        "layer_types": ["full_attention"] * c.depth, "num_attention_heads": c.heads, "num_hidden_layers": c.depth,
        "num_key_value_heads": c.kv_heads,
    }  # fmt: skip
    config["vision_config"] |= {
        "depth": c.vision_depth, "fullatt_block_indexes": list(c.full_attention_layers), "num_heads": c.vision_heads,
        "hidden_size": c.vision_width, "intermediate_size": c.vision_mlp, "out_hidden_size": c.width,
    }  # fmt: skip
    return config


def questions(batch: Batch, page: int) -> Iterator[tuple[str, str]]:
    """Questions about a page of a batch with their answers."""
    for number in range(int(batch.segment[page].max()) + 1):
        own = batch.segment[page] == number
        ids, label = batch.ids[page][own], batch.label[page][own]
        truth = label[label >= 0]
        yield decode(ids[: len(ids) - len(truth)].tolist()), decode(truth.tolist())


def answered(lmm: rave_mlx.LMM, kind: Kind, policy: str, pages: int) -> list[float]:
    """Share of exact answers of each held-out page under a policy.

    Args:
        lmm: the reader.
        kind: of the pages.
        policy: as of `rave_mlx.generate`.
        pages: how many.
    """
    shares: list[float] = []
    for batch in held_out(kind, pages):
        for page, pixels in enumerate(batch.image):
            image = Image.fromarray(pixels).convert("RGB")
            asked, truths = zip(*questions(batch, page), strict=True)
            told = rave_mlx.generate(lmm, [_message(image, text) for text in asked], policy=policy, max_tokens=6)
            shares.append(float(np.mean([a == b for a, b in zip(told, truths, strict=True)])))
    return shares[:pages]


def _message(image: Image.Image, text: str) -> list[dict[str, Any]]:
    content = [{"type": "image", "image": image}, {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


def table(shares: dict[Kind, dict[str, list[float]]]) -> str:
    """Exact answers by policy, and the difference to none with its 95 % interval over pages."""
    lines = ["| policy | " + " | ".join(f"{kind} | against none" for kind in shares) + " |"]
    lines.append("|---" * (1 + 2 * len(shares)) + "|")
    for policy in next(iter(shares.values())):
        cells = [f"{np.mean(by[policy]):.3f} | {_against(by[policy], by['none'])}" for by in shares.values()]
        lines.append(f"| {policy} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _against(first: Sequence[float], second: Sequence[float]) -> str:
    change = [a - b for a, b in zip(first, second, strict=True)]
    low, high = mean_interval(change, range(len(change)))
    return f"{np.mean(change):+.3f} ({low:+.3f} to {high:+.3f})"


def main() -> None:
    """Parse the command line, answer, print the table."""
    parser = argparse.ArgumentParser(description="Answers the ablation's pages under policies of the package.")
    parser.add_argument("--out", type=Path, required=True, help="folder of the runs, with start.pt")
    given = parser.parse_args()
    start = make()
    start.load_state_dict(torch.load(given.out / "start.pt", weights_only=True))
    with tempfile.TemporaryDirectory() as folder:
        as_checkpoint(start, Path(folder) / "start")
        lmm = rave_mlx.load(Path(folder) / "start")
        kinds: tuple[Kind, ...] = tuple(k for k in KINDS if k != "easy")
        print(table({kind: {p: answered(lmm, kind, p, PAGES) for p in POLICIES} for kind in kinds}))


if __name__ == "__main__":
    main()
