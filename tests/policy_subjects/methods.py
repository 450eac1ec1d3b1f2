"""The sibling methods, with layers that the tiny model has: three, all of them where a method takes some."""

from __future__ import annotations

from policy_subjects import Subject
from rave_mlx.policies.methods.act import ACT
from rave_mlx.policies.methods.aif import AIF
from rave_mlx.policies.methods.ee_mllm import EEMLLM
from rave_mlx.policies.methods.gift import GIFT
from rave_mlx.policies.methods.iri import IRI
from rave_mlx.policies.methods.paint import PAI
from rave_mlx.policies.methods.vhr import VHR

ALL = {"first": 0, "last": 2, "of": 3}
RATES = {"attention": (0.5, 0.8, 0.2), "mlp": (0.3, 0.1, 0.6), "sources": 2, "targets": 3, "of": 3}

SUBJECTS = [
    Subject("gift", GIFT(**ALL), GIFT(**ALL, alpha=0.0), decodes=False, batches=False),
    Subject("gift:source", GIFT(**ALL, source=1, beta=1.5), None, decodes=False, batches=False),
    Subject("act", ACT(**ALL, alpha=2.0), ACT(**ALL, beta=1.0), decodes=False),
    Subject("act:released", ACT.preset("released", **ALL, threshold=0.05), None, decodes=False),
    Subject("act:heads", ACT(alpha=1.5, heads=("0.1", "2.3")), ACT(alpha=1e9), decodes=False),
    Subject("vhr", VHR(), VHR(alpha=1.0), decodes=False, batches=False),
    Subject("pai", PAI(**ALL), PAI(**ALL, alpha=0.0), decodes=False),
    Subject("aif", AIF(), AIF(shares=(0.0,)), decodes=False, batches=False),
    Subject("ee-mllm", EEMLLM(), EEMLLM(first=3)),
    Subject("iri", IRI(**RATES), IRI(**RATES, attention_strength=0.0, mlp_strength=0.0), decodes=False),
]
