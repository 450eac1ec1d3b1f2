"""The only door from a decoder layer (or a vision layer) to a softmax.

`attend` decides how attention is computed; callers never do. Every path gives the numbers of `reference`:

| path      | when                                                                                   |
|-----------|----------------------------------------------------------------------------------------|
| stock     | no gate, or no visual key yet: MLX's fused attention (not on a CPU)                   |
| fold      | a linear gate, float32, and widened heads that stock attention still fuses (GPUs only) |
| kernel    | any other gate on Metal or CUDA: the fused kernels, for what they cover                |
| blocks    | many queries on a CPU, where its kernels are built and cover them                      |
| chunked   | the rest: blocks of queries, memory O(block * Lk)                                      |
| train     | only when asked for: chunked, with a gradient whose memory is linear too               |
| reference | tests: explicit scores in float32                                                      |

The kernel and blocks paths have the gradient of the train path. What the kernels of GPUs cover is listed in
`kernels.coverage`, what those of a CPU cover in `block_kernel`. A query that may attend to no key gives zero on every
path.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Literal

import mlx.core as mx

from rave_mlx import backend
from rave_mlx.attention.block_kernel import blocks, takes_blocks
from rave_mlx.attention.chunked import chunked
from rave_mlx.attention.fold import can_fold, fold
from rave_mlx.attention.gate import GateTerms
from rave_mlx.attention.gradient import differentiable, train
from rave_mlx.attention.kernels.fused import Packed, Request
from rave_mlx.attention.kernels.launch import launch, refusal
from rave_mlx.attention.masks import Mask, causal
from rave_mlx.attention.packed import expand, expanded
from rave_mlx.attention.reference import reference
from rave_mlx.attention.stock import stock

Path = Literal["stock", "fold", "kernel", "blocks", "chunked", "train", "reference"]

_FEW_QUERIES = 8
"""Queries up to which quantized keys are read in place; for more, expanding them costs less than the kernel loses."""
_log = logging.getLogger(__name__)


def attend(
    q: mx.array,
    k: mx.array | Packed,
    v: mx.array | Packed,
    *,
    scale: float,
    mask: Mask = None,
    gate: GateTerms | None = None,
    path: Path | None = None,
) -> mx.array:
    """Scaled dot-product attention with an optional gate: softmax(scale * q k^T + bias + mask) v.

    Args:
        q: rotated queries (B, H, Lq, d).
        k: rotated keys (B, G, Lk, d), H a multiple of G, or quantized ones; then see `attend_packed`.
        v: values (B, G, Lk, d), quantized where keys are.
        scale: factor of the dot products, usually d ** -0.5.
        mask: None, "causal" (aligned to the last key) or boolean, broadcastable to (B, 1, Lq, Lk).
        gate: bias terms; None for none.
        path: force one path; None lets the backend and the gate decide.

    Returns:
        (B, H, Lq, d) in q's dtype; zero for a query that may attend to no key.

    Raises:
        ValueError: for a forced path that cannot compute this call, with the reason.
    """
    if isinstance(k, Packed) and isinstance(v, Packed) and path is None:
        return attend_packed(q, k, v, scale=scale, mask=mask, gate=gate)
    k, v = expanded(k, q.dtype), expanded(v, q.dtype)
    gate, mask = _present(gate), _aligned(mask, q.shape[2], k.shape[2])
    path = path or choose_path(Request(q, k, v, scale, mask, gate))
    return _PATHS[path](q, k, v, scale=scale, mask=mask, gate=gate)


def choose_path(request: Request) -> Path:
    """The path `attend` takes for a request on the current backend."""
    if backend.current().kind == "cpu":
        covered = takes_blocks(request.q, request.k, request.v, request.mask, request.gate)
        return "blocks" if covered else "chunked"
    if request.gate is None:
        return "stock"
    if can_fold(request.gate, request.q):
        return "fold"
    return "kernel" if _covered(request) else "chunked"


def attend_with_mass(
    q: mx.array,
    k: mx.array,
    v: mx.array,
    *,
    kinds: mx.array,
    num_kinds: int,
    scale: float,
    mask: Mask = None,
    gate: GateTerms | None = None,
) -> tuple[mx.array, mx.array]:
    """`attend`, and how much attention each query pays to each kind of key.

    Args:
        q: rotated queries (B, H, Lq, d).
        k: rotated keys (B, G, Lk, d).
        v: values (B, G, Lk, d).
        kinds: (B, Lk) uint8, for each key a kind below `num_kinds` (say visual, sink, rest).
        num_kinds: how many kinds there are.
        scale: factor of the dot products.
        mask: as of `attend`.
        gate: as of `attend`.

    Returns:
        The output as of `attend`, and masses (B, H, Lq, num_kinds) in float32 that sum to 1 for every query that may
        attend to a key, to 0 for the others.
    """
    gate, mask = _present(gate), _aligned(mask, q.shape[2], k.shape[2])
    request = Request(q, k, v, scale, mask, gate, kinds=kinds, num_kinds=num_kinds)
    if _covered(request):
        result = launch(request)
        assert result.mass is not None
        return result.out, result.mass
    # The mass of a kind is the attention output for values that are 1 on its keys and 0 elsewhere.
    marks = (kinds[:, None, :, None] == mx.arange(num_kinds)).astype(v.dtype)
    marks = mx.broadcast_to(marks, (*v.shape[:3], num_kinds))
    out = chunked(q, k, mx.concatenate([v, marks], axis=-1), scale=scale, mask=mask, gate=gate)
    return out[..., : v.shape[-1]], out[..., v.shape[-1] :].astype(mx.float32)


def attend_packed(
    q: mx.array, k: Packed, v: Packed, *, scale: float, mask: Mask = None, gate: GateTerms | None = None
) -> mx.array:
    """`attend` over quantized keys and values: read as they are where a kernel covers them, else expanded first.

    Args:
        q: rotated queries (B, H, Lq, d).
        k: rotated keys, quantized along d.
        v: values, quantized along d in the same way.
        scale: factor of the dot products.
        mask: as of `attend`.
        gate: as of `attend`.

    Returns:
        (B, H, Lq, d) in q's dtype.
    """
    gate, mask = _present(gate), _aligned(mask, q.shape[2], k.codes.shape[2])
    request = Request(q, k, v, scale, mask, gate)
    if q.shape[2] <= _FEW_QUERIES and _covered(request):
        return launch(request).out
    return attend(q, expand(k, q.dtype), expand(v, q.dtype), scale=scale, mask=mask, gate=gate)


def _present(gate: GateTerms | None) -> GateTerms | None:
    """No gate where there is no visual key yet."""
    return None if gate is None or gate.span[0] >= gate.span[1] else gate


def _aligned(mask: Mask, num_queries: int, num_keys: int) -> Mask:
    """The causal order as an array where it leaves the first queries without a key, which few paths expect."""
    return causal(num_queries, num_keys) if isinstance(mask, str) and num_queries > num_keys else mask


def _covered(request: Request) -> bool:
    reason = refusal(request)
    if reason is not None:
        _note(reason)
    return reason is None


@cache
def _note(reason: str) -> None:
    """One line for each reason, not one for each layer and token."""
    _log.debug("the fused attention kernel is not used: %s", reason)


def _kernel(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: Mask = None, gate: GateTerms | None = None
) -> mx.array:
    """The fused kernels, with the gradient of the train path where the call can have one."""
    if gate is not None and gate.raw is not None:
        return launch(Request(q, k, v, scale, mask, gate)).out

    def forward(q: mx.array, k: mx.array, v: mx.array, mask: Mask, gate: GateTerms | None) -> tuple[mx.array, mx.array]:
        result = launch(Request(q, k, v, scale, mask, gate))
        return result.out, result.lse

    return differentiable(forward, q, k, v, scale=scale, mask=mask, gate=gate)[0]


_PATHS: dict[Path, Callable[..., mx.array]] = {
    "stock": stock,
    "fold": fold,
    "kernel": _kernel,
    "blocks": blocks,
    "chunked": chunked,
    "train": train,
    "reference": reference,
}
