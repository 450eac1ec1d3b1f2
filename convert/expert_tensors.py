"""Experts of a checkpoint as one tensor a projection, however they are stored; and back, for an export.

The runtime has `experts.gate_proj.weight`, `experts.up_proj.weight` (experts, width, hidden) and
`experts.down_proj.weight` (experts, hidden, width) in a layer. Others write:

    fused     `experts.gate_up_proj` (experts, 2 width, hidden) and `experts.down_proj`: transformers 5
    turned    the same with the last two axes exchanged: Qwen3-VL as it was published, transformers 4
    single    `experts.0.gate_proj.weight` (width, hidden), ...: text models as they were published
    mlx       `switch_mlp.gate_proj.weight` (`experts.switch_glu.` of Gemma 4), as ours, plain or packed: mlx-lm and
              mlx-vlm
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import mlx.core as mx

from rave_mlx.config import ExpertsConfig, TextConfig
from rave_mlx.convert.families.base import ExpertLayout
from rave_mlx.errors import ModelError

_FUSED = re.compile(r"(.*\.experts\.)(gate_up|down)_proj")
_SINGLE = re.compile(r"(.*\.experts\.)(\d+)\.((?:gate|up|down)_proj\.(?:weight|scales|biases))")
_MLX = re.compile(
    r"(.*\.mlp\.|.*\.(?=experts\.))(?:switch_mlp|experts\.switch_glu)\.((?:gate|up|down)_proj\.(?:weight|scales|biases))"
)
_OURS = re.compile(r"(.*\.experts\.)(gate|up|down)_proj\.weight")


@dataclass(frozen=True)
class _Place:
    """Where a tensor of all experts lies: in one tensor (a part of its rows), or in one for each expert."""

    names: tuple[str, ...]
    stacked: bool = False
    turned: bool = False
    rows: tuple[int, int] | None = None


class ExpertTensors(Mapping[str, mx.array]):
    """Lazy tensors by name, those of experts under the runtime's names and in its shapes.

    A fused tensor is kept from the first of its parts that is asked for to the last one, so that its bytes are read
    once.
    """

    def __init__(self, tensors: Mapping[str, mx.array], text: TextConfig, where: str):
        """Look at names and shapes.

        Args:
            tensors: of the checkpoint, by name.
            text: the decoder, which has experts.
            where: the checkpoint, for messages.

        Raises:
            ModelError: for experts that are missing, or whose shapes fit no layout.
        """
        assert text.experts is not None
        self._tensors, self._where = tensors, where
        self._places: dict[str, _Place] = {}
        self._begun: tuple[str, mx.array] | None = None
        singles: dict[str, dict[int, str]] = {}
        fused: dict[str, dict[str, str]] = {}
        for name in tensors:
            if match := _MLX.fullmatch(name):
                self._places[f"{match[1]}experts.{match[2]}"] = _Place((name,))
            elif match := _SINGLE.fullmatch(name):
                singles.setdefault(match[1] + match[3], {})[int(match[2])] = name
            elif match := _FUSED.fullmatch(name):
                fused.setdefault(match[1], {})[match[2]] = name
            else:
                self._places[name] = _Place((name,))
        for stem, both in fused.items():
            self._add_fused(stem, both, text.experts, text.hidden_size)
        for name, found in singles.items():
            self._places[name] = _Place(self._all(found, text.experts.count, name), stacked=True)

    def _add_fused(self, stem: str, names: Mapping[str, str], experts: ExpertsConfig, hidden: int) -> None:
        """The projections in a layer's fused tensors, whose order of axes is the one that fits both."""
        count, width = experts.count, experts.intermediate_size
        straight = {"gate_up": (count, 2 * width, hidden), "down": (count, hidden, width)}
        fits = []
        for turned in (False, True):
            wanted = {part: (n, b, a) if turned else (n, a, b) for part, (n, a, b) in straight.items()}
            if all(self._tensors[name].shape == wanted[part] for part, name in names.items()):
                fits.append(turned)
        if not fits:
            found = ", ".join(f"{name} {list(self._tensors[name].shape)}" for name in names.values())
            shapes = " and ".join(str(list(straight[part])) for part in names)
            raise ModelError(f"{self._where}: {found}: {count} experts should be {shapes}, or turned round, all alike")
        if "gate_up" in names:
            for part, first in (("gate", 0), ("up", width)):
                place = _Place((names["gate_up"],), turned=fits[0], rows=(first, first + width))
                self._places[f"{stem}{part}_proj.weight"] = place
        if "down" in names:
            self._places[f"{stem}down_proj.weight"] = _Place((names["down"],), turned=fits[0])

    def _all(self, found: Mapping[int, str], count: int, name: str) -> tuple[str, ...]:
        """The tensors of all experts, in order."""
        wrong = sorted(set(range(count)) ^ set(found))
        if wrong:
            problem = "are missing" if wrong[0] < count else f"are too many, config.json says {count}"
            shown = ", ".join(map(str, wrong[:10]))
            raise ModelError(f"{self._where}: experts {shown} of {name} {problem}; download or convert the model again")
        return tuple(found[expert] for expert in range(count))

    def __getitem__(self, name: str) -> mx.array:
        place = self._places[name]
        if place.stacked:
            return mx.stack([self._tensors[each] for each in place.names])
        (whole,) = place.names
        if place.rows is None:
            tensor = self._tensors[whole]
        elif self._begun is not None and self._begun[0] == whole:
            (_, tensor), self._begun = self._begun, None
        else:
            tensor = self._tensors[whole]
            self._begun = whole, tensor
        tensor = tensor.swapaxes(1, 2) if place.turned else tensor
        tensor = tensor if place.rows is None else tensor[:, place.rows[0] : place.rows[1]]
        # What is multiplied with again and again has to lie in order; a tensor that does is not copied.
        return mx.contiguous(tensor)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def written(
    tensors: Iterable[tuple[str, mx.array]], text: TextConfig, layout: ExpertLayout
) -> Iterator[tuple[str, mx.array]]:
    """Tensors of an export, lazy, with experts in a family's own layout; the inverse of `ExpertTensors`.

    transformers 5 takes a square matrix for one that is not turned. A model that has one is not turned at all: readers
    could not tell.

    Args:
        tensors: by name, those of experts as the runtime has them.
        text: the decoder.
        layout: how the family writes them.
    """
    assert text.experts is not None
    square = text.hidden_size in (text.experts.intermediate_size, 2 * text.experts.intermediate_size)
    halves: dict[str, dict[str, mx.array]] = {}
    for name, tensor in tensors:
        match = _OURS.fullmatch(name)
        if match is None:
            yield name, tensor
        elif layout == "single":
            for expert in range(tensor.shape[0]):
                yield f"{match[1]}{expert}.{match[2]}_proj.weight", tensor[expert]
        else:
            turned = layout == "turned" and not square
            half = halves.setdefault(match[1], {})
            half[match[2]] = tensor
            for part, needs in (("down", ("down",)), ("gate_up", ("gate", "up"))):
                if all(each in half for each in needs):
                    whole = mx.concatenate([half.pop(each) for each in needs], axis=1)
                    yield f"{match[1]}{part}_proj", whole.swapaxes(1, 2) if turned else whole
