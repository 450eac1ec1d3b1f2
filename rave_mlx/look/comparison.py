"""The same question under several attention policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rave_mlx.errors import UsageError
from rave_mlx.look.answer_maps import MAX_TOKENS, collect
from rave_mlx.look.maps import AttentionMap
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.parse import steering
from rave_mlx.policies.runtime import attach


def compare(
    lmm: LMM,
    messages: Sequence[Mapping[str, Any]],
    policies: Sequence[str | None],
    *,
    max_tokens: int = MAX_TOKENS,
    image_tokens: int | None = None,
) -> list[AttentionMap]:
    """Ask one question under several attention policies; each run has the answer that the model gives under it.

    Args:
        lmm: the model.
        messages: as in `LMM.prepare`.
        policies: as after `--attention`; None: the default.
        max_tokens: limit of an answer's length.
        image_tokens: budget of visual tokens an image; None for the default.

    Raises:
        UsageError: for a policy that is given twice, or that the model cannot take; before any of them runs.
        PromptError, ImageError, MemoryLimitError: see `collect`.
    """
    twice = sorted({str(p) for p in policies if list(policies).count(p) > 1})
    if twice:
        raise UsageError(f"--compare names {twice[0]} twice; once is enough")
    for policy in policies:
        chosen = steering(policy)
        if chosen.gate and not (lmm.decoder.gates or lmm.decoder.sink_gates):
            raise UsageError("--compare rave: this model has no gates; leave rave out or name an adapter that has")
        attach(lmm, chosen.policies)
    return [collect(lmm, messages, policy=p, max_tokens=max_tokens, image_tokens=image_tokens) for p in policies]


def split_policies(text: str) -> list[str]:
    """Policies from "none,rave,var:paper,rho=0.9": a part with "=" belongs to the policy before it.

    Raises:
        UsageError: for an empty list.
    """
    found: list[str] = []
    for part in (p.strip() for p in text.split(",")):
        if "=" in part and ":" not in part and found:
            found[-1] += ("," if ":" in found[-1] else ":") + part
        elif part:
            found.append(part)
    if not found:
        raise UsageError("--compare is empty; name attention policies, like none,rave")
    return found


def check_together(runs: Sequence[AttentionMap]) -> None:
    """Refuse to show runs of different questions, images or models together.

    Raises:
        UsageError: for those, and for none.
    """
    if not runs:
        raise UsageError("there is no run to show; collect one first")
    kinds = {(r.question, r.weights.shape[1:], tuple(i.picture.size for i in r.images)) for r in runs}
    if len(kinds) > 1:
        raise UsageError("these runs differ in question, images or model; compare runs of the same question")
