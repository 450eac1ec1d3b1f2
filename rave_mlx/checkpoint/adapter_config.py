"""What an adapter directory says about itself: `adapter_config.json`."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from rave_mlx.checkpoint import directory
from rave_mlx.config import GateConfig, SinkGateConfig
from rave_mlx.config.part import Part, positive
from rave_mlx.errors import ConfigError

CONFIG, WEIGHTS = "adapter_config.json", "adapters.safetensors"
EMBED, HEAD = "decoder.embed", "decoder.head"

ModelPart = Literal["decoder", "connector", "vision"]

_LATER = ("sink_gate", "ranks", "scales", "update_bias", "replaced", "rows")
"""Settings that most adapters leave alone; they are written only where they say something."""


@dataclass(frozen=True)
class AdapterConfig(Part):
    """What an adapter changes.

    Attributes:
        rank: of the updates.
        scale: what the product of the two factors is multiplied with (alpha / rank, where alpha is spoken of).
        modules: canonical names of the adapted projections ("decoder.layers.0.attention.q_proj"); also "decoder.embed",
            the token embedding, and "decoder.head", of a model with tied embeddings, too.
        kind: "lora" or "dora".
        dropout: share of inputs left out in training.
        gate: the pair gates that the adapter brings; None for none.
        sink_gate: the sink gates that the adapter brings; None for none.
        full: parts of the model that the adapter replaces.
        mask, answer: "mutual" and the token up to which images see their turn (`LMMConfig.mask`, `tokens.answer`), for
            an adapter that was trained so; None leaves the model's mask as it is.
        base: fingerprint of the model that it was trained on; None when that is not known.
        ranks, scales: of modules whose rank or scale is another, by canonical name.
        update_bias: whether every update adds a vector (`lora_bias`) to the product of its factors.
        replaced: canonical names of single weights that the adapter brings whole ("decoder.norm.weight").
        rows: token ids whose rows of a table the adapter brings, by module ("decoder.embed", "decoder.head").
    """

    rank: int
    scale: float
    modules: tuple[str, ...] = ()
    kind: Literal["lora", "dora"] = "lora"
    dropout: float = 0.0
    gate: GateConfig | None = None
    sink_gate: SinkGateConfig | None = None
    full: tuple[ModelPart, ...] = ()
    mask: Literal["mutual"] | None = None
    answer: int | None = None
    base: str | None = None
    ranks: dict[str, int] = field(default_factory=dict)
    scales: dict[str, float] = field(default_factory=dict)
    update_bias: bool = False
    replaced: tuple[str, ...] = ()
    rows: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        positive(self, "rank")
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"adapter: dropout {self.dropout} is not in [0, 1)")
        if (self.mask is None) != (self.answer is None):
            raise ConfigError("adapter: the mutual mask and the token that begins an answer go together")
        if "decoder" in self.full and self.modules:
            raise ConfigError("adapter: projections of a decoder that is replaced as a whole cannot be adapted as well")
        if self.kind == "dora" and (self.update_bias or EMBED in self.modules):
            raise ConfigError("adapter: DoRA has no biases of its own and does not adapt the embedding")
        strange = sorted({*self.ranks, *self.scales} - set(self.modules))
        if strange or any(rank < 1 for rank in self.ranks.values()):
            raise ConfigError(f"adapter: ranks and scales are positive and of adapted modules; see {strange[:1]}")
        self._check_weights()

    def _check_weights(self) -> None:
        """Refuse whole weights that something else of the adapter brings, too."""
        own = {*self.replaced, *(f"{module}.weight" for module in self.rows)}
        twice = [name for name in own if name.partition(".")[0] in self.full]
        twice += [f"{module}.weight" for module in self.rows if f"{module}.weight" in self.replaced]
        if twice:
            raise ConfigError(f"adapter: {min(twice)} is replaced twice")
        tables = [module for module in self.rows if module not in (EMBED, HEAD)]
        if tables:
            raise ConfigError(f"adapter: rows of {tables[0]} cannot be replaced, only those of {EMBED} and {HEAD}")

    def rank_of(self, module: str) -> int:
        """The rank of a module's update."""
        return self.ranks.get(module, self.rank)

    def scale_of(self, module: str) -> float:
        """What the product of a module's factors is multiplied with."""
        return self.scales.get(module, self.scale)

    @property
    def splits_tie(self) -> bool:
        """Whether it changes the embedding and the head, which a model may have as one matrix, separately."""
        weights = {f"{table}.{leaf}" for table in (EMBED, HEAD) for leaf in ("weight", "bias")}
        return bool({EMBED, HEAD} & {*self.modules, *self.rows} or weights & set(self.replaced))

    def to_dict(self) -> dict[str, Any]:
        """The section as plain JSON values; `from_dict` reads it back to an equal object."""
        default = {f.name: f.default_factory() if callable(f.default_factory) else f.default for f in fields(self)}
        return {
            name: value
            for name, value in super().to_dict().items()
            if name not in _LATER or getattr(self, name) != default[name]
        }


def read_config(folder: Path) -> AdapterConfig:
    """The configuration of an adapter directory.

    Raises:
        ConfigError: when it is missing, or PEFT's or another package's.
    """
    file = folder / CONFIG
    data = directory.read_json(file)
    if "peft_type" in data or "lora_parameters" in data or "fine_tune_type" in data:
        kind = "PEFT's layout" if "peft_type" in data else "an adapter of mlx-lm or mlx-vlm"
        raise ConfigError(f"{file}: is {kind}; rave-mlx convert {folder} OUT --base MODEL translates it")
    return AdapterConfig.from_dict(data, str(file))
