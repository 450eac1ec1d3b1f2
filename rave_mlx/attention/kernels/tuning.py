"""Tile sizes of the fused kernels.

The limits are those of Apple GPUs: 32 KB of threadgroup memory, about 100 registers a thread before occupancy falls.
The prefill tiles are those of MLX's own attention (32 rows; 32 keys, or 16 from head width 128 on).
"""

from __future__ import annotations

from dataclasses import dataclass

SHARED_BYTES = 32 * 1024
_REGISTERS = 104
"""Floats that a lane of the decode kernel may hold."""
_ROWS = 8
"""Query rows that a threadgroup of the decode kernel holds at most."""
_DECODE_SIMDGROUPS = 8
_SPLIT_KEYS, _SPLIT_GROUPS = 256, 256
"""Decode: keys of a split at least, and threadgroups from which nothing is split any more."""
_PREFILL_SPLIT_KEYS, _PREFILL_GROUPS = 1024, 32
"""The same for prefill."""


@dataclass(frozen=True)
class DecodeTile:
    """Sizes of a launch of the decode kernel.

    Attributes:
        rows: query rows that a threadgroup holds in registers.
        lanes: SIMD lanes that share a key.
        simdgroups: of a threadgroup.
        splits: parts that the keys are split into.
    """

    rows: int
    lanes: int
    simdgroups: int
    splits: int


@dataclass(frozen=True)
class PrefillTile:
    """Sizes of a launch of the prefill kernel.

    Attributes:
        keys: keys of a block.
        simdgroups: of a threadgroup, 8 query rows each.
        splits: parts that the keys are split into.
    """

    keys: int
    simdgroups: int
    splits: int


def decode_tile(rows: int, width: int, gate_width: int, num_keys: int, heads: int) -> DecodeTile:
    """Sizes for few query rows.

    Args:
        rows: query rows of a KV head: queries times the query heads that share it.
        width: head width.
        gate_width: R; 0 without a gate.
        num_keys: keys of the call.
        heads: batch times KV heads.
    """
    held, lanes = min(rows, _ROWS), _lanes(width)
    while held > 1 and held * _registers(width, gate_width, lanes[-1]) > _REGISTERS:
        held -= 1
    held = -(-rows // -(-rows // held))  # the same number in every row set
    share = next((n for n in lanes if held * _registers(width, gate_width, n) <= _REGISTERS), lanes[-1])
    groups = heads * -(-rows // held)
    return DecodeTile(held, share, _DECODE_SIMDGROUPS, _splits(num_keys, _SPLIT_KEYS, groups, _SPLIT_GROUPS))


def prefill_tile(
    rows: int, width: int, gate_width: int, sizes: tuple[int, int], num_keys: int, heads: int
) -> PrefillTile:
    """Sizes for many query rows.

    Args:
        rows: query rows of a KV head: queries times the query heads that share it.
        width: head width.
        gate_width: R; 0 without a gate.
        sizes: bytes of an element of q, k and v, and of a gate feature.
        num_keys: keys of the call.
        heads: batch times KV heads.
    """
    keys = 32 if width < 128 else 16
    simdgroups = 4
    while shared_bytes(keys, simdgroups, width, gate_width, sizes) > SHARED_BYTES:
        if simdgroups > 2:
            simdgroups //= 2
        else:
            keys //= 2
    groups = heads * -(-rows // (8 * simdgroups))
    return PrefillTile(keys, simdgroups, _splits(num_keys, _PREFILL_SPLIT_KEYS, groups, _PREFILL_GROUPS))


def shared_bytes(keys: int, simdgroups: int, width: int, gate_width: int, sizes: tuple[int, int]) -> int:
    """Threadgroup memory of the prefill kernel in bytes; every row is padded by 16 bytes.

    Args:
        keys: keys of a block.
        simdgroups: of a threadgroup.
        width: head width.
        gate_width: R; 0 without a gate.
        sizes: bytes of an element of q, k and v, and of a gate feature.
    """
    gate = keys * (gate_width * sizes[1] + 16) if gate_width else 0
    return (8 * simdgroups + keys) * (width * sizes[0] + 16) + gate


def _lanes(width: int) -> list[int]:
    return [n for n in (8, 16, 32) if width % n == 0]


def _registers(width: int, gate_width: int, lanes: int) -> int:
    """Floats a lane holds for one row: its share of q, of the output and of u, and the running softmax."""
    return 2 * width // lanes + -(-gate_width // lanes) + 4


def _splits(num_keys: int, keys: int, groups: int, wanted: int) -> int:
    """Splits of at least `keys` keys each, as many as bring `groups` threadgroups to `wanted`."""
    return max(1, min(num_keys // keys, wanted // groups))
