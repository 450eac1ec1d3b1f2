"""Freed memory goes back to the system: measured where there is glibc, in a process of its own."""

import subprocess
import sys

import pytest

from rave_mlx.backend.cpu.allocator import FreedMemory

PROGRAM = """
import ctypes
from rave_mlx.backend.cpu.allocator import FreedMemory, _resident

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.mallopt(-1, 1 << 30)  # Nothing goes back by itself, as in the package.
freed = FreedMemory(growth=8 << 20)
freed.give_back()
least = _resident()
print(freed.give_back())
blocks = [libc.malloc(20_000) for _ in range(2000)]
for block in blocks:
    ctypes.memset(block, 1, 20_000)
grown = _resident()
for block in blocks[:-1]:  # The last one stays: the heap cannot end before it.
    libc.free(block)
held = _resident()
print(freed.give_back())
print(grown - least > 30e6, held - least > 30e6, _resident() - least < 5e6)
"""


@pytest.mark.skipif(FreedMemory()._trim is None, reason="no glibc here")
def test_holes_are_given_back_once_the_process_has_grown():
    done = subprocess.run([sys.executable, "-c", PROGRAM], check=False, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["False", "True", "True", "True", "True"], done.stderr
