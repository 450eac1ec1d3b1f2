"""Run the project's Metal kernels on a CPU.

`trace` obtains the exact text that MLX would hand to the Metal compiler (graph export prints it on any machine),
`translate` turns it into C++, `build` compiles it against `metal_emu.h`, and `run` executes a launch in a process of
its own on guarded memory. `lint` checks types and address spaces with libclang.
"""
