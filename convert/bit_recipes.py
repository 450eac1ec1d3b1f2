"""Which weights get how many bits: named mixed recipes, and files of `pattern: bits` rules.

The named recipes are those of mlx-lm and mlx-vlm, after llama.cpp's Q4_K_M: "mixed_4_6" gives six bits to the output
head and to the value and down projections of the first and the last eighth of the layers and of every third layer
between, four bits to the rest.
https://github.com/ml-explore/mlx-lm/blob/main/mlx_lm/convert.py (`mixed_quant_predicate_builder`)

A rules file has one rule a line; of the rules that match a module, the last one counts:

    # pattern (canonical module names, * stands for anything): bits, optionally / group size; 16 leaves it as it is
    decoder.layers.*.mlp.*: 4
    decoder.layers.*.mlp.down_proj: 6/32
    decoder.head: 16
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

from rave_mlx.config import LMMConfig, QuantizationConfig
from rave_mlx.errors import ConfigError, ModelError

Chooser = Callable[[str], QuantizationConfig | None]
"""From a module's canonical name to how it is packed; None leaves it as it is."""

NAMED = {
    "mixed_2_6": (2, 6),
    "mixed_3_4": (3, 4),
    "mixed_3_5": (3, 5),
    "mixed_3_6": (3, 6),
    "mixed_3_8": (3, 8),
    "mixed_4_6": (4, 6),
    "mixed_4_8": (4, 8),
}
"""Bits of most weights and of the sensitive ones."""

LEAVE = 16
_RULE = re.compile(r"(?P<pattern>\S+)\s*:\s*(?P<bits>\d+)\s*(?:/\s*(?P<group>\d+))?")
_SENSITIVE = re.compile(r"decoder\.layers\.(\d+)\.(?:attention\.v_proj|mlp\.(?:experts\.|shared\.)?down_proj)")


def named(recipe: str, config: LMMConfig, group_size: int) -> Chooser:
    """The chooser of one of `NAMED`.

    The embedding of a model without a head of its own is its head, and a vision tower and connector that are to be
    quantized at all get the higher width; mlx-lm has no rule for either.

    Args:
        recipe: its name.
        config: the model.
        group_size: weights that share a scale.
    """
    low, high = (QuantizationConfig(bits, group_size) for bits in NAMED[recipe])
    layers = config.text.num_layers
    head = "decoder.embed" if config.text.tie_embeddings else "decoder.head"

    def choose(module: str) -> QuantizationConfig:
        sensitive = _SENSITIVE.fullmatch(module)
        if sensitive:
            return high if _more(int(sensitive[1]), layers) else low
        return high if module == head or not module.startswith("decoder.") else low

    return choose


def _more(layer: int, layers: int) -> bool:
    """Whether a layer is among the first or last eighth, or every third between."""
    eighth = layers // 8
    return layer < eighth or layer >= 7 * layers // 8 or (layer - eighth) % 3 == 2


@dataclass(frozen=True)
class Rule:
    """One line of a rules file. `setting` None leaves what matches as it is."""

    where: str
    pattern: str
    setting: QuantizationConfig | None


def read_rules(file: Path, group_size: int) -> list[Rule]:
    """The rules of a file; `group_size` is that of rules without one.

    Raises:
        ModelError: when the file cannot be read.
        ConfigError: for a line that is no rule, with the file and the line.
    """
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: is not text; a rules file has lines like 'decoder.head: 8'") from None
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror})") from None
    rules = []
    for number, line in enumerate(lines, 1):
        text = line.partition("#")[0].strip()
        if text:
            rules.append(_read_rule(text, f"{file}, line {number}", group_size))
    if not rules:
        raise ConfigError(f"{file}: has no rules; give lines like 'decoder.head: 8'")
    return rules


def _read_rule(text: str, where: str, group_size: int) -> Rule:
    match = _RULE.fullmatch(text)
    if match is None:
        raise ConfigError(f"{where}: {text!r} is not a rule like 'decoder.head: 8' or 'decoder.layers.*: 4/32'")
    bits, group = int(match["bits"]), match["group"]
    if bits == LEAVE:
        if group:
            raise ConfigError(f"{where}: 16 leaves weights as they are, in no groups; drop '/{group}'")
        return Rule(where, match["pattern"], None)
    try:
        setting = QuantizationConfig(bits, int(group) if group else group_size)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}; 16 bits leave weights as they are") from None
    return Rule(where, match["pattern"], setting)


def chooser(rules: Iterable[Rule], modules: Iterable[str], base: QuantizationConfig) -> Chooser:
    """What rules say about the modules that may be quantized; `base` holds where no rule matches.

    Args:
        rules: in the order of the file.
        modules: canonical names.
        base: how a module is packed that no rule matches.

    Raises:
        ConfigError: for a rule that matches none of them.
    """
    chosen: dict[str, QuantizationConfig | None] = dict.fromkeys(modules, base)
    for rule in rules:
        matched = [name for name in chosen if fnmatchcase(name, rule.pattern)]
        if not matched:
            raise ConfigError(
                f"{rule.where}: {rule.pattern} matches nothing that may be quantized (the vision tower and the "
                "connector only when included, norms, positions, gates and routers never); names look like "
                f"{next(iter(chosen))}"
            )
        chosen |= dict.fromkeys(matched, rule.setting)
    return chosen.__getitem__
