"""The policies by name. A new one is a file of its own and a line here."""

from __future__ import annotations

from rave_mlx.attention.policies.act import ACT
from rave_mlx.attention.policies.aif import AIF
from rave_mlx.attention.policies.base import Policy
from rave_mlx.attention.policies.carve import CARVE
from rave_mlx.attention.policies.debias import Debias
from rave_mlx.attention.policies.dyvte import DyVTE
from rave_mlx.attention.policies.ee_mllm import EEMLLM
from rave_mlx.attention.policies.funnel import VisualFunnel
from rave_mlx.attention.policies.gift import GIFT
from rave_mlx.attention.policies.guidance import Guidance
from rave_mlx.attention.policies.iri import IRI
from rave_mlx.attention.policies.mma import MMA
from rave_mlx.attention.policies.paint import PAI, PAINT
from rave_mlx.attention.policies.panes import Panes
from rave_mlx.attention.policies.var import VAR
from rave_mlx.attention.policies.vflowopt import VFlowOpt
from rave_mlx.attention.policies.vhr import VHR
from rave_mlx.attention.policies.views import Views
from rave_mlx.attention.policies.visiondrop import VisionDrop

POLICIES: dict[str, type[Policy]] = {
    policy.name: policy
    for policy in (
        VAR,
        MMA,
        GIFT,
        ACT,
        VHR,
        PAINT,
        PAI,
        AIF,
        EEMLLM,
        IRI,
        DyVTE,
        Debias,
        VisionDrop,
        VFlowOpt,
        CARVE,
        VisualFunnel,
        Panes,
        Views,
        Guidance,
    )
}
