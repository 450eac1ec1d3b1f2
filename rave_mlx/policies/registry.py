"""The policies by name. A new one is a file of its own and a line here."""

from __future__ import annotations

from rave_mlx.policies.methods.act import ACT
from rave_mlx.policies.methods.adapt import ADAPT
from rave_mlx.policies.methods.aif import AIF
from rave_mlx.policies.methods.debias import Debias
from rave_mlx.policies.methods.dyvte import DyVTE
from rave_mlx.policies.methods.ee_mllm import EEMLLM
from rave_mlx.policies.methods.gift import GIFT
from rave_mlx.policies.methods.iri import IRI
from rave_mlx.policies.methods.mma import MMA
from rave_mlx.policies.methods.paint import PAI, PAINT
from rave_mlx.policies.methods.var import VAR
from rave_mlx.policies.methods.vflowopt import VFlowOpt
from rave_mlx.policies.methods.vhr import VHR
from rave_mlx.policies.methods.visiondrop import VisionDrop
from rave_mlx.policies.policy import Policy
from rave_mlx.policies.rereading.carve import CARVE
from rave_mlx.policies.rereading.found_words import FoundWords
from rave_mlx.policies.rereading.funnel import VisualFunnel
from rave_mlx.policies.rereading.guidance import Guidance
from rave_mlx.policies.rereading.multi_scale import MultiScale
from rave_mlx.policies.rereading.rtprune import RTPrune
from rave_mlx.policies.rereading.tiled_crops import TiledCrops

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
        ADAPT,
        AIF,
        EEMLLM,
        IRI,
        DyVTE,
        Debias,
        VisionDrop,
        VFlowOpt,
        RTPrune,
        CARVE,
        VisualFunnel,
        TiledCrops,
        MultiScale,
        FoundWords,
        Guidance,
    )
}
