"""Settings of a training run of the built-in reader."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class TrainConfig:
    """Everything a run depends on, apart from the clock.

    `minutes`: wall-clock length of the schedule. `muon`, `adamw`, `gates`: peak learning rates. `steady`: share of the
    time at the peak before the linear decay: little, since a plateau brought nothing that lasted. `head_minutes`: time
    at the start in which only the auxiliary head learns (it is not part of saved weights); none where the start has
    that head. `growth`: pairs of (share of the time, most cells of a page). `supervision`: weight of the characters of
    visual tokens in the first phase, and later. `looking`: weight of the places that `looking_heads` of
    `looking_layers` shall look at. `counting`: weight of the line numbers that visual tokens shall know behind
    `counting_layer`. `meaning`: share of pages of `rave_mlx.synthetic.meaning`, the rest being the generator's older
    ones. `quote`: whether answers about those quote the line that they come from before the value.
    `decoder_only`: leave the tower as it is and ask each page several times; `visits_per_step`: pages of such a step.
    `workers`: processes that draw pages.
    """

    minutes: float = 70.0
    muon: float = 2e-3
    adamw: float = 8e-4
    gates: float = 5e-3
    weight_decay: float = 0.05
    warmup_minutes: float = 1.5
    steady: float = 0.05
    head_minutes: float = 1.0
    cells_per_step: int = 2600
    growth: tuple[tuple[float, int], ...] = ((0.25, 560), (1.0, 1024))
    supervision: tuple[float, float] = (1.0, 0.3)
    looking: float = 0.2
    looking_layers: tuple[int, ...] = (4, 5)
    looking_heads: tuple[int, ...] = (2, 3)
    counting: float = 0.1
    counting_layer: int = 3
    meaning: float = 0.0
    quote: bool = False
    decoder_only: bool = False
    visits_per_step: int = 6
    seed: int = 0
    threads: int = 2
    workers: int = 1
    save_minutes: float = 4.0
