"""Kernel texts and the variants of them that are compiled.

A variant is what the preprocessor has to know because it changes the signature (a gate, a mask, key kinds, packed keys
and values). Dtypes and sizes are template arguments. The text lies in `.metal` files beside this one; CUDA
compiles the same text behind `cuda.h`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

import mlx.core as mx

Name = Literal["decode", "prefill", "merge"]
Value = int | mx.Dtype

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Variant:
    """One kernel text with its compile-time features.

    Attributes:
        name: which kernel.
        gate, mask, mass: whether it takes gate features, a boolean mask, key kinds (and returns their masses).
        raw: whether it computes the gate features of the queries itself (decode only).
        bits: 0 for plain keys and values, 4 or 8 for affine-quantized ones (decode only).
    """

    name: Name
    gate: bool = False
    mask: bool = False
    mass: bool = False
    bits: int = 0
    raw: bool = False

    @property
    def label(self) -> str:
        """A name of its own, since compiled libraries are cached by name."""
        marks = [
            ("gate", self.gate),
            ("raw", self.raw),
            ("mask", self.mask),
            ("mass", self.mass),
            (f"q{self.bits}", self.bits),
        ]
        return "_".join(["pair_gate", self.name, *(word for word, on in marks if on)])

    @property
    def inputs(self) -> list[str]:
        """Names of the inputs, in order."""
        if self.name == "merge":
            return ["parts", "lses"] + ["masses"] * self.mass
        names = ["q", "k", "v"] + ["ks", "kb", "vs", "vb"] * bool(self.bits)
        names += [*(["gq", "gp", "go"] if self.raw else ["gu"]), "gv", "slots"] * self.gate
        names += ["mask"] * self.mask + ["kinds"] * self.mass
        return [*names, "dims", "consts"]

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs, in order."""
        return ["out", "lse"] + ["mass"] * self.mass

    @property
    def header(self) -> str:
        """Text that stands before the kernel."""
        matrices = "#include <metal_simdgroup_matrix>\n" if self.name == "prefill" else ""
        return matrices + self._defines + _text("common.metal")

    @property
    def cuda_header(self) -> str:
        """The same for CUDA, where Metal's names have to be given a meaning first."""
        return self._defines + _text("cuda.h") + _text("common.metal")

    @property
    def body(self) -> str:
        """Text of the kernel's body."""
        return _text(f"pair_gate_{self.name}.metal")

    @property
    def _defines(self) -> str:
        features = {"GATE": self.gate, "RAW": self.raw, "MASK": self.mask, "MASS": self.mass, "BITS": self.bits}
        return "".join(f"#define {name} {int(value)}\n" for name, value in features.items())


@dataclass(frozen=True)
class Call:
    """One launch: everything that MLX's custom kernels, or the emulator of the tests, have to be told.

    Attributes:
        variant: the kernel.
        inputs: in the order of `variant.inputs`.
        template: names and values of the template arguments.
        grid: threads, not threadgroups, as for `mx.fast.metal_kernel`.
        threadgroup: threads of a threadgroup.
        output_shapes, output_dtypes: in the order of `variant.outputs`.
    """

    variant: Variant
    inputs: Sequence[mx.array]
    template: Sequence[tuple[str, Value]]
    grid: tuple[int, int, int]
    threadgroup: tuple[int, int, int]
    output_shapes: Sequence[tuple[int, ...]]
    output_dtypes: Sequence[mx.Dtype]


@cache
def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8")
