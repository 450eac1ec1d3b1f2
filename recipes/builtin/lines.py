"""Convert PP-OCRv6's small recogniser into the line reader that a model's finder carries.

    pip download --no-deps rapidocr==3.10.0 && unzip -j rapidocr-*.whl 'rapidocr/models/PP-OCRv6_rec_small.onnx'
    pip install onnx
    python -m recipes.builtin.lines --onnx PP-OCRv6_rec_small.onnx --finder RAVE_DIR/finder

The weights are those of PaddleOCR (Apache-2.0); nothing is trained here. Of its 18,708 characters those of European
scripts, signs and currencies are kept, which takes the file from 21 MB to 3: a Chinese line is not read. Batch
normalization is folded into the convolution before it, and channels come red first, where PaddleOCR has blue first.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np

from rave_mlx.models.finder.stored_weights import packed_weights
from rave_mlx.models.line_reader.config import NOTICE, SETTINGS, WEIGHTS, Block, LineReaderConfig

KEPT = (
    (0x21, 0x7E), (0xA1, 0x17F), (0x2010, 0x203A), (0x20A0, 0x20BF), (0x2116, 0x2122), (0x2190, 0x2193),
    (0x2212, 0x2212), (0x2264, 0x2265), (0x25A0, 0x25CF), (0x2605, 0x2606), (0x2610, 0x2612), (0x2713, 0x2718),
)  # fmt: skip
"""Ranges of characters that are kept, first and last."""
BITS, GROUP = 8, 32
_CREDIT = """The weights in lines.safetensors are those of PP-OCRv6_rec_small, the small text recogniser of PaddleOCR
(https://github.com/PaddlePaddle/PaddleOCR), Copyright PaddlePaddle Authors, Apache License 2.0 (see LICENSE).
Changed: converted from ONNX to MLX, batch normalization folded, characters outside European scripts left out, stored in
8 bits.
"""


class _Layers:
    """The weighted layers of an ONNX graph in the order in which they are computed, each as (weight, bias)."""

    def __init__(self, model: Any):
        from onnx import numpy_helper

        self._constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        for node in model.graph.node:
            if node.op_type == "Constant":
                self._constants[node.output[0]] = numpy_helper.to_array(node.attribute[0].t)
            elif node.op_type == "Identity" and node.input[0] in self._constants:
                self._constants[node.output[0]] = self._constants[node.input[0]]
        self._nodes = [node for node in model.graph.node if node.op_type not in ("Constant", "Identity")]
        self.found = iter(list(self._layers()))

    def _layers(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for number, node in enumerate(self._nodes):
            given = [self._constants.get(name) for name in node.input]
            behind = self._nodes[number + 1] if number + 1 < len(self._nodes) else None
            if node.op_type in ("Conv", "MatMul") and given[1] is not None and behind is not None:
                weight = given[1] if node.op_type == "Conv" else given[1].T
                yield self._normalized(weight, behind)
            elif node.op_type == "Mul" and behind is not None and behind.op_type == "Add":
                scale = next((each for each in given if each is not None and each.ndim == 1 and each.size > 1), None)
                if scale is not None:
                    yield scale, self._constant(behind)

    def _normalized(self, weight: np.ndarray, behind: Any) -> tuple[np.ndarray, np.ndarray]:
        """A weight and its bias, with the batch normalization that follows folded in."""
        if behind.op_type != "BatchNormalization":
            return weight, self._constant(behind)
        scale, shift, mean, variance = (self._constants[name] for name in behind.input[1:])
        eps = next(each.f for each in behind.attribute if each.name == "epsilon")
        factor = scale / np.sqrt(variance + eps)
        return weight * factor.reshape(-1, *[1] * (weight.ndim - 1)), shift - mean * factor

    def _constant(self, node: Any) -> np.ndarray:
        return next(self._constants[name] for name in node.input if name in self._constants).reshape(-1)


def convert(model: Any, characters: Sequence[str]) -> tuple[LineReaderConfig, dict[str, mx.array]]:
    """The shape and the weights of a line reader.

    Args:
        model: ONNX, of PP-OCRv6's small recogniser.
        characters: of its classes from 1 on; the class behind them is the space.
    """
    layers = _Layers(model).found
    out: dict[str, np.ndarray] = {}

    def take(name: str, kind: str) -> np.ndarray:
        weight, bias = next(layers)
        if kind == "linear":
            weight = weight.reshape(weight.shape[0], -1)
        elif kind == "conv":
            weight = weight.transpose(0, 2, 3, 1)
        elif kind == "depthwise":
            weight = weight[:, 0].transpose(1, 2, 0)
        out[f"{name}.weight"], out[f"{name}.bias"] = weight, bias
        return weight

    first = take("stem.first", "conv")
    out["stem.first.weight"] = first[..., ::-1]
    for name in ("stem.inner.0", "stem.inner.1", "stem.joined"):
        take(name, "conv")
    take("stem.wider", "linear")
    blocks = _blocks(model)
    for number, block in enumerate(blocks):
        take(f"blocks.{number}.spatial", "depthwise")
        for part in [*(["squeeze.down", "squeeze.up"] if block.squeeze else []), "up", "down"]:
            take(f"blocks.{number}.{part}", "linear")
    for name, kind in (("short", "linear"), ("into", "linear"), ("near", "depthwise")):
        take(f"mixer.{name}", kind)
    for number in range(2):
        for part in ("norm1", "qkv", "out", "norm2", "up", "down"):
            take(f"mixer.layers.{number}.{part}", "" if part.startswith("norm") else "linear")
    take("mixer.norm", "")
    head, bias = next(layers)
    kept = [n for n, c in enumerate([*characters, " "]) if c == " " or _is_kept(c)]
    rows = [0, *(n + 1 for n in kept)]
    out["head.weight"], out["head.bias"] = head[rows], bias[rows]
    text = "".join([*characters, " "][n] for n in kept)
    config = LineReaderConfig(text, first.shape[0], tuple(blocks), head.shape[1])
    return config, {name: mx.array(np.ascontiguousarray(array, np.float32)) for name, array in out.items()}


def _blocks(model: Any) -> list[Block]:
    """The blocks of the backbone, from the order and the shapes of its convolutions."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Identity" and node.input[0] in shapes:
            shapes[node.output[0]] = shapes[node.input[0]]
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    depthwise = [n for n, node in enumerate(convolutions) if shapes[node.input[1]][1:] == (1, 3, 3)]
    out = []
    for at, behind in zip(depthwise, [*depthwise[1:], None], strict=True):
        inner = convolutions[at + 1 : behind]
        strides = next(list(each.ints) for each in convolutions[at].attribute if each.name == "strides")
        squeeze = shapes[inner[0].input[1]][0] < shapes[convolutions[at].input[1]][0]
        last = inner[3] if squeeze else inner[1]
        out.append(Block(shapes[convolutions[at].input[1]][0], shapes[last.input[1]][0], strides[0], squeeze))
    return out


def _is_kept(character: str) -> bool:
    return len(character) == 1 and any(low <= ord(character) <= high for low, high in KEPT)


def write(finder: Path, config: LineReaderConfig, weights: Mapping[str, mx.array]) -> None:
    """Write the files of a line reader into a finder's folder.

    Args:
        finder: the folder.
        config: of the line reader.
        weights: by name, as of `LineReaderNetwork`.
    """
    bits = {n: BITS for n, array in weights.items() if array.ndim == 2 and array.shape[1] % GROUP == 0}
    mx.save_safetensors(str(finder / WEIGHTS), packed_weights(weights, bits, GROUP))
    (finder / SETTINGS).write_text(json.dumps(asdict(config), ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    (finder / NOTICE).write_text(_CREDIT, encoding="utf-8")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Convert PP-OCRv6's small recogniser into a finder's line reader.")
    parser.add_argument("--onnx", type=Path, required=True, help="PP-OCRv6_rec_small.onnx")
    parser.add_argument("--finder", type=Path, required=True, help="folder of the finder that gets it")
    options = parser.parse_args()
    import onnx

    model = onnx.load(str(options.onnx))
    characters = next(each.value for each in model.metadata_props if each.key == "character").split("\n")
    write(options.finder, *convert(model, characters))


if __name__ == "__main__":
    main()
