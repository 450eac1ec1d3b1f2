"""A small finder with weights and a tokenizer of its own, for tests that need one in a model's folder."""

from __future__ import annotations

from pathlib import Path

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

from rave_mlx.models.finder.config import KINDS, FinderConfig
from rave_mlx.models.finder.finder import write_finder
from rave_mlx.models.finder.network import FinderNetwork

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:?-/€ßø"
WORDS = ("total", "harbour", "in", "##voice", "what", "is", "the", "##ing")
VOCABULARY = (*SPECIAL, *LETTERS, *(f"##{letter}" for letter in LETTERS), *WORDS)


def tiny(**changed) -> FinderConfig:
    """Two layers of width 64 with 4 heads, for `VOCABULARY`."""
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_layers": 2, "num_heads": 4, "max_positions": 128}
    return FinderConfig(len(VOCABULARY), **{**sizes, **changed})


def write_tokenizer(file: Path, vocabulary=VOCABULARY) -> Path:
    """A WordPiece tokenizer as BERT's uncased ones."""
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.save(str(file))
    return file


def random_weights(config: FinderConfig, seed: int = 0, scale: float = 0.3) -> dict[str, mx.array]:
    """Weights of every tensor of the network, norms near 1."""
    rng = np.random.default_rng(seed)
    out = {}
    for name, array in sorted(tree_flatten(FinderNetwork(config).parameters())):
        is_norm = name.endswith("norm.weight")
        drawn = rng.uniform(0.5, 1.5, array.shape) if is_norm else rng.normal(0, scale, array.shape)
        out[name] = mx.array(drawn.astype(np.float32))
    return out


def network(config: FinderConfig, weights: dict[str, mx.array]) -> FinderNetwork:
    """The network with these weights."""
    made = FinderNetwork(config)
    made.load_weights(list(weights.items()), strict=True)
    return made


def write_pointer(folder: Path, word: str, kind: str = "span") -> None:
    """A finder that takes every question for one of a kind, and finds one word of the vocabulary.

    Its layers add nothing, so that what it scores is what it embeds: the word has a mark that no other piece has, which
    both ends of a span look for. [CLS], for that nothing is found, has half of it.
    """
    config = tiny()
    weights = {
        name: mx.ones_like(array) if name.endswith("norm.weight") else mx.zeros_like(array)
        for name, array in random_weights(config).items()
    }
    rng = np.random.default_rng(7)
    words = rng.normal(0, 1, weights["words.weight"].shape)
    words[:, 0] = 0
    words[VOCABULARY.index(word), 0] = 8
    words[VOCABULARY.index("[CLS]"), 0] = 4
    span = np.zeros((2, config.hidden_size))
    span[:, 0] = 10
    weights["words.weight"] = mx.array(words.astype(np.float32))
    weights["span.weight"] = mx.array(span.astype(np.float32))
    weights["kind.bias"] = mx.array(np.where(np.array(KINDS) == kind, 12, 0).astype(np.float32))
    write_finder(folder, config, weights, write_tokenizer(folder.parent / "pieces.json"), {})
