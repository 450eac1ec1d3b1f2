"""The finder's network in PyTorch, for training: the same parameters, under the same names, as `FinderNetwork`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from rave_mlx.errors import ModelError
from rave_mlx.models.finder.config import KINDS, FinderConfig
from rave_mlx.models.finder.network import ROW_EDGES, SIDE_EDGES, SIZE_EDGES, STARTS
from recipes.builtin.finder.examples import Batch

DROPOUT = 0.1
NEW = ("sizes", "starts", "near", "span", "kind")
"""Parts that a published encoder does not have."""
KIND_WEIGHT = 0.3
"""Of the loss of the kind, beside that of the span."""
_OTHER = 0.3
"""Weight of a span's loss where the question is not for something on a page, and the span is that of nothing."""
_ON_PAGE = KINDS.index("absent")
"""Kinds up to this one ask for something on a page."""
_CLOSED = -1e4
"""Score of what cannot be."""


@dataclass(frozen=True, eq=False)
class Scores:
    """(B, L) of where an answer begins and ends, (B, kinds) of what is asked for."""

    first: Tensor
    last: Tensor
    kinds: Tensor


class Layer(nn.Module):
    """One encoder block, post-norm."""

    def __init__(self, config: FinderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.heads = config.num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.attention_norm = nn.LayerNorm(width, config.norm_eps)
        self.up = nn.Linear(width, config.intermediate_size)
        self.down = nn.Linear(config.intermediate_size, width)
        self.norm = nn.LayerNorm(width, config.norm_eps)

    def forward(self, x: Tensor, bias: Tensor) -> Tensor:
        """x: (B, L, width); bias: (B, heads, L, L) on the scores."""
        count, length, width = x.shape
        q, k, v = self.qkv(x).view(count, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(q, k, v, attn_mask=bias).transpose(1, 2).reshape(x.shape)
        x = self.attention_norm(x + F.dropout(self.out(seen), DROPOUT, self.training))
        out: Tensor = self.norm(x + F.dropout(self.down(F.gelu(self.up(x))), DROPOUT, self.training))
        return out


class TorchFinder(nn.Module):
    """The encoder and its heads; what a published encoder does not have changes nothing at first.

    Args:
        config: its shape.
    """

    def __init__(self, config: FinderConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.words = nn.Embedding(config.vocab_size, width)
        self.positions = nn.Embedding(config.max_positions, width)
        self.parts = nn.Embedding(2, width)
        self.sizes = nn.Embedding(len(SIZE_EDGES) + 2, width)
        self.starts = nn.Embedding(STARTS, width)
        nn.init.zeros_(self.sizes.weight)
        nn.init.zeros_(self.starts.weight)
        self.norm = nn.LayerNorm(width, config.norm_eps)
        self.near = nn.Parameter(torch.zeros(len(ROW_EDGES) + 2 * len(SIDE_EDGES) + 3, config.num_heads))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.span = nn.Linear(width, 2)
        self.kind = nn.Linear(width, len(KINDS))

    def forward(self, batch: Batch) -> Scores:
        """Scores of the examples of a batch."""
        ids, sizes, starts, parts = (torch.from_numpy(a) for a in (batch.ids, batch.sizes, batch.starts, batch.parts))
        x = self.words(ids) + self.positions.weight[: ids.shape[1]] + self.parts(parts)
        x = F.dropout(self.norm(x + self.sizes(sizes) + self.starts(starts)), DROPOUT, self.training)
        bias = self._bias(torch.from_numpy(batch.places), starts > 0, torch.from_numpy(batch.real))
        for layer in self.layers:
            x = layer(x, bias)
        first, last = self.span(x).unbind(-1)
        return Scores(first, last, self.kind(x[:, 0]))

    def _bias(self, places: Tensor, of_page: Tensor, real: Tensor) -> Tensor:
        """(B, heads, L, L): what the distance of two words of the page adds to their scores."""
        classes = []
        both = of_page[:, :, None] & of_page[:, None, :]
        for place, edges in zip(places.unbind(-1), (ROW_EDGES, SIDE_EDGES, SIDE_EDGES), strict=True):
            number = torch.bucketize(place[:, None, :] - place[:, :, None], torch.tensor(edges))
            classes.append(number.masked_fill(~both, -1)[..., None] == torch.arange(len(edges) + 1))
        # A product with ones and zeros: its gradient is several times faster than that of a look-up.
        bias = torch.cat(classes, -1).to(self.near.dtype) @ self.near
        return bias.permute(0, 3, 1, 2).masked_fill(~real[:, None, None, :], _CLOSED)

    def load_encoder(self, folder: Path, kept: Sequence[int]) -> None:
        """Take the weights of a published BERT encoder.

        Args:
            folder: that holds its `model.safetensors`.
            kept: numbers of the word pieces that this network has, of those the encoder has.

        Raises:
            ModelError: where the file is missing, or lacks a tensor, or one has another shape.
        """
        file = folder / "model.safetensors"
        if not file.is_file():
            raise ModelError(f"{file}: is missing; --start takes the folder of a published encoder's model")
        theirs = {name.removeprefix("bert."): tensor.float() for name, tensor in load_file(file).items()}
        own = self.state_dict()
        try:
            found = {name: _from_bert(name, theirs, kept) for name in own if name.split(".")[0] not in NEW}
        except KeyError as error:
            raise ModelError(
                f"{file}: has no {error.args[0]}; it is no BERT encoder of {len(self.layers)} layers"
            ) from None
        for name, tensor in found.items():
            if tensor.shape != own[name].shape:
                raise ModelError(f"{file}: {name} would be {tuple(tensor.shape)}; expected {tuple(own[name].shape)}")
        self.load_state_dict(own | found)


_BERT = {
    "words": "embeddings.word_embeddings",
    "positions": "embeddings.position_embeddings",
    "parts": "embeddings.token_type_embeddings",
    "norm": "embeddings.LayerNorm",
    "out": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "layer_norm": "output.LayerNorm",
}
"""Names of BERT's modules by ours; those of a layer behind its number."""


def _from_bert(name: str, theirs: dict[str, Tensor], kept: Sequence[int]) -> Tensor:
    """One of our tensors from those of BERT."""
    *_, module, leaf = name.split(".")
    if not name.startswith("layers."):
        tensor = theirs[f"{_BERT[module]}.{leaf}"]
        return tensor[list(kept)] if module == "words" else tensor
    head = f"encoder.layer.{name.split('.')[1]}"
    if module == "qkv":
        return torch.cat([theirs[f"{head}.attention.self.{part}.{leaf}"] for part in ("query", "key", "value")])
    return theirs[f"{head}.{_BERT['layer_norm' if module == 'norm' else module]}.{leaf}"]


@dataclass(frozen=True, eq=False)
class Losses:
    """Losses of a batch: of the span, of the kind; and how many spans were found, of how many."""

    span: Tensor
    kind: Tensor
    right: int
    spans: int

    @property
    def total(self) -> Tensor:
        """What is made smaller."""
        return self.span + KIND_WEIGHT * self.kind


def losses(network: TorchFinder, batch: Batch) -> Losses:
    """Cross entropies of the scores of a batch.

    Args:
        network: with its weights.
        batch: of examples.
    """
    scores = network(batch)
    first, last, kind = (torch.from_numpy(a) for a in (batch.first, batch.last, batch.kind))
    possible = torch.from_numpy(batch.starts > 0)
    possible[:, 0] = True
    begins, ends = (each.masked_fill(~possible, _CLOSED) for each in (scores.first, scores.last))
    on_page = kind <= _ON_PAGE
    weight = torch.where(on_page, 1.0, _OTHER)
    span = (F.cross_entropy(begins, first, reduction="none") + F.cross_entropy(ends, last, reduction="none")) * weight
    found = (begins.argmax(1) == first) & (ends.argmax(1) == last) & on_page
    return Losses(span.mean() / 2, F.cross_entropy(scores.kinds, kind), int(found.sum()), int(on_page.sum()))
