"""Which attention calls the fused kernels take.

| covered            | values                                                       |
|--------------------|--------------------------------------------------------------|
| dtype of q, k, v   | float16, bfloat16, float32, all the same; inside float32     |
| head width         | 64, 80, 96, 128, 256, the same for q, k and v                |
| gate width R       | 8, 16, 32, in any of the three dtypes; any KV heads ungated  |
| squash             | identity, tanh, suppress, boost                              |
| mask               | none, causal, boolean; a window on top of any of them        |
| kinds of keys      | up to 8, when their attention masses are wanted              |
| quantized k and v  | affine, 4 or 8 bits, group size 32, 64 or 128                |
"""

from __future__ import annotations

import mlx.core as mx

from rave_mlx.attention.gate import GateTerms
from rave_mlx.attention.kernels.fused import Packed, Request

WIDTHS = (64, 80, 96, 128, 256)
GATE_WIDTHS = (8, 16, 32)
DTYPES = (mx.float16, mx.bfloat16, mx.float32)
GROUP_SIZES = (32, 64, 128)
MAX_KINDS = 8


def shape_refusal(request: Request) -> str | None:
    """Why no kernel covers the dtypes and shapes of this request, whatever the backend; None when one does."""
    q, gate, mask = request.q, request.gate, request.mask
    if q.dtype not in DTYPES:
        return f"queries of {_word(q.dtype)} (covered: float16, bfloat16, float32)"
    if q.shape[-1] not in WIDTHS:
        return f"head width {q.shape[-1]} (covered: {', '.join(map(str, WIDTHS))})"
    if q.size == 0 or request.sizes[4] == 0:
        return "no query or no key"
    reason = _packed_refusal(request) if isinstance(request.k, Packed) else _plain_refusal(request)
    if reason is not None:
        return reason
    if isinstance(mask, mx.array) and mask.dtype != mx.bool_:
        return f"a mask of {_word(mask.dtype)} (covered: boolean, True where a query may attend)"
    if request.kinds is not None and not 1 <= request.num_kinds <= MAX_KINDS:
        return f"{request.num_kinds} kinds of keys (covered: 1 to {MAX_KINDS})"
    return None if gate is None else _gate_refusal(gate)


def _plain_refusal(request: Request) -> str | None:
    q, k, v = request.q, request.k, request.v
    if not isinstance(k, mx.array) or not isinstance(v, mx.array):
        return "quantized values with plain keys"
    if k.dtype != q.dtype or v.dtype != q.dtype:
        return f"queries, keys and values of {_word(q.dtype)}, {_word(k.dtype)} and {_word(v.dtype)}"
    if k.shape[-1] != q.shape[-1] or v.shape != k.shape:
        return f"keys {k.shape} and values {v.shape} for queries of width {q.shape[-1]}"
    return None


def _packed_refusal(request: Request) -> str | None:
    k, v = request.k, request.v
    if not isinstance(k, Packed) or not isinstance(v, Packed):
        return "quantized keys with plain values"
    if (k.bits, k.group_size) != (v.bits, v.group_size) or k.bits not in (4, 8) or k.group_size not in GROUP_SIZES:
        return (
            f"keys of {k.bits} bits in groups of {k.group_size} and values of {v.bits} bits in groups of "
            f"{v.group_size} (covered: 4 or 8 bits, groups of 32, 64 or 128, the same for both)"
        )
    return None


def _gate_refusal(gate: GateTerms) -> str | None:
    if gate.v.shape[-1] not in GATE_WIDTHS:
        return f"gate width {gate.v.shape[-1]} (covered: {', '.join(map(str, GATE_WIDTHS))})"
    if gate.u.dtype not in DTYPES or gate.v.dtype not in DTYPES:
        return f"gate features of {_word(gate.u.dtype)} and {_word(gate.v.dtype)}"
    return None


def _word(dtype: mx.Dtype) -> str:
    return str(dtype).removeprefix("mlx.core.")
