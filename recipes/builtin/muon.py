"""Muon (Jordan et al. 2024) in the precision that the processor is fast in.

torch's own rounds to bfloat16, which processors without its instructions emulate: there a step took minutes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic step that brings singular values near 1; those of the reference implementation, as torch has them."""
STEPS = 5


def orthogonal(update: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The matrix with its singular values brought near 1, by Newton-Schulz steps.

    Args:
        update: (rows, columns).
        dtype: that the steps are computed in.
    """
    a, b, c = COEFFICIENTS
    x = update.to(dtype)
    tall = x.shape[0] > x.shape[1]
    x = x.T if tall else x
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(STEPS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose matrices are made orthogonal, scaled to the size of AdamW's steps; decay apart from the gradient.

    Args:
        matrices: the parameters, (rows, columns) each.
        lr: learning rate, as of AdamW.
        weight_decay: share of the weights that a step takes, times the rate.
        momentum: of the running mean of gradients, Nesterov's.
        dtype: that the Newton-Schulz steps are computed in.
    """

    def __init__(
        self,
        matrices: Iterable[Tensor],
        lr: float,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step along the gradients that are there."""
        loss = None if closure is None else closure()
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    self._move(p, p.grad, group)
        return loss

    def _move(self, p: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        buffer = state["momentum_buffer"]
        buffer.lerp_(gradient, 1 - group["momentum"])
        update = orthogonal(gradient.lerp(buffer, group["momentum"]), self.dtype)
        p.mul_(1 - group["lr"] * group["weight_decay"])
        p.add_(update.to(p.dtype), alpha=-group["lr"] * 0.2 * max(p.shape) ** 0.5)
