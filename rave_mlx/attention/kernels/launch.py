"""How attention calls reach the GPU's fused kernels.

| backend | what runs                                         |
|---------|---------------------------------------------------|
| metal   | the `.metal` texts through `mx.fast.metal_kernel` |
| cuda    | the same texts through `mx.fast.cuda_kernel`      |
| cpu     | nothing here: the kernels are never built         |

What they cover is listed in `coverage`. Every variant of a kernel is checked on the machine at hand before its first
use (`selfcheck`).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from functools import cache
from typing import Any, cast

import mlx.core as mx

from rave_mlx import backend
from rave_mlx.attention.kernels.coverage import shape_refusal
from rave_mlx.attention.kernels.fused import Request, Result, Run, fused
from rave_mlx.attention.kernels.selfcheck import self_check
from rave_mlx.attention.kernels.source import Call, Variant

Kernel = Callable[..., Sequence[mx.array]]

_MOST_ANSWERS = 1024
_answers: dict[tuple[Hashable, ...], str | None] = {}
"""What `refusal` has said, by request."""


def refusal(request: Request) -> str | None:
    """Why the fused kernels do not take this request on the current backend; None when they do."""
    run = _runner()
    if run is None:
        return f"the {backend.current().kind} backend has no fused kernels (they need Metal or CUDA)"
    # Every layer of a pass asks the same, and finding the answer costs as much as a launch.
    key = (run, *request.signature)
    if key not in _answers:
        if len(_answers) >= _MOST_ANSWERS:
            _answers.clear()
        _answers[key] = shape_refusal(request) or self_check(run, request)
    return _answers[key]


def launch(request: Request) -> Result:
    """Run a request on the GPU.

    Raises:
        ValueError: when `refusal` has a reason, with that reason.
    """
    run = _runner()
    reason = refusal(request)
    if run is None or reason is not None:
        raise ValueError(f"the fused kernel cannot compute this call: {reason}")
    return fused(request, run)


def run_metal(call: Call, *, verbose: bool = False) -> Sequence[mx.array]:
    """Launch on Metal. `verbose` prints the text that MLX hands to the Metal compiler."""
    return _metal(call.variant)(verbose=verbose, **_arguments(call))


def run_cuda(call: Call) -> Sequence[mx.array]:
    """Launch on CUDA."""
    return _cuda(call.variant)(**_arguments(call))


def _runner() -> Run | None:
    return _RUNNERS.get(backend.current().kind)


_RUNNERS: dict[str, Run] = {"metal": run_metal, "cuda": run_cuda}


def _arguments(call: Call) -> dict[str, Any]:
    return {
        "inputs": list(call.inputs),
        "template": list(call.template),
        "grid": call.grid,
        "threadgroup": call.threadgroup,
        "output_shapes": list(call.output_shapes),
        "output_dtypes": list(call.output_dtypes),
    }


@cache
def _metal(variant: Variant) -> Kernel:
    # Views of a growing cache are not contiguous: the kernels take strides, so that nothing is copied.
    kernel: Any = mx.fast.metal_kernel(
        name=variant.label,
        input_names=variant.inputs,
        output_names=variant.outputs,
        source=variant.body,
        header=variant.header,
        ensure_row_contiguous=variant.name == "merge",
    )
    return cast(Kernel, kernel)


@cache
def _cuda(variant: Variant) -> Kernel:
    kernel: Any = mx.fast.cuda_kernel(
        name=variant.label,
        input_names=variant.inputs,
        output_names=variant.outputs,
        source=variant.body,
        header=variant.cuda_header,
        ensure_row_contiguous=variant.name == "merge",
    )
    return cast(Kernel, kernel)
