"""The kernels prove themselves on a machine before anything relies on them.

Their text is compiled by a driver that may be newer than this package. So the first call of a process runs one small
decode and one small prefill and compares them with the reference path; a kernel that does not compile, or is wrong,
costs a warning and the next path, not an answer.
"""

from __future__ import annotations

import logging
from functools import cache
from typing import cast

import mlx.core as mx

from rave_mlx.attention.gate import GateTerms
from rave_mlx.attention.kernels.fused import Request, Run, fused
from rave_mlx.attention.reference import reference

_TOLERANCE = 1e-4
_WIDTH, _RANK, _KEYS = 64, 16, 300
_log = logging.getLogger(__name__)


@cache
def self_check(run: Run) -> str | None:
    """What is wrong with the kernels that `run` launches; None when they are right. Checked once, then remembered."""
    try:
        error = max(_error(run, 1), _error(run, 40))
    except RuntimeError as problem:  # MLX's, for a text that does not compile or a device that cannot run it
        reason = f"they cannot run on this machine ({str(problem).strip().splitlines()[0]})"
    else:
        if error <= _TOLERANCE:
            return None
        reason = f"they are wrong on this machine (relative error {error:.1e})"
    _log.warning("fused attention kernels are off: %s", reason)
    return reason


def _error(run: Run, num_queries: int) -> float:
    """Relative L2 distance to the reference path for one call with a gate on half of the heads."""
    key = mx.random.key(0)

    def normal(*shape: int) -> mx.array:
        nonlocal key
        key, now = mx.random.split(key)
        return mx.random.normal(shape, key=now)

    q, k, v = normal(1, 4, num_queries, _WIDTH), normal(1, 2, _KEYS, _WIDTH), normal(1, 2, _KEYS, _WIDTH)
    gate = GateTerms(normal(1, 2, num_queries, _RANK), normal(1, 1, _KEYS, _RANK), (1,), (0, _KEYS))
    request = Request(q, k, v, _WIDTH**-0.5, "causal", gate)
    right = reference(q, k, v, scale=request.scale, mask="causal", gate=gate)
    distance = mx.linalg.norm(fused(request, run).out - right) / mx.linalg.norm(right)
    return float(cast(float, distance.item()))
