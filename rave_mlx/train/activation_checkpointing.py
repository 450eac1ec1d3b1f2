"""Activation checkpointing: what a decoder layer keeps for its gradient, and what is computed again instead.

Selective checkpointing (arXiv 2205.05198), the usual way here, drops what costs little: normalized states, the product
inside the MLP, and every copy. A projection's gradient needs its input, not its output, so nothing but elementwise work
happens twice, and a layer of Qwen's shape keeps some 40 % less. Full checkpointing (arXiv 1604.06174) keeps a layer's
input alone, for a third more time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import cast

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_flatten, tree_unflatten

from rave_mlx.backend.split_rows import by_rows
from rave_mlx.models.decoder_layer import DecoderLayer
from rave_mlx.models.mlp import MLP
from rave_mlx.models.self_attention import Attention
from rave_mlx.models.step import Lent, Step

Call = Callable[[int, DecoderLayer, mx.array, Step], mx.array]
"""Runs a layer: its index, itself, what enters it, the step."""


def full_checkpointing(index: int, layer: DecoderLayer, x: mx.array, step: Step) -> mx.array:
    """Run a layer and keep only what enters it for the gradient: `x` (B, L, hidden), and what it takes besides."""
    attention = layer.attention
    lender = attention.lender if isinstance(attention, Attention) else None
    given, lent = layer.extra(step), () if lender is None else step.lent[lender][:3]
    scale = () if step.key_scale is None else (step.key_scale,)

    def function(x: mx.array, *more: mx.array) -> Sequence[mx.array]:
        # Arguments, for their gradients.
        scales, lents, inputs = (
            more[: len(scale)],
            more[len(scale) : len(more) - len(given)],
            more[len(more) - len(given) :],
        )
        inner = replace(step, lent={} if lender is None else {lender: Lent(*lents, *lents[1:])})
        inner = replace(inner, key_scale=scales[0]) if scales else inner
        if step.layer_inputs is not None:
            inner = replace(inner, layer_inputs=(*step.layer_inputs[:index], *inputs, *step.layer_inputs[index + 1 :]))
        out = layer(x, inner, None)
        return [out, *(inner.lent[index][:3] if index in inner.lent else ())]

    out, *lends = recomputed([layer], x, *scale, *lent, *given, function=function)
    if lends:
        step.lent[index] = Lent(*lends, *lends[1:])
    return out


def selective_checkpointing(index: int, layer: DecoderLayer, x: mx.array, step: Step) -> mx.array:
    """Run a layer and keep the inputs of its projections and of attention; elementwise work is computed again."""
    attended = layer.attend(by_rows(partial(_project, layer), x, axis=1), step, None)
    return by_rows(partial(_finish, layer), x, attended, *layer.extra(step), axis=1)[0]


def _project(layer: DecoderLayer, x: mx.array) -> Sequence[mx.array]:
    attention = layer.attention

    def function(x: mx.array) -> Sequence[mx.array]:
        return attention.project(layer.input_norm(x))

    # The gradient of a norm of queries or keys needs what the projections gave.
    if "q_norm" in attention or _needs_output(*attention.inputs):
        return function(x)
    return recomputed([layer.input_norm, *attention.inputs], x, function=function)


def _finish(layer: DecoderLayer, x: mx.array, attended: mx.array, *extra: mx.array) -> list[mx.array]:
    mlp, norm = layer.mlp, layer.post_attention_norm
    if "mlp_out_norm" in layer or not isinstance(mlp, MLP):
        # The gradient of a norm needs what the projections gave; that of the experts' shares, what the experts gave.
        return layer.finish(x, attended, *extra)
    o_proj = layer.attention.o_proj
    x = x + recomputed([o_proj], attended, function=lambda x: [layer.scaled(o_proj(x))])[0]

    def widen(x: mx.array) -> Sequence[mx.array]:
        x = norm(x)
        return mlp.gate_proj(x), mlp.up_proj(x)

    def narrow(gate: mx.array, up: mx.array) -> Sequence[mx.array]:
        return [layer.scaled(mlp.down_proj(mlp.gated(gate, up)))]

    if _needs_output(mlp.gate_proj, mlp.up_proj, mlp.down_proj):
        return [layer.leave(x + layer.mlp_output(x), *extra)]
    gate, up = recomputed([norm, mlp.gate_proj, mlp.up_proj], x, function=widen)
    return [layer.leave(x + recomputed([mlp.down_proj], gate, up, function=narrow)[0], *extra)]


def _needs_output(*projections: nn.Module) -> bool:
    """Whether a gradient is taken of a scale of the projection's output, as of DoRA's magnitudes."""
    return any("m" in projection for projection in projections)


def recomputed(
    modules: Sequence[nn.Module], *args: mx.array, function: Callable[..., Sequence[mx.array]]
) -> list[mx.array]:
    """`function(*args)`, which uses `modules`: nothing inside is kept for the gradient, it is computed again instead.

    Both times on the same stream and with the same random numbers (dropout). Of the second time only what the gradient
    needs is really computed, and the gradient of `args` waits for those of the parameters: these would else keep
    what was computed again until the end.
    """
    key, stream = split_keys(1)[0], mx.default_stream(mx.default_device())
    own = [_trainable(module) for module in modules]
    names = [(i, name) for i, values in enumerate(own) for name in values]

    def inner(*arrays: mx.array) -> list[mx.array]:
        parameters: list[dict[str, mx.array]] = [{} for _ in modules]
        for (i, name), value in zip(names, arrays, strict=False):
            parameters[i][name] = value
        with mx.stream(stream), substitute_parameters(modules, parameters, key):
            return list(function(*arrays[len(names) :]))

    @mx.custom_function
    def run(arrays: list[mx.array]) -> list[mx.array]:
        return inner(*arrays)

    @run.vjp
    def run_vjp(arrays: list[mx.array], cotangents: list[mx.array], outputs: list[mx.array]) -> list[mx.array]:
        _, found = mx.vjp(inner, mx.depends(arrays, cotangents), cotangents)
        parameters, rest = found[: len(names)], found[len(names) :]
        return [*parameters, *(mx.depends(rest, parameters) if parameters else rest)]

    flat = [own[i][name] for i, name in names]
    return cast("list[mx.array]", run([*flat, *args]))


@contextmanager
def substitute_parameters(
    modules: Sequence[nn.Module], parameters: Sequence[Mapping[str, mx.array]], key: mx.array
) -> Iterator[None]:
    """Other arrays in the place of modules' trainable parameters, and random numbers that start from `key`.

    Both are put back: what stands in for a parameter inside a transformed function has no gradient outside of it.
    """
    state = _random_state()
    outside, own = mx.array(state), [_trainable(module) for module in modules]
    state[:] = key
    _put(modules, parameters)
    try:
        yield
    finally:
        _put(modules, own)
        state[:] = outside


def _put(modules: Sequence[nn.Module], parameters: Sequence[Mapping[str, mx.array]]) -> None:
    for module, values in zip(modules, parameters, strict=True):
        module.update(tree_unflatten(list(values.items())))


def _trainable(module: nn.Module) -> dict[str, mx.array]:
    return dict(tree_flatten(module.trainable_parameters()))


def split_keys(count: int) -> mx.array:
    """Keys (count, 2) of independent random numbers, drawn from the global ones."""
    state = _random_state()
    following, key = mx.random.split(state)
    state[:] = following
    return mx.random.split(key, count)


def _random_state() -> mx.array:
    """The key that the next random numbers are drawn with; written to in place, it changes them."""
    state: mx.array = cast("list[mx.array]", mx.random.state)[0]
    return state
