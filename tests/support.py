"""Small models and documents that several test files use."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from PIL import Image, ImageDraw, ImageFont

from rave_mlx import backend
from rave_mlx.checkpoint.build import build
from rave_mlx.checkpoint.directory import BUILT_IN, read_config
from rave_mlx.config import (
    ConnectorConfig,
    GateConfig,
    ImageConfig,
    LinearAttentionConfig,
    LMMConfig,
    RopeConfig,
    TextConfig,
    VisionConfig,
)
from rave_mlx.models.lmm import LMM

TEXT = TextConfig(
    vocab_size=272,
    hidden_size=48,
    intermediate_size=80,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    rope=RopeConfig(theta=10000.0, sections=(2, 3, 3)),
    max_positions=4096,
    qkv_bias=True,
    tie_embeddings=False,
)
VISION = VisionConfig(
    depth=3,
    hidden_size=32,
    intermediate_size=48,
    num_heads=2,
    patch_size=4,
    window_size=32,
    full_attention_layers=(1,),
)
HYBRID: dict[str, Any] = {
    "num_layers": 4,
    "linear": LinearAttentionConfig((0, 2), key_heads=2, value_heads=4, key_dim=8, value_dim=12),
    "output_gate": True,
}
"""Fields of a decoder two of whose layers have linear attention."""
IMAGE = ImageConfig(patch_size=4, min_pixels=64, max_pixels=1 << 16)


def tiny_config(gate: GateConfig | None = None, **text) -> LMMConfig:
    """A three-layer model that uses the built-in model's tokenizer and chat template."""
    return LMMConfig(
        family="qwen2_5_vl",
        text=replace(TEXT, **text),
        tokens=read_config(BUILT_IN).tokens,
        vision=VISION,
        connector=ConnectorConfig(128, replace(TEXT, **text).hidden_size),
        image=IMAGE,
        gate=gate,
    )


def tiny_model(gate: GateConfig | None = None, seed: int = 0, gate_scale: float = 0.5, **text) -> LMM:
    """The tiny model with random weights large enough for sharp attention, and random, active gates."""
    backend.prepare()
    rng = np.random.default_rng(seed)
    folder = BUILT_IN
    lmm = build(
        tiny_config(gate, **text), folder / "tokenizer.json", (folder / "chat_template.jinja").read_text(), None
    )

    def draw(name: str, shape: tuple[int, ...]) -> mx.array:
        if ".attention.gate." in name:
            return mx.array(rng.normal(0, gate_scale, shape).astype(np.float32))
        if "norm" in name:
            return mx.array(rng.uniform(0.5, 1.5, shape).astype(np.float32))
        scale = 0.5 if len(shape) == 1 else 1.5 * shape[-1] ** -0.5
        return mx.array(rng.normal(0, scale, shape).astype(np.float32))

    # Sorted, so that a model with gates has the same other weights as the one without.
    names = sorted(tree_flatten(lmm.parameters()), key=lambda item: (".gate." in item[0], item[0]))
    lmm.load_weights([(name, draw(name, array.shape)) for name, array in names], strict=True)
    return lmm


def picture(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """A random RGB image."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def form(lines: list[str], size: tuple[int, int] = (256, 128), font: int = 14) -> Image.Image:
    """A white page with printed lines."""
    image = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(image)
    for i, line in enumerate(lines):
        draw.text((10, 8 + round(1.7 * font) * i), line, fill="black", font=ImageFont.load_default(font))
    return image


def ask(text: str, *images, role: str = "user") -> dict:
    """A chat message with images before the text."""
    return {"role": role, "content": [*({"type": "image", "image": i} for i in images), {"type": "text", "text": text}]}


def relative(found, expected) -> float:
    """Relative L2 distance, in float64."""
    found, expected = (np.asarray(x, dtype=np.float64) for x in (found, expected))
    return float(np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-30))


def rounding(*lengths: int, dtype: mx.Dtype = mx.float32, safety: float = 4.0) -> float:
    """Relative L2 error that rounding may leave in a value computed through sums of these lengths, one after another.

    Each of the n = sum(lengths) additions is off by at most the type's unit roundoff u (half its epsilon), in a
    direction of its own, so the errors add up like a random walk: sqrt(n) u. In which order a product adds its terms,
    and how many of them with one rounding, is up to the kernel that BLAS picks for the processor: two kernels differ
    by as much as each differs from the exact value. `safety` covers this and what the steps between do to an error
    (a sharp softmax, a norm).
    """
    unit = {mx.float32: 2.0**-24, mx.float16: 2.0**-11, mx.bfloat16: 2.0**-8}[dtype]
    return safety * unit * sum(lengths) ** 0.5


def model_rounding(lmm: LMM, length: int) -> float:
    """`rounding` of the logits after `length` tokens: between two ways through the whole decoder that should be one."""
    text = lmm.config.text
    layer = 3 * text.hidden_size + text.head_dim + 2 * length + text.num_heads * text.head_dim + text.intermediate_size
    return rounding(text.num_layers * layer, text.hidden_size)


def write_image(image: Image.Image, path: Path) -> Path:
    image.save(path)
    return path
