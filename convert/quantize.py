"""Fewer bits a weight: what is quantized and how, and the stream of tensors that does it.

Linear layers of the decoder, its experts, its embedding and its head are packed by `mx.quantize`, as mlx-lm does. The
vision tower and the connector stay as they are unless asked for; norms, positions, gates and routers always
do. So does a weight whose rows the group size does not divide; a plan names each of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import mlx.core as mx

from rave_mlx.checkpoint.directory import EXPERTS, ROUTER, is_gate
from rave_mlx.config import LMMConfig, QuantizationConfig
from rave_mlx.convert import bit_recipes
from rave_mlx.errors import ConfigError, ModelError, UsageError

Mode = Literal["affine", "mxfp4", "mxfp8", "nvfp4"]
Shapes = Mapping[str, "mx.array | Sequence[int]"]
"""Tensors, or only their shapes, by canonical name."""

DEFAULTS: dict[str, tuple[int, int]] = {"affine": (4, 64), "mxfp4": (4, 32), "mxfp8": (8, 32), "nvfp4": (4, 16)}
"""Bits and group size of each mode where none are given."""

_VISUAL = ("vision", "connector")
_BLOCK = 1 << 20
"""Weights in a block of rows that is packed at a time."""


@dataclass(frozen=True)
class Options:
    """What a person asks for.

    Attributes:
        bits, group_size: None for the mode's own (`DEFAULTS`).
        mode: of `mx.quantize`.
        recipe: one of `bit_recipes.NAMED`, or a file of rules; rules give affine bits, weights that no rule names get
            `bits` in `mode`.
        include_vision: also quantize the vision tower and the connector.

    Raises:
        UsageError: for what does not go together.
    """

    bits: int | None = None
    group_size: int | None = None
    mode: Mode = "affine"
    recipe: str | Path | None = None
    include_vision: bool = False

    def __post_init__(self) -> None:
        if self.mode not in DEFAULTS:
            raise UsageError(f"quantization mode {self.mode!r} is not one of {', '.join(DEFAULTS)}")
        try:
            _ = self.base
        except ConfigError as error:
            raise UsageError(str(error)) from None
        if self.recipe in bit_recipes.NAMED:
            if self.mode != "affine":
                raise UsageError(f"recipe {self.recipe} mixes widths of the affine mode; {self.mode} has one width")
            if self.bits is not None:
                raise UsageError(f"recipe {self.recipe} sets the bits; leave out {self.bits}")
        elif self.recipe is not None and not Path(self.recipe).is_file():
            raise UsageError(f"recipe {self.recipe}: no such file, and not one of {', '.join(bit_recipes.NAMED)}")

    @property
    def base(self) -> QuantizationConfig:
        """What holds where the recipe says nothing."""
        named = bit_recipes.NAMED.get(str(self.recipe))
        bits, group = DEFAULTS[self.mode]
        bits = named[0] if named else bits
        return QuantizationConfig(
            bits if self.bits is None else self.bits, group if self.group_size is None else self.group_size, self.mode
        )


@dataclass(frozen=True)
class Decision:
    """What becomes of one weight matrix of shape (rows, width). `setting` None leaves it; `reason` says why."""

    module: str
    rows: int
    width: int
    setting: QuantizationConfig | None
    reason: Literal["", "not included", "rule", "width"] = ""


def quantizable(name: str, shape: Sequence[int]) -> bool:
    """Whether a tensor is the matrix of a linear layer, of experts or an embedding: no norm, bias, position or gate."""
    return name.endswith(".weight") and len(shape) == (3 if EXPERTS in name else 2) and not is_gate(name)


def plan(config: LMMConfig, expected: Shapes, options: Options) -> QuantizationConfig:
    """How the tensors of a model are to be stored.

    Args:
        config: the model, not quantized.
        expected: its tensors, or their shapes, by canonical name.
        options: what is asked for.

    Raises:
        UsageError: when nothing at all would be quantized.
        ConfigError, ModelError: for a recipe file that cannot be used.
    """
    decisions = decide(config, expected, options)
    if not any(d.setting for d in decisions):
        raise UsageError(
            f"nothing to quantize: no weight that may be has rows that groups of {options.base.group_size} divide; "
            "choose a smaller group size, or another recipe"
        )
    return gather(options.base, {d.module: d.setting for d in decisions})


def decide(config: LMMConfig, expected: Shapes, options: Options) -> list[Decision]:
    """The decision about every weight matrix, in the order of `expected`.

    Args:
        config: the model.
        expected: its tensors, or their shapes, by canonical name.
        options: what is asked for.
    """
    shapes = {name: _shape(tensor) for name, tensor in expected.items()}
    matrices = {n.removesuffix(".weight"): (math.prod(s[:-1]), s[-1]) for n, s in shapes.items() if quantizable(n, s)}
    chosen = [m for m in matrices if not m.endswith(ROUTER)]
    included = [m for m in chosen if options.include_vision or not m.startswith(_VISUAL)]
    choose = _chooser(config, included, options)
    decisions = []
    for module, (rows, width) in matrices.items():
        if module not in included:
            decisions.append(Decision(module, rows, width, None, "not included"))
            continue
        setting = choose(module)
        if setting is None:
            decisions.append(Decision(module, rows, width, None, "rule"))
        elif width % setting.group_size:
            decisions.append(Decision(module, rows, width, None, "width"))
        else:
            decisions.append(Decision(module, rows, width, setting))
    return decisions


def gather(base: QuantizationConfig, choices: Mapping[str, QuantizationConfig | None]) -> QuantizationConfig:
    """One configuration that says these things of these modules, a whole part of the model in one entry."""
    touched = {_part(module) for module, setting in choices.items() if setting is not None}
    layers: dict[str, QuantizationConfig | None] = {}
    for module, setting in choices.items():
        if _part(module) not in touched:
            layers[_part(module)] = None
        elif setting != base:
            layers[module] = setting
    return QuantizationConfig(base.bits, base.group_size, base.mode, layers)


def apply(tensors: Iterable[tuple[str, mx.array]], quantization: QuantizationConfig) -> Iterator[tuple[str, mx.array]]:
    """Canonical tensors, lazy, with those packed that `quantization` names: weight, scales and (affine) biases.

    Raises:
        ModelError: for a tensor that is packed already.
    """
    for name, tensor in tensors:
        setting = quantization.of(name.removesuffix(".weight")) if quantizable(name, tensor.shape) else None
        if setting is None:
            yield name, tensor
            continue
        if not mx.issubdtype(tensor.dtype, mx.floating):
            raise ModelError(f"tensor {name} is quantized already ({tensor.dtype}); convert the 16-bit model instead")
        yield from zip((name, *_beside(name)), _pack(tensor, setting), strict=False)


def describe(setting: QuantizationConfig) -> str:
    """In words: affine, 4 bits in groups of 64."""
    return f"{setting.mode}, {setting.bits} bits in groups of {setting.group_size}"


def _pack(tensor: mx.array, setting: QuantizationConfig) -> list[mx.array]:
    """Weight, scales and (affine) biases, lazy.

    On a CPU `mx.quantize` takes 80 bytes a weight while it works in the modes of 4-bit floats; so those are packed
    in blocks of rows, one after the other.
    """
    shape, tensor = tensor.shape, tensor.reshape(-1, tensor.shape[-1])
    rows = max(1, _BLOCK // tensor.shape[1]) if setting.mode in ("mxfp4", "nvfp4") else tensor.shape[0]
    blocks: list[Sequence[mx.array]] = []
    for first in range(0, tensor.shape[0], rows):
        block = tensor[first : first + rows]
        if blocks:
            (block,) = mx.depends([block], list(blocks[-1]))
        blocks.append(mx.quantize(block, group_size=setting.group_size, bits=setting.bits, mode=setting.mode))
    whole = [mx.concatenate(list(parts)) if len(parts) > 1 else parts[0] for parts in zip(*blocks, strict=True)]
    return [part.reshape(*shape[:-1], -1) for part in whole]


def _chooser(config: LMMConfig, modules: Sequence[str], options: Options) -> bit_recipes.Chooser:
    base = options.base
    if options.recipe is None:
        return lambda module: base
    if options.recipe in bit_recipes.NAMED:
        return bit_recipes.named(str(options.recipe), config, base.group_size)
    group = base.group_size if base.mode == "affine" else DEFAULTS["affine"][1]
    return bit_recipes.chooser(bit_recipes.read_rules(Path(options.recipe), group), modules, base)


def _part(module: str) -> str:
    """The part of the model: "vision", "connector" or "decoder"."""
    return module.partition(".")[0]


def _beside(weight: str) -> tuple[str, str]:
    stem = weight.removesuffix("weight")
    return f"{stem}scales", f"{stem}biases"


def _shape(tensor: mx.array | Sequence[int]) -> tuple[int, ...]:
    return tuple(tensor.shape if isinstance(tensor, mx.array) else tensor)
