"""Device operations of one decode step: rave-mlx beside mlx-lm and mlx-vlm, counted without a GPU.

    python benchmarks/decode_operations.py                                       # rave-mlx and mlx-lm
    python benchmarks/decode_operations.py --peer-python OTHER_VENV/bin/python   # and mlx-vlm, from its environment
    python benchmarks/decode_operations.py --kinds                               # which operations those are

A written token of a small model costs a GPU little arithmetic and many launches, so their number is what a program
can save. The step is that of a 14-layer decoder of Qwen2.5-VL's form (narrow, which changes no count), random weights
in 4 bit, bfloat16, after 1,100 tokens. A processor breaks `mx.fast` functions into their parts and runs no kernel of
ours; here each of them is one operation, as on Metal. Views (reshapes, transpositions, slices, broadcasts) launch
nothing and are not counted, nor are arrays that come from the host.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import json
import re
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map

VIEWS = {
    "AsStrided", "Broadcast", "CustomTransforms", "ExpandDims", "Flatten", "Reshape", "Slice", "Split", "Squeeze",
    "StopGradient", "Transpose", "Unflatten", "View",
}  # fmt: skip
"""Operations that give another view of an array: no launch, as long as the layout allows it, as it does here."""
READ = 1100
"""Tokens in the cache; a page of 992 visual tokens (from the 20th on) and a question."""
VISUAL = (20, 1012)
LAYERS, VOCABULARY = 14, 320
QWEN2: dict[str, Any] = {
    "model_type": "qwen2", "hidden_size": 768, "intermediate_size": 256, "num_hidden_layers": LAYERS,
    "num_attention_heads": 12, "num_key_value_heads": 4, "rms_norm_eps": 1e-6, "vocab_size": VOCABULARY,
    "rope_theta": 1e6, "tie_word_embeddings": True, "max_position_embeddings": 8192,
}  # fmt: skip
QUANTIZED = {"group_size": 64, "bits": 4}


def operations(*outputs: mx.array) -> Counter[str]:
    """The device operations, by name, that computing these arrays would take from what is computed already."""
    text = io.StringIO()
    mx.export_to_dot(text, *outputs)
    names = re.findall(r'label ="([^"]*)", shape=rectangle', text.getvalue())
    return Counter(name for name in names if name not in VIEWS)


@contextmanager
def as_on_a_gpu() -> Iterator[None]:
    """A block in which graphs come out as on Metal: `mx.fast` functions and kernels are one operation each."""
    made: dict[Any, mx.array] = {}

    def like(*shapes: tuple[Sequence[int], mx.Dtype]) -> list[mx.array]:
        for shape, dtype in shapes:
            if (tuple(shape), dtype) not in made:
                made[tuple(shape), dtype] = mx.zeros(shape, dtype)
        mx.eval(list(made.values()))
        return [made[tuple(shape), dtype] for shape, dtype in shapes]

    def stand_in(of: Callable[..., Any]) -> Callable[..., mx.array]:
        def call(x: mx.array, *others: Any, **named: Any) -> mx.array:
            read = [x, *(y for y in (*others, *named.values()) if isinstance(y, mx.array))]
            return mx.depends(like((x.shape, x.dtype)), read)[0]

        call.__name__ = of.__name__
        return call

    def expanded(w: mx.array, scales: mx.array, biases: mx.array, bits: int, **_: Any) -> mx.array:
        shape = (*w.shape[:-1], w.shape[-1] * 32 // bits)
        return mx.depends(like((shape, scales.dtype)), [w, scales, biases])[0]

    def kernel(**_: Any) -> Callable[..., list[mx.array]]:
        def call(*, inputs: Sequence[mx.array], output_shapes: Any, output_dtypes: Any, **_: Any) -> list[mx.array]:
            return mx.depends(like(*zip(output_shapes, output_dtypes, strict=True)), list(inputs))

        return call

    with ExitStack() as stack:
        for name in ("rms_norm", "rope", "scaled_dot_product_attention", "layer_norm"):
            stack.enter_context(patch.object(mx.fast, name, stand_in(getattr(mx.fast, name))))
        stack.enter_context(patch.object(mx.fast, "metal_kernel", kernel))
        stack.enter_context(patch.object(mx, "dequantize", expanded))
        stack.enter_context(patch.object(mx.metal, "is_available", lambda: True))
        if importlib.util.find_spec("rave_mlx") is not None:
            from rave_mlx import backend
            from rave_mlx.attention.kernels import launch

            metal = backend.Backend("metal", "a GPU", None, 4)
            stack.enter_context(patch.object(backend, "current", lambda: metal))
            stack.enter_context(patch.object(launch, "self_check", lambda run, request: None))
            for forget in (launch._metal.cache_clear, launch._answers.clear):
                forget()  # kernels that were built before
                stack.callback(forget)
        yield


def rave(*, gated: bool, layers: int = LAYERS, quantized: bool = True, **text: Any) -> Counter[str]:
    """One decode step of rave-mlx.

    Args:
        gated: with gates in every layer that do something.
        layers: decoder layers.
        quantized: 4-bit weights.
        text: changes to the decoder's `TextConfig`.
    """
    from rave_mlx.config import GateConfig, LMMConfig, RopeConfig, TextConfig, TokenConfig
    from rave_mlx.generation.decode import step
    from rave_mlx.models.decoder import Decoder
    from rave_mlx.models.kv_cache import Cache, LayerCache

    shape = TextConfig(
        VOCABULARY, QWEN2["hidden_size"], QWEN2["intermediate_size"], layers, QWEN2["num_attention_heads"],
        QWEN2["num_key_value_heads"], 64, RopeConfig(1e6, sections=(8, 12, 12)), 8192, qkv_bias=True,
        tie_embeddings=True,
    )  # fmt: skip
    shape = replace(shape, **text)
    gate = GateConfig() if gated else None
    tokens = TokenConfig(stop=(VOCABULARY - 1,))
    config = LMMConfig(family="qwen2", text=shape, tokens=tokens, gate=gate)
    decoder = _ready(Decoder(config), quantized)
    cache = Cache(layers, gated=gated)
    room = READ // 256 * 256 + 256
    for index in range(layers):
        rows = [mx.zeros((1, shape.num_kv_heads, room, shape.head_dim), mx.bfloat16)] * 2
        if gated:
            one = decoder.layers[index].attention.gate
            rows.append(mx.zeros((1, len(one.W), room, one.W.shape[1] + 2), mx.bfloat16))
        cache.layers[index] = LayerCache.holding(rows, READ)
    cache.extend_visual_span(*VISUAL)
    cache.evaluate()
    model: Any = SimpleNamespace(decoder=decoder, config=config)
    decoder.join()
    with as_on_a_gpu():
        for position in (READ - 90, READ - 89):  # what is built once is there by the second token
            logits = step(model, cache, mx.array([5]), position)
            counted = _count(logits, [x for one in cache.layers for x in one.arrays])
    return counted


def lm() -> Counter[str]:
    """One decode step of mlx-lm's Qwen2, a decoder of the same form with plain positions."""
    from mlx_lm.models.qwen2 import Model, ModelArgs

    return _peer_step(lambda: Model(ModelArgs.from_dict(QWEN2)))


def vlm() -> Counter[str]:
    """One decode step of mlx-vlm's Qwen2.5-VL."""

    def build() -> Any:
        # It looks for Metal when it is imported.
        from mlx_vlm.models.qwen2_5_vl.config import ModelConfig, TextConfig
        from mlx_vlm.models.qwen2_5_vl.language import LanguageModel

        scaling = {"type": "mrope", "mrope_section": [8, 12, 12]}
        text = TextConfig.from_dict({**QWEN2, "model_type": "qwen2_5_vl", "rope_scaling": scaling})
        model = LanguageModel(text, ModelConfig(text_config=text, vision_config=None, model_type="qwen2_5_vl"))
        model._rope_deltas = mx.array([[-900]])  # as after a page that takes fewer positions than tokens
        return model

    return _peer_step(build)


def _peer_step(build: Callable[[], Any]) -> Counter[str]:
    from mlx_lm.models.cache import KVCache

    with as_on_a_gpu():
        model, cache = _ready(build()), [_read(KVCache()) for _ in range(LAYERS)]
        for _ in range(2):
            made = model(mx.array([[5]]), cache=cache)
            logits = getattr(made, "logits", made)[:, -1]
            counted = _count(logits, [x for one in cache for x in (one.keys, one.values)])
    return counted


def _count(logits: mx.array, state: list[mx.array]) -> Counter[str]:
    """The operations of a greedy step; everything is computed afterwards, so that the next step starts there."""
    token = mx.argmax(logits, axis=-1)
    counted = operations(token, *state)
    mx.eval(token, state)
    return counted


def _ready(model: Any, quantized: bool = True) -> Any:
    """The model in bfloat16 and, where asked for, 4 bit, with its weights in place."""
    model.update(tree_map(lambda x: x.astype(mx.bfloat16), model.parameters()))
    if quantized:
        nn.quantize(model, **QUANTIZED, class_predicate=lambda _, m: hasattr(m, "to_quantized"))
    mx.eval(model.parameters())
    return model


def _read(cache: Any) -> Any:
    """A cache that holds `READ` tokens."""
    rows = mx.zeros((1, QWEN2["num_key_value_heads"], READ, 64), mx.bfloat16)
    cache.update_and_fetch(rows, rows)
    mx.eval(cache.keys, cache.values)
    return cache


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", help="python of an environment with mlx-vlm and this package's dependencies")
    parser.add_argument("--kinds", action="store_true", help="list the operations by name")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(vlm()))
        return
    rows = {"rave-mlx": rave(gated=False), "rave-mlx, with gates": rave(gated=True), "mlx-lm": lm()}
    if options.peer_python:
        command = [options.peer_python, __file__, "--worker"]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        rows["mlx-vlm"] = Counter(json.loads(done.stdout.splitlines()[-1]))
    for name, counted in rows.items():
        total = counted.total()
        print(f"{name:22s} {total:5d}   x{total / rows['mlx-lm'].total():.2f} of mlx-lm's")
        if options.kinds:
            print("  ", ", ".join(f"{kind} {count}" for kind, count in counted.most_common()))


if __name__ == "__main__":
    main()
