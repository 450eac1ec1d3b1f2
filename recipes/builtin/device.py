"""Where the training computes: the processor, or a GPU that torch's default device names."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


def use(name: str) -> None:
    """Let everything that is made from now on live on a device ("cpu", "cuda"), in bfloat16 where that is fast."""
    torch.set_default_device(name)
    if name != "cpu":
        torch.set_float32_matmul_precision("high")


def is_cpu() -> bool:
    """Whether the processor computes."""
    return torch.get_default_device().type == "cpu"


def put(array: NDArray[Any]) -> Tensor:
    """An array as a tensor on the device."""
    return torch.from_numpy(array).to(torch.get_default_device(), non_blocking=True)


def is_fast() -> bool:
    """Whether the device multiplies bfloat16; a processor without its instructions emulates it, many times slower."""
    return not is_cpu() or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def autocast() -> AbstractContextManager[None]:
    """Products in bfloat16 where that is fast."""
    return torch.autocast(torch.get_default_device().type, torch.bfloat16, enabled=is_fast())
