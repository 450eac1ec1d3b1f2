"""Elementwise functions that are slow in MLX on a CPU: 2^x, SiLU, GELU and the bounded tanh of the gate.

MLX's CPU exp, tanh, sigmoid and erf cost 12 to 20 ns an element on x86, several times the matrix products around
them once a fast BLAS is in place. So large float32 arrays on a CPU go through polynomials of additions and
multiplications, which `mx.compile` turns into vector code through g++ (1 to 2 ns); without g++ 2^x is `mx.power`,
still a third of the price of `mx.exp`. Everything else is MLX's own operations.

The kernels obey three properties of MLX's CPU compiler: it fuses at most 11 operations in a row; a minimum, maximum
or select inside a kernel keeps g++ from vectorising it, so clamps stand apart, where they are cheap; and it traces
every new shape anew and never forgets one, so only the most recent shapes are kept.

Coefficients are minimax fits computed in float64, by Remez exchange (2^x) or Lawson's weighted least squares (the
others), and rounded to float32. Gradients are given explicitly, since bit patterns have none.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache, lru_cache
from typing import Any, cast

import mlx.core as mx

from rave_mlx import backend

LN2 = math.log(2.0)
LOG2E = math.log2(math.e)
_LARGE = 1 << 12
"""Elements from which compiled kernels pay for their dispatch (20 us)."""
_LARGE_EXP2 = 1 << 16
"""The same for 2^x, whose plain form is cheaper and whose shape, that of attention scores, changes with every
decoded token: here a trace (0.2 ms) has to pay as well."""
_LARGE_TANH = 1 << 10
"""The same for tanh: the bias of a written token is this small, and MLX's tanh takes 37 ns an element."""
_SHAPES = 256
_SQRT_HALF = 0.7071067811865476
_INV_SQRT_2PI = 0.3989422804014327
_ROUND = 12582912.0
"""1.5 * 2^23: adding and subtracting it rounds a float32 of magnitude below 2^22 to an integer."""

_EXP2 = (-4194304.0, 5814578.0, 2014602.0, 468241.25, 75421.9296875, 15764.8671875)
"""2^23 * (2^f - 1) - 2^22 on [0, 1]: relative error of 2^f 9.3e-8; exact at both ends, in float32 too."""
_TANH_CLIP = 8.25
_TANH_P = (1.0, 0.13429000973701477, 0.003552930662408471, 2.157285598514136e-05, 1.474414190738571e-08)
_TANH_Q = (1.0, 0.4676232635974884, 0.026094138622283936, 0.000338019774062559, 8.332800689458963e-07)
"""tanh(z) = z P(z^2) / Q(z^2) on |z| <= 8.25: relative error 8.8e-9; 1 - tanh(8.25) is 1.4e-7."""
_GELU_CLIP = 13.0
_GELU = (
    -0.999993085861206,
    -1.1512017250061035,
    -0.4587709605693817,
    -0.05341210216283798,
    0.00808071531355381,
    -0.000769219477660954,
    3.3092790545197204e-05,
)
"""log2 Q(a) on [0, 13], Q the upper tail of the normal distribution: absolute error of a * Q(a) 5.2e-8."""


def exp2(x: mx.array) -> mx.array:
    """2^x, of any shape.

    Where the polynomial is used: 5e-7 relative; exact at integers from -126 to 127; flushed to 0 between -126 and
    -127, and 0 from there down to -inf; inf from 128 up; NaN stays NaN.
    """
    if _is_large(x, _LARGE_EXP2) and backend.current().jit:
        return _exp2(x)
    return mx.power(mx.array(2.0, x.dtype), x)


def exp2_down(x: mx.array) -> mx.array:
    """`exp2` where nothing is above 0 (or it is NaN), as scores below the largest: a pass less."""
    if _is_large(x, _LARGE_EXP2) and backend.current().jit:
        return _exp2_down(x)
    return mx.power(mx.array(2.0, x.dtype), x)


def silu(x: mx.array) -> mx.array:
    """x * sigmoid(x), of any shape; 5e-7 of |x| where the polynomial is used."""
    return _silu(x) if _is_large(x) else _stock(_plain_silu)(x)


def silu_mul(gate: mx.array, up: mx.array) -> mx.array:
    """The inside of a SwiGLU MLP: silu(gate) * up for two arrays of one shape."""
    return _silu_mul(gate, up) if _is_large(gate) and _is_large(up) else _stock(_plain_silu_mul)(gate, up)


def gelu(x: mx.array) -> mx.array:
    """x times the normal distribution function of x, as `torch.nn.GELU()`; 1e-6 absolute, for |x| > 10 relative."""
    return _gelu(x) if _is_large(x) else _stock(_plain_gelu)(x)


def gelu_tanh(x: mx.array) -> mx.array:
    """GELU by its tanh approximation, as `torch.nn.GELU("tanh")`: x * sigmoid(2 sqrt(2 / pi) (x + 0.044715 x^3))."""
    return _sigmoid_of(x, x * (1.5957691216057308 + 0.07135481627159948 * (x * x)))


def quick_gelu(x: mx.array) -> mx.array:
    """x * sigmoid(1.702 x), the GELU of CLIP."""
    return _sigmoid_of(x, x * 1.702)


def tanh_limit(x: mx.array, limit: float, factor: float = 1.0) -> mx.array:
    """factor * limit * tanh(x / limit): odd, 0 at 0, 5e-7 relative.

    Args:
        x: of any shape.
        limit: above 0; without the factor the result is in magnitude at most limit * (1 + 5e-7).
        factor: unit of the result.
    """
    if _is_large(x, _LARGE_TANH):
        return _tanh_limit(float(limit), float(factor))(x)
    bounded = _stock(_plain_tanh_limit)(x, mx.array(limit, x.dtype))
    return bounded if factor == 1.0 else factor * bounded


def _is_large(x: mx.array, least: int = _LARGE) -> bool:
    return x.size >= least and x.dtype == mx.float32 and backend.current().kind == "cpu"


def _plain_silu(x: mx.array) -> mx.array:
    return x * mx.sigmoid(x)


def _plain_silu_mul(gate: mx.array, up: mx.array) -> mx.array:
    return gate * mx.sigmoid(gate) * up


def _sigmoid_of(x: mx.array, argument: mx.array) -> mx.array:
    """x * sigmoid(argument)."""
    if not _is_large(x):
        return x * mx.sigmoid(argument)
    return x / (1.0 + exp2(_clip(argument, -80.0, 80.0) * -LOG2E))


def _plain_gelu(x: mx.array) -> mx.array:
    return x * (0.5 + 0.5 * mx.erf(x * _SQRT_HALF))


def _plain_tanh_limit(x: mx.array, limit: mx.array) -> mx.array:
    return limit * mx.tanh(x / limit)


def _stock(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """MLX's own operations: fused on a GPU; on a CPU small arrays are not worth a run of g++."""
    return function if backend.current().kind == "cpu" else _fused(function)


@cache
def _fused(function: Callable[..., mx.array]) -> Callable[..., mx.array]:
    return mx.compile(function, shapeless=True)


@lru_cache(maxsize=_SHAPES)
def _trace(function: Callable[..., mx.array], shape: tuple[int, ...]) -> Callable[..., mx.array]:
    # The shape is part of the key only: dropping the compiled function is what frees its trace.
    return mx.compile(function)


def _run(function: Callable[..., mx.array], *arrays: mx.array) -> mx.array:
    return _trace(function, tuple(arrays[0].shape))(*arrays)


def _clip(x: mx.array, low: float, high: float) -> mx.array:
    return mx.minimum(mx.maximum(x, low), high)


def _power_of_two(y: mx.array) -> mx.array:
    """2^y for y in [-127, 128] or NaN: the polynomial, or `mx.power` where nothing can be compiled."""
    if not backend.current().jit:
        return mx.power(2.0, y)
    return _run(_power_bits, y).view(mx.float32)


def _power_bits(y: mx.array) -> mx.array:
    """The bits of the float32 2^y: exponent from the integer part of y, mantissa from the rest.

    The mantissa is centred at 0 (-2^22) and the exponent at its largest value, so that what a processor may make
    of a NaN that is converted to an integer, 0 or -2^31, gives a NaN again.
    """
    c0, c1, c2, c3, c4, c5 = _EXP2
    n = ((y - 0.5) + _ROUND) - _ROUND
    f = y - n
    f2 = f * f
    mantissa = ((c0 + c1 * f) + c2 * f2) + (f * f2) * ((c3 + c4 * f) + c5 * f2)
    exponent = ((n - 128.0) * 8388608.0).astype(mx.int32)
    return mantissa.astype(mx.int32) + (exponent + 0x7FC00000)


def _with_gradient(function: Callable[..., mx.array], vjp: Callable[..., Any]) -> Callable[..., mx.array]:
    """The function with `vjp(primals, cotangent, output)` as its gradient."""
    wrapped = mx.custom_function(function)
    wrapped.vjp(vjp)
    return cast("Callable[..., mx.array]", wrapped)


def _exp2_forward(x: mx.array) -> mx.array:
    return _power_of_two(_clip(x, -127.0, 128.0))


def _exp2_vjp(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return cotangent * output * LN2


def _exp2_down_forward(x: mx.array) -> mx.array:
    return _power_of_two(mx.maximum(x, -127.0))


_exp2 = _with_gradient(_exp2_forward, _exp2_vjp)
_exp2_down = _with_gradient(_exp2_down_forward, _exp2_vjp)


def _exp_minus(x: mx.array) -> mx.array:
    """exp(-x)."""
    return _exp2(x * -LOG2E)


def _times_sigmoid(x: mx.array, e: mx.array) -> mx.array:
    return x / (1.0 + e)


def _times_sigmoid_times(x: mx.array, e: mx.array, up: mx.array) -> mx.array:
    return x / (1.0 + e) * up


def _silu_slope(x: mx.array, e: mx.array) -> mx.array:
    sigmoid = 1.0 / (1.0 + e)
    return sigmoid * (1.0 + x * (1.0 - sigmoid))


def _silu_forward(x: mx.array) -> mx.array:
    return _run(_times_sigmoid, x, _exp_minus(x))


def _silu_vjp(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    return cotangent * _run(_silu_slope, x, _exp_minus(x))


_silu = _with_gradient(_silu_forward, _silu_vjp)


def _silu_mul_forward(gate: mx.array, up: mx.array) -> mx.array:
    return _run(_times_sigmoid_times, gate, _exp_minus(gate), up)


def _silu_mul_vjp(primals: Sequence[mx.array], cotangent: mx.array, output: mx.array) -> tuple[mx.array, mx.array]:
    gate, up = primals
    e = _exp_minus(gate)
    return cotangent * up * _run(_silu_slope, gate, e), cotangent * _run(_times_sigmoid, gate, e)


_silu_mul = _with_gradient(_silu_mul_forward, _silu_mul_vjp)


def _log2_tail(a: mx.array) -> mx.array:
    """log2 Q(a) for a in [0, 13]."""
    c0, c1, c2, c3, c4, c5, c6 = _GELU
    a2 = a * a
    return ((c0 + c1 * a) + a2 * (c2 + c3 * a)) + (a2 * a2) * ((c4 + c5 * a) + a2 * c6)


def _relu_minus(x: mx.array, a: mx.array, tail: mx.array) -> mx.array:
    return (x * 0.5 + mx.abs(x) * 0.5) - a * tail


def _gelu_forward(x: mx.array) -> mx.array:
    # x Phi(x) = max(x, 0) - |x| Q(|x|); beyond the clamp the second term is below 1e-30.
    a = mx.minimum(mx.abs(x), _GELU_CLIP)
    return _run(_relu_minus, x, a, _power_of_two(_run(_log2_tail, a)))


def _gelu_vjp(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
    # The density is 0 in float32 at the clamp, which only keeps an infinity from giving NaN.
    density = _exp2(x * x * (-0.5 * LOG2E)) * _INV_SQRT_2PI
    return cotangent * (0.5 * (1.0 + mx.erf(x * _SQRT_HALF)) + _clip(x, -_GELU_CLIP, _GELU_CLIP) * density)


_gelu = _with_gradient(_gelu_forward, _gelu_vjp)


def _scaled_tanh(x: mx.array, inverse: mx.array, scale: mx.array) -> mx.array:
    """scale * tanh(x * inverse) for |x * inverse| <= 8.25."""
    z = x * inverse
    t = z * z
    t2 = t * t
    p = (_TANH_P[0] + _TANH_P[1] * t) + t2 * ((_TANH_P[2] + _TANH_P[3] * t) + t2 * _TANH_P[4])
    q = (_TANH_Q[0] + _TANH_Q[1] * t) + t2 * ((_TANH_Q[2] + _TANH_Q[3] * t) + t2 * _TANH_Q[4])
    return scale * (z * p / q)


@lru_cache(maxsize=16)
def _tanh_limit(limit: float, factor: float) -> Callable[..., mx.array]:
    """The function for one limit and factor; a gated model has one, or a few."""
    bound, inverse, scale = _TANH_CLIP * limit, mx.array(1.0 / limit), mx.array(factor * limit)

    def forward(x: mx.array) -> mx.array:
        return _run(_scaled_tanh, _clip(x, -bound, bound), inverse, scale)

    def vjp(x: mx.array, cotangent: mx.array, output: mx.array) -> mx.array:
        return cotangent * (factor - mx.square(output * inverse) / factor)

    return _with_gradient(forward, vjp)


ACTIVATIONS: dict[str, Callable[[mx.array], mx.array]] = {
    "silu": silu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "quick_gelu": quick_gelu,
}
"""Activations by their names in configurations."""


def gated(activation: str, gate: mx.array, up: mx.array) -> mx.array:
    """act(gate) * up, what enters the last matrix of a gated MLP.

    Args:
        activation: a name in `ACTIVATIONS`.
        gate, up: of one shape.
    """
    return silu_mul(gate, up) if activation == "silu" else ACTIVATIONS[activation](gate) * up
