"""Which part of the decoder a process holds: whole heads of keys and values with their queries and gates, and a part of
every MLP's and expert's width.

Parts need not be equal: what the processes compute meets as sums of the stream's width. Of quantized matrices whole
groups are taken, so that no number changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import MISSING, dataclass, fields, replace

from rave_mlx.config import GateConfig, LMMConfig, TextConfig
from rave_mlx.errors import ModelError

Span = tuple[int, int]
"""[first, end) along an axis."""
Spans = tuple[Span, ...]
"""Several, which lie one after the other in a part."""


_KNOWN = frozenset({
    "vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads", "head_dim", "rope",
    "max_positions", "norm_eps", "qkv_bias", "qk_norm", "qk_norm_rotated", "output_bias", "mlp_bias", "sublayer_norms",
    "offset_norms", "activation", "embed_scale", "query_scale", "score_scale", "residual_scale", "logit_scale",
    "logit_cap", "tie_embeddings", "head_bias", "sliding_window", "sliding_layers", "sliding_rope", "output_gate",
    "linear", "experts",
})  # fmt: skip
"""Fields of `TextConfig` that a split decoder computes as a whole one does; others must have their default."""

_KNOWN_EXPERTS = frozenset({
    "count", "chosen", "intermediate_size", "normalize", "layers", "shared_size", "shared_gate", "scale", "groups",
    "chosen_groups",
})  # fmt: skip
"""The same of `ExpertsConfig`."""


@dataclass(frozen=True)
class Share:
    """The part of process `rank` of `size`.

    Attributes:
        heads, kv_heads: query heads, and heads of keys and values. Several processes may hold the same one of the
            latter, where there are fewer than processes.
        key_heads: of linear attention, with its heads of values; None without any.
        gated: the gated heads of keys and values among `kv_heads`, as of the whole model.
    """

    rank: int
    size: int
    heads: Span
    kv_heads: Span
    key_heads: Span | None
    gated: tuple[int, ...]

    def of(self, count: int, unit: int) -> Span:
        """The part that this process has of a width of `count` numbers, in whole units."""
        units = count // unit
        return units * self.rank // self.size * unit, units * (self.rank + 1) // self.size * unit


def share_of(config: LMMConfig, rank: int, size: int) -> Share:
    """The part of process `rank` of `size`.

    Raises:
        ModelError: for a model that cannot be split among so many, with what is possible.
    """
    text = config.text
    _refuse(config)
    possible = [n for n in range(1, text.num_heads + 1) if _splits(text, n)]
    if size not in possible:
        shown = ", ".join(map(str, possible[1:])) or "none but one"
        raise ModelError(
            f"{text.num_heads} query heads of {text.num_kv_heads} key-value heads cannot be split among {size} "
            f"processes; possible are: {shown}"
        )
    groups, ratio = text.num_kv_heads, text.num_heads // text.num_kv_heads
    if size <= groups:
        kv = _part(groups, rank, size)
        heads = kv[0] * ratio, kv[1] * ratio
    else:
        sharing = size // groups
        kv = rank // sharing, rank // sharing + 1
        start = kv[0] * ratio + ratio // sharing * (rank % sharing)
        heads = start, start + ratio // sharing
    gated = () if config.gate is None else tuple(g for g in config.gate.groups(groups) if kv[0] <= g < kv[1])
    keys = None if text.linear is None else _part(text.linear.key_heads, rank, size)
    return Share(rank, size, heads, kv, keys, gated)


def check_split(config: LMMConfig, size: int) -> None:
    """Refuse a model that cannot be split among so many processes.

    Raises:
        ModelError: with what is possible.
    """
    share_of(config, 0, size)
    units_of(config, size)


def part_config(config: LMMConfig, share: Share, units: Units) -> LMMConfig:
    """The configuration of a process' decoder: of its own heads and widths.

    Args:
        config: of the whole model.
        share: the process' part.
        units: in what widths are cut.
    """
    text = config.text
    experts, linear = text.experts, text.linear
    if experts is not None:
        shared = experts.shared_size
        experts = replace(
            experts,
            intermediate_size=_width(share.of(experts.intermediate_size, units.expert)),
            shared_size=None if shared is None else _width(share.of(shared, units.shared)),
        )
    if linear is not None and share.key_heads is not None:
        keys = _width(share.key_heads)
        linear = replace(linear, key_heads=keys, value_heads=keys * (linear.value_heads // linear.key_heads))
    own = replace(
        text,
        num_heads=_width(share.heads),
        num_kv_heads=_width(share.kv_heads),
        intermediate_size=_width(share.of(text.intermediate_size, units.mlp)),
        experts=experts,
        linear=linear,
    )
    return replace(config, text=own, gate=_part_gate(config.gate, share))


@dataclass(frozen=True)
class Units:
    """Numbers of a width that stay together: those of a group of a quantized matrix.

    Attributes:
        mlp, expert, shared: of the widths of MLPs, experts and the MLPs beside experts.
    """

    mlp: int = 1
    expert: int = 1
    shared: int = 1


def units_of(config: LMMConfig, size: int) -> Units:
    """In what widths are cut, so that every process gets whole groups.

    Raises:
        ModelError: where there are fewer groups than processes, or groups that go over several heads.
    """
    text, experts = config.text, config.text.experts
    names = [f"decoder.layers.{layer}" for layer in range(text.num_layers)]
    dense = [name for layer, name in enumerate(names) if text.experts_of(layer) is None]
    sparse = [name for layer, name in enumerate(names) if text.experts_of(layer) is not None]
    units = Units(
        _unit(config, [f"{name}.mlp.down_proj" for name in dense]),
        _unit(config, [f"{name}.mlp.experts.down_proj" for name in sparse]),
        _unit(config, [f"{name}.mlp.shared.down_proj" for name in sparse]),
    )
    widths = [("MLP", text.intermediate_size, units.mlp)] if dense else []
    if experts is not None:
        widths += [("experts", experts.intermediate_size, units.expert)]
        widths += [] if experts.shared_size is None else [("shared MLP", experts.shared_size, units.shared)]
    for what, width, unit in widths:
        if width % unit or width // unit < size:
            raise ModelError(
                f"the {what}'s width of {width} has {width // unit} groups of {unit} quantized numbers: it cannot be "
                f"split among {size} processes; take fewer, or a model with smaller groups"
            )
    _check_heads(config, names, size)
    return units


def _check_heads(config: LMMConfig, names: Sequence[str], size: int) -> None:
    """Refuse groups of quantized numbers that go over the heads of two processes."""
    text = config.text
    ratio = text.num_heads // text.num_kv_heads
    together = ratio if size <= text.num_kv_heads else ratio * text.num_kv_heads // size
    widths = {False: together * text.head_dim}
    if text.linear is not None:
        widths[True] = text.linear.value_heads // text.linear.key_heads * text.linear.value_dim
    for layer, name in enumerate(names):
        width, unit = widths[text.is_linear(layer)], _unit(config, [f"{name}.attention.o_proj"])
        if width % unit:
            raise ModelError(
                f"{name}.attention.o_proj has groups of {unit} quantized numbers, heads that stay together {width}: it "
                f"cannot be split among {size} processes; convert the model with --group-size {math.gcd(width, unit)}"
            )


def _unit(config: LMMConfig, modules: Sequence[str]) -> int:
    """Numbers of a row that stay together in all of these matrices."""
    if config.quantization is None:
        return 1
    settings = [setting for name in modules if (setting := config.quantization.of(name)) is not None]
    # Groups are whole words of 32 bits in every mode.
    return math.lcm(*(setting.group_size for setting in settings)) if settings else 1


def _splits(text: TextConfig, size: int) -> bool:
    """Whether heads can be split among so many processes."""
    groups, ratio = text.num_kv_heads, text.num_heads // text.num_kv_heads
    if text.linear is not None and size > text.linear.key_heads:
        return False
    return size <= groups or (size % groups == 0 and ratio % (size // groups) == 0)


def _part_gate(gate: GateConfig | None, share: Share) -> GateConfig | None:
    """The gates of a process' own heads; None where none of them is gated."""
    if gate is None or not share.gated:
        return None
    return replace(gate, kv_groups=tuple(g - share.kv_heads[0] for g in share.gated))


def _refuse(config: LMMConfig) -> None:
    """Name what is not split, and what nothing is known of here."""
    if config.sink_gate is not None:
        raise ModelError("a model with sink gates is not split over processes; run it in one")
    for part, known in ((config.text, _KNOWN), (config.text.experts, _KNOWN_EXPERTS)):
        for field in () if part is None else fields(part):
            default = None if field.default is MISSING else field.default
            if field.name not in known and getattr(part, field.name) != default:
                raise ModelError(
                    f"a decoder with {field.name} ({config.family}) is not split over processes; run the model in one"
                )


def _part(count: int, rank: int, size: int) -> Span:
    return count * rank // size, count * (rank + 1) // size


def _width(span: Span) -> int:
    return span[1] - span[0]
