"""The policies of one conversation at work: what they know, and the pass of each decoder layer through their hooks.

`attach` makes the `PolicyRuntime` of a conversation, which belongs to its cache (or to one call of `LMM.logits`) and is
trimmed with it. For every pass over new tokens the decoder asks it for a `LayerRuntime` a layer, which knows where in
the layer each hook belongs. They implement the protocols of `models.hooks`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx.attention import Packed, Path, expanded
from rave_mlx.attention.gate import GateTerms
from rave_mlx.attention.masks import Mask
from rave_mlx.errors import UsageError
from rave_mlx.inputs.prompt.message import Role
from rave_mlx.inputs.prompt.prompt import Prompt, TokenMap
from rave_mlx.models.hooks import KeptTokens, Sublayer
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.policy import Context, Phase, Policy, Rows
from rave_mlx.policies.scores import ActivePolicy, RowMarks, steer
from rave_mlx.policies.tokens import KeyRows, Tokens

_EVALUATE_EVERY = 64
"""Generated tokens after which the state is computed, so that what no later token reads keeps no graph alive."""


def attach(lmm: LMM, policies: Sequence[Policy]) -> PolicyRuntime | None:
    """What a conversation's cache, or one call of `LMM.logits`, is given as `hooks`; None without policies.

    Raises:
        UsageError: for a policy that the model cannot take.
    """
    for policy in policies:
        policy.check(lmm.config)
    return PolicyRuntime(lmm, policies) if policies else None


class PolicyRuntime:
    """The state of policies over one conversation.

    Attributes:
        policies: in the order in which they act.
        layers: the decoder layers with attention. Policies know these alone, counted from 0 on.
        num_layers: how many they are.
        tokens: what is known about the keys of the first layer; layers after a pruning one may hold fewer.
    """

    def __init__(self, lmm: LMM, policies: Sequence[Policy]):
        self._lmm = lmm
        self.policies = tuple(policies)
        self.layers = lmm.config.text.attention_layers
        self.num_layers = num_layers = len(self.layers)
        self._places = {layer: place for place, layer in enumerate(self.layers)}
        self._phase: Phase = "prefill"
        self._final = False
        self._pruned_now: set[int] = set()
        self._chosen = [frozenset(policy.layers(num_layers)) for policy in self.policies]
        self._states: list[list[dict[str, Any]]] = [[{} for _ in range(num_layers)] for _ in self.policies]
        self._prepared: list[dict[str, Any]] = [{} for _ in self.policies]
        self._plans: list[dict[str, Any]] = [{} for _ in self.policies]
        self._ready = False
        self._maps = [Tokens.empty()]
        # By decoder layer, those without attention included.
        self._map_of = [0] * lmm.config.text.num_layers
        self._row_marks: dict[tuple[int, Rows, bool], RowMarks] = {}

    @property
    def tokens(self) -> Tokens:
        return self._maps[0]

    @property
    def prefix_reusable(self) -> bool:
        """Whether a cache may be trimmed to a shorter prefix and read on from there."""
        return all(policy.prefix_reusable for policy in self.policies)

    @property
    def chunkable(self) -> bool:
        """Whether a prompt may be read in chunks."""
        return all(policy.chunkable for policy in self.policies)

    def prepare(self) -> None:
        """Let the policies look at the model, once."""
        if not self._ready:
            self._prepared = [dict(policy.prepare(self._lmm)) for policy in self.policies]
            self._ready = True

    def plan(self, prompts: Sequence[Prompt], features: Mapping[str, mx.array]) -> None:
        """Let the policies look at the model, once, and at a prompt that is about to be read.

        Raises:
            UsageError: for several prompts, when a policy plans for one at a time.
        """
        self.prepare()
        planners = [policy for policy in self.policies if policy.has("plan")]
        if planners and len(prompts) > 1:
            raise UsageError(f"--attention {planners[0].name} reads one prompt at a time, not {len(prompts)}")
        planned = [policy.plan(self._lmm, prompts[0], features) for policy in self.policies]
        self._plans = [{**known, **new} for known, new in zip(self._prepared, planned, strict=True)]

    def read(self, tokens: TokenMap, start: int, stop: int) -> None:
        """Announce a pass over tokens [start, stop) of a prompt; see `models.hooks.PassHooks`."""
        role, image = tokens.role[None, start:stop], tokens.image[None, start:stop]
        self._announce("prefill", role, image, tokens.positions[None, :, start:stop], final=stop == len(tokens.role))

    def read_batch(self, tokens: Sequence[TokenMap], length: int) -> None:
        """Announce a pass over whole prompts, padded on the left to one length."""
        pads = [length - len(t.role) for t in tokens]
        role = np.stack([np.pad(t.role, (n, 0), constant_values=-1) for t, n in zip(tokens, pads, strict=True)])
        image = np.stack([np.pad(t.image, (n, 0), constant_values=-1) for t, n in zip(tokens, pads, strict=True)])
        positions = np.stack([np.pad(t.positions, [(0, 0), (n, 0)]) for t, n in zip(tokens, pads, strict=True)])
        self._announce("prefill", role, image, positions, final=True)

    def write(self, position: int) -> None:
        """Announce a pass over one generated token at a rotary position."""
        batch = self.tokens.role.shape[0]
        role = np.full((batch, 1), Role.ASSISTANT, np.int8)
        positions = np.full((batch, self.tokens.positions.shape[1], 1), position, np.int32)
        self._announce("decode", role, np.full((batch, 1), -1, np.int32), positions, final=True)
        if len(self.tokens) % _EVALUATE_EVERY == 0:
            mx.async_eval(self.arrays)

    def _announce(
        self,
        phase: Phase,
        role: NDArray[np.int8],
        image: NDArray[np.int32],
        positions: NDArray[np.int32],
        *,
        final: bool,
    ) -> None:
        """Begin a pass: every layer's keys grow by its tokens."""
        if "prefill" in (phase, self._phase):  # between two written tokens the marks do not change
            self._row_marks.clear()
        self._phase, self._final = phase, final
        self._pruned_now.clear()
        for tokens in self._maps:
            tokens.extend(role, image, positions)

    def trim(self, length: int) -> None:
        """Forget every token from position `length` on; whoever pruned can only forget tokens that came later."""
        drop = len(self.tokens) - length
        if drop <= 0:
            return
        if length == 0:
            self._maps, self._map_of = [Tokens.empty()], [0] * len(self._map_of)
            self._states = [[{} for _ in range(self.num_layers)] for _ in self.policies]
        for index, tokens in enumerate(self._maps):
            tokens.trim(len(tokens) - drop)
            for states in self._states:
                own = (self._map_of[layer] for layer in self.layers)
                for state in (s for s, m in zip(states, own, strict=True) if m == index):
                    for rows in state.values():
                        if isinstance(rows, KeyRows):
                            rows.trim(len(tokens))
        self._row_marks.clear()

    @property
    def arrays(self) -> list[mx.array]:
        """Arrays of the state, for evaluation."""
        found: list[mx.array] = []
        for state in (s for states in self._states for s in states):
            for value in state.values():
                if isinstance(value, KeyRows):
                    found += value.arrays
                else:
                    kept = value if isinstance(value, list) else [value]
                    found += [x for x in kept if isinstance(x, mx.array)]
        return found

    def state(self, policy: Policy, layer: int) -> dict[str, Any]:
        """What a policy keeps for a layer, counted among those with attention."""
        return self._states[self.policies.index(policy)][layer]

    def tokens_of(self, layer: int) -> Tokens:
        """What is known about the keys of a layer."""
        return self._maps[self._map_of[layer]]

    def enter(self, layer: int, x: mx.array) -> LayerRuntime:
        """Begin a layer's pass over the announced tokens; x (B, L, hidden) is the block's input.

        No policy acts on a layer without attention.
        """
        place = self._places.get(layer)
        if place is None:
            return LayerRuntime([])
        tokens = self.tokens_of(layer)
        start = len(tokens) - x.shape[1]
        acting = []
        for index, policy in enumerate(self.policies):
            if place in self._chosen[index]:
                context = Context(
                    layer=place,
                    num_layers=self.num_layers,
                    phase=self._phase,
                    tokens=tokens,
                    start=start,
                    x=x,
                    state=self._states[index][place],
                    plan=self._plans[index],
                    final=self._final,
                    keys=len(tokens),
                )
                acting.append(ActivePolicy(policy, context, self._marks_of(policy, layer, x.shape[1])))
        return LayerRuntime(acting)

    def prune(self, layer: int, kept: KeptTokens) -> None:
        """Later layers hold only these of the announced tokens, which must be all that the layer holds."""
        old = self.tokens_of(layer)
        positions = None if kept.positions is None else np.array(kept.positions)
        self._maps.append(old.take(np.array(kept.index).astype(np.int64), positions, kept.shift))
        self._map_of[layer + 1 :] = [len(self._maps) - 1] * (len(self._map_of) - layer - 1)
        self._pruned_now.add(layer + 1)

    def pruned_now(self, layer: int) -> bool:
        """Whether the tokens of a layer became fewer in this very pass."""
        return layer in self._pruned_now

    def _marks_of(self, policy: Policy, layer: int, length: int) -> RowMarks:
        """The new tokens whose scores and weights the policy sees."""
        key = (self._map_of[layer], policy.rows, policy.needs_visual)
        if key not in self._row_marks:
            tokens = self.tokens_of(layer)
            new = slice(len(tokens) - length, None)
            chosen = tokens.role[:, new] >= 0
            if policy.rows == "text":
                chosen &= tokens.image[:, new] < 0
            elif policy.rows == "last":
                chosen[:, : -1 if self._final else None] = False
            if policy.needs_visual:
                before = (tokens.image[:, : new.start] >= 0).any(axis=1, keepdims=True)
                chosen &= before | np.logical_or.accumulate(tokens.image[:, new] >= 0, axis=1)
            self._row_marks[key] = RowMarks(chosen)
        return self._row_marks[key]


class LayerRuntime:
    """One layer's pass through the hooks of the policies that touch it."""

    def __init__(self, acting: Sequence[ActivePolicy]):
        self._acting = acting
        for each in acting:
            each.policy.on_block_input(each.context)

    def edit(
        self, q_pre: mx.array, k_pre: mx.array, q: mx.array, k: mx.array, v: mx.array
    ) -> tuple[mx.array, mx.array, mx.array]:
        """Rotated queries (B, H, L, d), keys and values (B, G, L, d) of the new tokens, as the policies want them."""
        for each in self._acting:
            each.context.q_pre, each.context.k_pre = q_pre, k_pre
            q, k, v = each.policy.edit_qk(each.context, q, k, v)
        return q, k, v

    def attend(
        self,
        q: mx.array,
        k: mx.array | Packed,
        v: mx.array | Packed,
        *,
        scale: float,
        mask: Mask,
        gate: GateTerms | None,
        path: Path | None,
    ) -> mx.array:
        """The heads' outputs (B, H, L, d) of attention under the policies, which see packed keys expanded."""
        k, v = expanded(k, q.dtype), expanded(v, q.dtype)
        for each in self._acting:
            each.context.q, each.context.k, each.context.v = q, k, v
        out = steer(self._acting, q, k, v, scale=scale, mask=mask, gate=gate, path=path)
        for each in self._acting:
            out = each.policy.head_output(each.context, out)
        return out

    @property
    def edits_sublayers(self) -> bool:
        """Whether a policy wants to see what attention and the MLP add."""
        return any(each.policy.has("sublayer_output") for each in self._acting)

    def sublayer(self, kind: Sublayer, output: mx.array) -> mx.array:
        """What a sublayer adds to the residual stream (B, L, hidden), as the policies want it."""
        for each in self._acting:
            output = each.policy.sublayer_output(each.context, kind, output)
        return output

    def leave(self, x: mx.array) -> KeptTokens | None:
        """The tokens that go on; None for all. No two policies choose (`parse.steering`)."""
        for each in self._acting:
            kept = each.policy.after_block(each.context, x)
            if kept is not None:
                return kept
        return None
