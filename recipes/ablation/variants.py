"""What is compared: forms of the gate, and changes that train as many parameters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class GateForm:
    """Which terms a gate has, what it reads, and where it acts.

    Attributes:
        rank: of the pair term; 0 for none.
        query, key, constant: whether it has the terms of the query alone, the key alone, neither.
        features: queries and keys before rotation, or after it.
        keys: which keys are biased: those of the image, or all.
        squash: the function that the bias passes through, as of `rave_mlx.config.GateConfig`.
        groups: how many KV heads are gated; None for all.
    """

    rank: int = 14
    query: bool = True
    key: bool = True
    constant: bool = True
    features: Literal["pre_rope", "post_rope"] = "pre_rope"
    keys: Literal["visual", "all"] = "visual"
    squash: Literal["tanh", "identity", "suppress", "boost"] = "tanh"
    groups: int | None = None


@dataclass(frozen=True)
class Variant:
    """One way to go on from the common start.

    Attributes:
        gate: added to every decoder layer; None for none.
        lora: rank of adapters on query and key projections, and on value projections; None for none.
        wider: hidden units added to the MLP of every decoder layer.
        frozen: whether all that the start has stays as it is.
        seeds: how many runs.
        mutual: image tokens see the question (modality-mutual attention).
        rate: by which the rates of what the start has are multiplied.
        added_rate: of what is added, in place of the one that was chosen for its kind.
        questions: asked about a page; None for all. With few of them, fewer pages are measured, too.
    """

    gate: GateForm | None = None
    lora: tuple[int, int] | None = None
    wider: int = 0
    frozen: bool = False
    seeds: int = 2
    mutual: bool = False
    questions: int | None = None
    rate: float = 1.0
    added_rate: float | None = None

    @property
    def addition(self) -> str | None:
        """What is added, as learning rates know it: "gate", "lora", "wider"; None for nothing."""
        return "gate" if self.gate is not None else "lora" if self.lora is not None else "wider" if self.wider else None


MATCHED_LORA = (6, 1)
"""Ranks with which adapters have 2,880 parameters a layer; a gate of rank 14 has 2,884."""
MATCHED_WIDTH = 8
"""Hidden units that add 3,072 parameters a layer."""
SEVERAL = 5
"""Seeds of the primary comparisons."""
FEW = 3
"""Questions about a page where it has to be read once for each of them."""

VARIANTS: dict[str, Variant] = {
    "none": Variant(seeds=SEVERAL),
    "pair r=14": Variant(GateForm(), seeds=SEVERAL),
    "lora": Variant(lora=MATCHED_LORA, seeds=SEVERAL),
    "wider": Variant(wider=MATCHED_WIDTH, seeds=SEVERAL),
    "constant": Variant(GateForm(0, False, False)),
    "query only": Variant(GateForm(0, key=False)),
    "key only": Variant(GateForm(0, query=False, constant=False)),
    "sum": Variant(GateForm(0)),
    "pair r=1": Variant(GateForm(1)),
    "after rope": Variant(GateForm(features="post_rope")),
    "all keys": Variant(GateForm(keys="all")),
    "identity": Variant(GateForm(squash="identity")),
    "suppress": Variant(GateForm(squash="suppress")),
    "boost": Variant(GateForm(squash="boost")),
    "half the groups": Variant(GateForm(groups=1)),
    "few questions": Variant(questions=FEW),
    "few questions, pair r=14": Variant(GateForm(), questions=FEW),
    "few questions, mma": Variant(mutual=True, questions=FEW),
    "frozen, pair r=14": Variant(GateForm(), frozen=True, seeds=SEVERAL),
    "frozen, lora": Variant(lora=MATCHED_LORA, frozen=True, seeds=SEVERAL),
    "frozen, wider": Variant(wider=MATCHED_WIDTH, frozen=True),
    "frozen, sum": Variant(GateForm(0), frozen=True),
    "frozen, constant": Variant(GateForm(0, False, False), frozen=True),
    "frozen, pair r=1": Variant(GateForm(1), frozen=True),
    "frozen, after rope": Variant(GateForm(features="post_rope"), frozen=True),
    "frozen, all keys": Variant(GateForm(keys="all"), frozen=True),
    "frozen, lora x2": Variant(lora=(2 * MATCHED_LORA[0], 2 * MATCHED_LORA[1]), frozen=True, seeds=3),
    "frozen, lora and pair r=14": Variant(GateForm(), lora=MATCHED_LORA, frozen=True, seeds=3),
    "rates x3": Variant(rate=3.0, seeds=3),
    "rates x3, pair r=14": Variant(GateForm(), rate=3.0, seeds=3),
    "rates x3, lora": Variant(lora=MATCHED_LORA, rate=3.0, seeds=3),
    "rates x3, lora at 1e-2": Variant(lora=MATCHED_LORA, rate=3.0, added_rate=1e-2, seeds=3),
    "rates x3, pair r=14 at 1e-2": Variant(GateForm(), rate=3.0, added_rate=1e-2, seeds=3),
}
"""All that is run, by name. "frozen": only what is added is trained."""
TRIED = {"gate": "frozen, pair r=14", "lora": "frozen, lora", "wider": "frozen, wider"}
"""The variant with which the learning rate of each addition is chosen."""
