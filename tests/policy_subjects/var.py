"""VAR: in its presets, with a threshold and dimensions at which the tiny model has visual and other sinks."""

from __future__ import annotations

from policy_subjects import Subject
from rave_mlx.policies.methods.mma import MMA
from rave_mlx.policies.methods.var import VAR

DIMS = {"dims": (3, 14, 30), "tau": 2.2, "rho": 0.5, "min_visual": 0.1}
SUBJECTS = [
    Subject("var:paper", VAR(**DIMS), VAR(**DIMS, p=0.0)),
    Subject("var:paper-impossible", VAR(**DIMS), VAR(**{**DIMS, "rho": 1.5})),
    Subject(
        "var:released",
        VAR.preset("released", **{**DIMS, "first_layer": 1}),
        VAR.preset("released", **DIMS, p=1.0),
        decodes=False,  # the released code finds no sinks among generated tokens, but does among read ones
    ),
    Subject("var:cosine", VAR.preset("cosine", rho=0.5, min_visual=0.1, cosine=0.6), VAR.preset("cosine", p=0.0)),
    Subject("mma", MMA(force=True), None),
]
