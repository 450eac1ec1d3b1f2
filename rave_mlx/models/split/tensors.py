"""The part of every tensor that a process holds, and how it comes from disk: of plain tensors in safetensors files only
the bytes of the part are read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import mlx.core as mx

from rave_mlx.config import LMMConfig
from rave_mlx.errors import ModelError
from rave_mlx.models.split.shares import Share, Spans, Units

_LAYER = re.compile(r"decoder\.layers\.(\d+)\.(.+)")
_WHOLE = re.compile(
    r"(input_norm|post_attention_norm|attention_out_norm|mlp_out_norm|attention\.(q_norm|k_norm|norm)|mlp\.router"
    r"|mlp\.shared_gate)\.\w+"
)
"""What every process has whole."""
_ROWS, _EXPERT_ROWS = 0, 1


@dataclass(frozen=True)
class Part:
    """The part of a tensor.

    Attributes:
        axis: along which it is cut; None: the tensor whole.
        spans: what is taken along the axis.
        zero: it counts in process 0 alone, and is zero here: a bias of what is summed up.
    """

    axis: int | None = None
    spans: Spans = ()
    zero: bool = False


class Parts:
    """Which part of a tensor a process holds, by canonical name.

    Args:
        config: of the whole model.
        share: the process' part.
        units: in what widths are cut.
    """

    def __init__(self, config: LMMConfig, share: Share, units: Units):
        self._config, self._share, self._units = config, share, units
        self._rules: list[tuple[re.Pattern[str], Callable[[], tuple[int, Spans]]]] = [
            (re.compile(pattern), rule) for pattern, rule in self._named_rules()
        ]

    def of(self, name: str) -> Part | None:
        """The part of a tensor; None for one that only process 0 has, where this is another.

        Raises:
            ModelError: for a tensor of a layer that nothing is known of.
        """
        layer = _LAYER.fullmatch(name)
        if layer is None:
            return Part() if self._share.rank == 0 or name == "decoder.norm.weight" else None
        index, leaf = int(layer[1]), layer[2]
        if _WHOLE.fullmatch(leaf):
            return Part()
        if re.fullmatch(r"(attention\.o_proj|mlp\.(shared\.)?down_proj)\.bias", leaf):
            return Part(zero=self._share.rank > 0)
        if leaf.startswith("attention.gate."):
            spans = self._gate(leaf.rpartition(".")[2])
            return Part(_ROWS, spans) if spans else None
        if leaf.startswith("attention.o_proj."):
            return Part(-1, self._stored(name, (self._joined_heads(index),)))
        for pattern, rule in self._rules:
            if pattern.fullmatch(leaf):
                axis, spans = rule()
                return Part(axis, self._stored(name, spans) if axis == -1 else spans)
        raise ModelError(f"{name}: it is not known how this tensor is split over processes; run the model in one")

    def _named_rules(self) -> Iterator[tuple[str, Callable[[], tuple[int, Spans]]]]:
        """How the tensors of a layer are cut: a pattern of their names, and the axis with what is taken of it."""
        text, share, units = self._config.text, self._share, self._units
        part = r"(weight|scales|biases|bias)"
        width, kv = text.head_dim * (1 + text.output_gate), text.head_dim
        yield rf"attention\.q_proj\.{part}", lambda: (_ROWS, (_times(share.heads, width),))
        yield rf"attention\.[kv]_proj\.{part}", lambda: (_ROWS, (_times(share.kv_heads, kv),))
        linear = text.linear
        if linear is not None and share.key_heads is not None:
            keys, ratio = share.key_heads, linear.value_heads // linear.key_heads
            values, end = _times(keys, ratio), linear.key_heads * linear.key_dim
            q, v = _times(keys, linear.key_dim), _times(values, linear.value_dim)
            channels = (q, _moved(q, end), _moved(v, 2 * end))
            yield rf"attention\.(qkv_proj\.{part}|conv\.weight)", lambda: (_ROWS, channels)
            yield rf"attention\.z_proj\.{part}", lambda: (_ROWS, (v,))
            yield rf"attention\.([ab]_proj\.{part}|decay_log|decay_bias)", lambda: (_ROWS, (values,))
        mlp = share.of(text.intermediate_size, units.mlp)
        yield rf"mlp\.(gate|up)_proj\.{part}", lambda: (_ROWS, (mlp,))
        yield r"mlp\.down_proj\.\w+", lambda: (-1, (mlp,))
        experts = text.experts
        if experts is not None:
            own = share.of(experts.intermediate_size, units.expert)
            yield rf"mlp\.experts\.(gate|up)_proj\.{part}", lambda: (_EXPERT_ROWS, (own,))
            yield r"mlp\.experts\.down_proj\.\w+", lambda: (-1, (own,))
            beside = share.of(experts.shared_size or 0, units.shared)
            yield rf"mlp\.shared\.(gate|up)_proj\.{part}", lambda: (_ROWS, (beside,))
            yield r"mlp\.shared\.down_proj\.\w+", lambda: (-1, (beside,))

    def _joined_heads(self, layer: int) -> tuple[int, int]:
        """The columns of the matrix that the heads of a layer meet in."""
        text, share = self._config.text, self._share
        linear = text.linear
        if linear is None or share.key_heads is None or not text.is_linear(layer):
            return _times(share.heads, text.head_dim)
        return _times(share.key_heads, linear.value_heads // linear.key_heads * linear.value_dim)

    def _gate(self, leaf: str) -> Spans:
        """The rows of a pair gate's parameter: one a gated query head, or one a gated head of keys and values."""
        config, share = self._config, self._share
        assert config.gate is not None
        text = config.text
        groups, ratio = config.gate.groups(text.num_kv_heads), text.num_heads // text.num_kv_heads
        places = [(groups.index(group), group) for group in share.gated]
        if leaf in ("W", "c"):
            return tuple((place, place + 1) for place, _ in places)
        spans = []
        for place, group in places:
            first, end = max(share.heads[0], group * ratio), min(share.heads[1], (group + 1) * ratio)
            spans.append((place * ratio + first - group * ratio, place * ratio + end - group * ratio))
        return tuple(spans)

    def _stored(self, name: str, spans: Spans) -> Spans:
        """Columns of a matrix as columns of what is stored of it: words, or one number a group."""
        module, _, leaf = name.rpartition(".")
        quantization = self._config.quantization
        setting = None if quantization is None else quantization.of(module)
        if setting is None:
            return spans
        if leaf == "weight":
            return tuple((first * setting.bits // 32, end * setting.bits // 32) for first, end in spans)
        return tuple((first // setting.group_size, end // setting.group_size) for first, end in spans)


def take(tensor: mx.array, part: Part) -> mx.array:
    """A part of a tensor, lazy, in memory of its own."""
    if part.zero:
        return mx.zeros_like(tensor)
    if part.axis is None:
        return tensor
    axis = part.axis % tensor.ndim
    pieces = [tensor[(slice(None),) * axis + (slice(first, end),)] for first, end in part.spans]
    return mx.contiguous(pieces[0] if len(pieces) == 1 else mx.concatenate(pieces, axis=axis))


def parts_of(
    tensors: Iterable[tuple[str, mx.array]], parts: Parts, read: Callable[[str, Part], mx.array | None]
) -> Iterator[tuple[str, mx.array]]:
    """A process' parts of canonical tensors, read from disk one after the other.

    Args:
        tensors: all, lazy.
        parts: which parts there are.
        read: reads only a part of a tensor; None where the whole has to be read for it.
    """
    for name, tensor in tensors:
        part = parts.of(name)
        if part is None:
            continue
        found = None if part.axis is None or part.zero else read(name, part)
        if found is None:
            found = take(tensor, part)
            if part.axis is not None:
                mx.eval(found)
        yield name, found


def _times(span: tuple[int, int], factor: int) -> tuple[int, int]:
    return span[0] * factor, span[1] * factor


def _moved(span: tuple[int, int], by: int) -> tuple[int, int]:
    return span[0] + by, span[1] + by
