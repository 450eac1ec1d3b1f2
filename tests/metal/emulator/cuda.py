"""The CUDA form of a launch as C++.

A CPU build of MLX refuses to construct a CUDA kernel, so the signature is put together here, after `build_kernel` in
MLX's `backend/cuda/custom_kernel.cpp`. Everything else is the text that MLX would get.
"""

import re

import mlx.core as mx

from emulator.translate import Program
from rave_mlx.attention.kernels.source import Call

_TYPES = {
    mx.float32: "float",
    mx.float16: "__half",
    mx.bfloat16: "__nv_bfloat16",
    mx.int32: "int32_t",
    mx.uint32: "uint32_t",
    mx.uint8: "uint8_t",
    mx.bool_: "bool",
}


def cuda_program(call: Call) -> Program:
    """Program of the launch; shapes and strides arrive as int32 and int64 buffers and are copied into MLX's types."""
    variant, parameters, arguments, buffers = call.variant, [], [], []

    def take(ctype: str, name: str, argument: str) -> None:
        parameters.append(f"{ctype} {name}")
        arguments.append(argument.format(len(buffers)))
        buffers.append(name)

    for name, array in zip(variant.inputs, call.inputs, strict=True):
        take(f"const {_TYPES[array.dtype]}*", name, f"(const {_TYPES[array.dtype]}*)b[{{}}]")
        for kind, ctype in (("shape", "Shape"), ("strides", "Strides")):
            if f"{name}_{kind}" in variant.body:
                take(f"const {ctype}", f"{name}_{kind}", f"emu_copy<{ctype}>(b[{{}}], {array.ndim})")
    for name, dtype in zip(variant.outputs, call.output_dtypes, strict=True):
        take(f"{_TYPES[dtype]}*", name, f"({_TYPES[dtype]}*)b[{{}}]")
    constants = "".join(
        f"  using {name} = {_TYPES[value]};\n"
        if isinstance(value, mx.Dtype)
        else f"  constexpr int {name} = {value};\n"
        for name, value in call.template
    )
    text = f"{variant.cuda_header}\n__global__ void twin({', '.join(parameters)}) {{\n{constants}{variant.body}\n}}\n"
    text = re.sub(r"(?m)^(\s*)threadgroup\s+(\w+)\s+(\w+)\s*\[([^\]]*)\]\s*;", r"\1EMU_TG(\2, \3, \4);", text)
    return Program(_PROGRAM.format(text=text, arguments=", ".join(arguments)), tuple(buffers))


_PROGRAM = """#include "cuda_emu.h"
{text}
template <class A> A emu_copy(const void* from, int n) {{
  A a{{}};
  std::memcpy(a.at, from, n * sizeof(a.at[0]));
  return a;
}}
extern "C" void emu_launch(void** b, const unsigned* g, const unsigned* t, int order, int workers, int ulp,
                           long* stats) {{
  emu::watch_faults();
  auto s = emu::dispatch({{g[0], g[1], g[2]}}, {{t[0], t[1], t[2]}}, order, workers, [&] {{ twin({arguments}); }});
  stats[0] = s.switches;
  stats[1] = (long)s.tg_mem;
}}
"""
