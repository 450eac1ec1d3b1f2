"""What a model family is to the converter: how its configuration translates, and where its tensors lie."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import mlx.core as mx

from rave_mlx.config import LMMConfig
from rave_mlx.convert.source import Source

GATE_KEY = "pair_gate"
"""Where our export keeps the gate: its configuration in a Hub-style config.json, its tensors in each attention."""

ExpertLayout = Literal["fused", "turned", "single"]
"""How a checkpoint stores experts, see `convert.expert_tensors`."""

HubConfig = Mapping[str, Any]
"""A checkpoint's config.json."""


@dataclass(frozen=True)
class Origin:
    """Where a canonical tensor lies in a checkpoint.

    Attributes:
        name: its name there, as transformers 5 calls the parameter (see `Family.eras` for others).
        shape: its shape there; None for the canonical one.
        rows: the part [first, end) of the first axis, of a tensor that holds several canonical ones, or rows that
            are not used (then with `shape`).
        rest: further tensors, each with its shape, whose rows follow: a canonical tensor that lies in several.
    """

    name: str
    shape: tuple[int, ...] | None = None
    rows: tuple[int, int] | None = None
    rest: tuple[Origin, ...] = ()


@dataclass(frozen=True)
class Family:
    """A model family.

    Attributes:
        config: the canonical configuration of a checkpoint; ConfigError for a key that is missing, of the wrong
            type, or set to what is not implemented.
        origin: where a canonical tensor of such a model lies, from (canonical name, canonical configuration,
            config.json).
        eras: (prefix, modern prefix) of names written by other versions of transformers, or by MLX packages; the
            first that fits is replaced.
        ignored: regular expressions of modern names that are no weights of the model (unused heads).
        template: the chat template of checkpoints that bring none as a file of its own, or None.
        stacked: modules that MLX packages stack into one: how its name ends, and those of its equal parts.
        restored: the tensors as transformers stores them, from those of a checkpoint that another package may have
            written with other numbers; None: they are the same.
        renames: (regular expression, replacement) of parts of older names, after `eras`.
        left_out: whether a tensor of a modern name is left out knowingly, with this canonical configuration and this
            config.json (layers that predict further tokens); None: none is.
        published: (regular expression, replacement) of names of an export, one after the other, where transformers
            reads and writes checkpoints under other names than its parameters have.
        unexported: sections of config.json about parts that are left out; an export has null in their place.
        experts: how its published checkpoints store experts, and so an export. They are read in any layout.
    """

    config: Callable[[Source], LMMConfig]
    origin: Callable[[str, LMMConfig, HubConfig], Origin]
    eras: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()
    template: str | None = None
    stacked: tuple[tuple[str, tuple[str, ...]], ...] = ()
    restored: Callable[[Mapping[str, mx.array]], Mapping[str, mx.array]] | None = None
    renames: tuple[tuple[str, str], ...] = ()
    left_out: Callable[[str, LMMConfig, HubConfig], bool] | None = None
    unexported: tuple[str, ...] = ()
    experts: ExpertLayout = "fused"
    published: tuple[tuple[str, str], ...] = ()

    def modern(self, name: str) -> str:
        """The name of transformers 5 for a tensor's name in a checkpoint of any era."""
        for prefix, modern in self.eras:
            if name.startswith(prefix):
                name = modern + name.removeprefix(prefix)
                break
        for pattern, replacement in self.renames:
            name = re.sub(pattern, replacement, name)
        return name

    def exported(self, name: str) -> str:
        """The name in an export of a tensor that transformers 5 calls so."""
        for pattern, replacement in self.published:
            name = re.sub(pattern, replacement, name)
        return name

    def ignores(self, name: str) -> bool:
        """Whether a tensor of this modern name is left out knowingly."""
        return any(re.fullmatch(pattern, name) for pattern in self.ignored)
