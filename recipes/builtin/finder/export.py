"""Write a training of the finder as the folder that a model carries, its large matrices packed.

    python -m recipes.builtin.finder.export --run RUN --out RAVE_DIR/finder

Matrices of the layers take 6 bits a weight and embeddings 4, in groups of 64 with a scale and an offset; 16 writes them
in float16. `--temperature` divides the scores of spans: above 1 it makes the finder less sure (Guo et al.,
arXiv 1706.04599); `measure` says how sure it is, and how often it is right then.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import mlx.core as mx
from mlx.utils import tree_flatten

from rave_mlx.errors import ModelError
from rave_mlx.models.finder.config import TOKENIZER
from rave_mlx.models.finder.finder import load_finder, write_finder

EMBEDDINGS = ("words.weight", "positions.weight")
PACKED_BITS = (2, 3, 4, 5, 6, 8)
UNPACKED = 16
_GROUP = 64
"""Weights that share a scale: a row must be a multiple."""


def export(
    run: Path, out: Path, layer_bits: int = 6, embedding_bits: int = 4, temperature: float | None = None
) -> None:
    """Write the mean weights of a training as a finder's folder.

    Args:
        run: folder of the training, or of any finder.
        out: the folder to create.
        layer_bits: of a weight in the matrices of the layers; 16 for float16.
        embedding_bits: of a weight of word pieces and positions; 16 for float16.
        temperature: of spans; None for that of the run.

    Raises:
        ModelError: where `out` exists, or `run` is no finder.
    """
    if out.exists():
        raise ModelError(f"{out}: exists already; move it away or choose another --out")
    finder = load_finder(run)
    weights: dict[str, mx.array] = dict(tree_flatten(finder.network.parameters()))
    bits = packed(weights, layer_bits, embedding_bits)
    config = finder.config if temperature is None else replace(finder.config, temperature=temperature)
    write_finder(out, config, weights, run / TOKENIZER, bits)


def packed(weights: Mapping[str, mx.array], layer_bits: int, embedding_bits: int) -> dict[str, int]:
    """The bits of the weights that are packed, by name.

    Args:
        weights: of a finder.
        layer_bits: as of `export`.
        embedding_bits: as of `export`.
    """
    out = {}
    for name, array in weights.items():
        matrix = name.startswith("layers.") and array.ndim == 2
        bits = embedding_bits if name in EMBEDDINGS else layer_bits if matrix else UNPACKED
        if bits != UNPACKED and array.shape[-1] % _GROUP == 0:
            out[name] = bits
    return out


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Write a training of the finder as the folder that a model carries.")
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    choices = (*PACKED_BITS, UNPACKED)
    parser.add_argument("--layer-bits", type=int, choices=choices, default=6, help="default: 6")
    parser.add_argument("--embedding-bits", type=int, choices=choices, default=4, help="default: 4")
    parser.add_argument("--temperature", type=float, help="of spans; default: that of the run, which is 1")
    options = parser.parse_args()
    export(options.run, options.out, options.layer_bits, options.embedding_bits, options.temperature)


if __name__ == "__main__":
    main()
