"""What an attention policy is: a frozen set of parameters, a few declarations, and the hooks it implements.

A policy steers, or observes, how the decoder attends while a model reads and writes. It holds parameters only; what it
learns about one conversation lives in `Context.state` (per layer) and `Context.plan` (per conversation), which belong
to that conversation's cache. Hooks run in this order, and a policy implements the ones it needs:

| hook                         | sees                                  | returns                                     |
|------------------------------|---------------------------------------|---------------------------------------------|
| prepare, plan                | the model; the model and the prompt   | what `Context.plan` then holds              |
| on_block_input               | block input x                         | nothing: writes state                       |
| edit_qk                      | rotated q, k, and v of the new tokens | q, k, v                                     |
| visible                      | boolean mask                          | boolean mask                                |
| edit_scores                  | scores before softmax                 | scores                                      |
| key_groups, group_weights    | mass of each group of keys            | a factor for each group                     |
| weights                      | softmax weights                       | weights (normalised again afterwards)       |
| observe_masses, observe      | final group masses, final weights     | nothing                                     |
| head_output                  | each head's output                    | the same, edited                            |
| sublayer_output              | attention or MLP output               | the same, edited                            |
| after_block                  | block output x                        | the tokens to keep, or None for all         |

Policies that read the page again, before the answer or beside it, have two hooks more: `rereading.policy`.

The cost follows from the hooks (`scores`): without edit_scores, key_groups, weights and observe, attention takes its
usual path; with them, the rows a policy touches are computed in blocks of queries, and no attention matrix is held.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Self

import mlx.core as mx

from rave_mlx.config import LMMConfig
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.hooks import KeptTokens, Sublayer
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.tokens import Tokens

Phase = Literal["prefill", "decode"]
Rows = Literal["all", "text", "last"]


@dataclass
class Context:
    """One policy's view of one layer during one pass over new tokens.

    B sequences, H query heads, G KV heads, L new tokens, K keys (old and new), d head width. Arrays that a hook comes
    too early for are not there yet; see `Policy`.

    Attributes:
        layer, num_layers: which decoder layer, of how many: those with attention alone count.
        phase: "prefill" (reading) or "decode" (writing).
        tokens: what the K keys of this layer are.
        start: index of the first new token among the keys.
        x: the block's input (B, L, hidden), before its norm.
        state: what this policy keeps for this layer; `KeyRows` in it are trimmed with the cache.
        plan: what `prepare` and `plan` returned; one for all layers.
        final: whether the pass ends the prompt (true of every decode step).
        q_pre, k_pre: queries (B, H, L, d) and keys (B, G, L, d) of the new tokens before rotation (after q/k norm).
        q, k, v: rotated queries of the new tokens, keys and values (B, G, K, d) of all.
        rows: [first, stop) of the new tokens that the scores, masses or weights at hand belong to.
        keys: how many leading keys those scores or weights cover.
        received: column sums (B, H, K) of this layer's attention over all new tokens, before policies; computed when
            called.
    """

    layer: int
    num_layers: int
    phase: Phase
    tokens: Tokens
    start: int
    x: mx.array
    state: dict[str, Any]
    plan: dict[str, Any]
    final: bool = True
    q_pre: mx.array | None = None
    k_pre: mx.array | None = None
    q: mx.array | None = None
    k: mx.array | None = None
    v: mx.array | None = None
    rows: tuple[int, int] = (0, 0)
    keys: int = 0
    received: Callable[[], mx.array] | None = field(default=None, repr=False)

    @property
    def length(self) -> int:
        """L, the number of new tokens."""
        return int(self.x.shape[1])

    @property
    def visual(self) -> mx.array:
        """(B, keys) marks of visual keys."""
        return self.tokens.marks("visual")[:, : self.keys]

    @property
    def text(self) -> mx.array:
        """(B, keys) marks of keys that are neither visual nor padding."""
        return self.tokens.marks("text")[:, : self.keys]


@dataclass(frozen=True)
class Policy:
    """Base of all policies: every hook does nothing. Subclasses are frozen dataclasses of their parameters.

    Class attributes:
        name: as written after `--attention`.
        presets: named values of the fields, as in `name:preset`.
        rows: the queries whose scores, masses and weights it sees and edits: "all", "text" (not visual, not
            padding) or "last" (the last token of the prompt, then every generated one).
        needs_visual: queries that see no visual key are left alone.
        prefix_reusable: whether what was read stays right when the conversation goes on differently after it.
        chunkable: whether a prompt may be read in chunks.
        originals: whether images are to be kept with their originals (`prompt.message.ImagePart.original`).
        drops: whether visual tokens are dropped before the decoder reads them.
    """

    name: ClassVar[str] = ""
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    rows: ClassVar[Rows] = "text"
    needs_visual: ClassVar[bool] = True
    prefix_reusable: ClassVar[bool] = True
    chunkable: ClassVar[bool] = True
    originals: ClassVar[bool] = False
    drops: ClassVar[bool] = False
    _hooks: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls._hooks = frozenset(n for n in vars(Policy) if getattr(cls, n, None) is not getattr(Policy, n, None))

    @classmethod
    def preset(cls, name: str, **fields: Any) -> Self:
        """The preset with some fields set otherwise."""
        return cls(**{**cls.presets[name], **fields})

    def has(self, hook: str) -> bool:
        """Whether the policy implements a hook."""
        return hook in self._hooks

    def check(self, config: LMMConfig) -> None:
        """Refuse a model that the policy cannot steer.

        Raises:
            UsageError: with what is missing.
        """

    def layers(self, count: int) -> Collection[int]:
        """The decoder layers it touches, of `count` with attention; layers without are not counted."""
        return range(count)

    def prepare(self, lmm: LMM) -> Mapping[str, Any]:
        """What it has to know about the model; called once a conversation, before anything is read."""
        return {}

    def plan(self, lmm: LMM, prompt: Prompt, features: Mapping[str, mx.array]) -> Mapping[str, Any]:
        """What it has to know about the prompt; called before a prompt is read.

        Args:
            lmm: the model.
            prompt: what is about to be read.
            features: of the prompt's images (visual tokens, hidden), by digest.
        """
        return {}

    def on_block_input(self, ctx: Context) -> None:
        """Look at `ctx.x`."""

    def edit_qk(self, ctx: Context, q: mx.array, k: mx.array, v: mx.array) -> tuple[mx.array, mx.array, mx.array]:
        """Edit the new tokens' queries, keys and values before they are stored.

        Args:
            ctx: the pass, with `q_pre` and `k_pre`.
            q: rotated queries (B, H, L, d).
            k, v: rotated keys and values (B, G, L, d). Of a layer that uses those of another, they are that layer's:
                edits of theirs count for nothing here.
        """
        return q, k, v

    def visible(self, ctx: Context, allowed: mx.array) -> mx.array:
        """Edit the mask, boolean (B or 1, 1, L, K): what each new token sees."""
        return allowed

    def edit_scores(self, ctx: Context, scores: mx.array) -> mx.array:
        """Edit scores (B, H, rows, keys), float32, scaled and gated, not yet masked: add a bias, or scale."""
        return scores

    def key_groups(self, ctx: Context) -> mx.array | None:
        """Disjoint groups of keys as marks (B, K, groups) of 0 and 1; called once a layer and pass.

        None leaves the layer's groups alone: it takes its usual path, unless another hook needs its rows.
        """
        raise NotImplementedError

    def group_weights(self, ctx: Context, masses: mx.array) -> mx.array:
        """Factors (B, H, rows, groups) for the groups' weights, from their masses of that shape (float32).

        Keys in no group keep theirs; each row is normalised again.
        """
        return mx.ones_like(masses)

    def weights(self, ctx: Context, weights: mx.array) -> mx.array:
        """Edit the softmax weights (B, H, rows, keys), float32; each row is normalised again."""
        return weights

    def observe_masses(self, ctx: Context, masses: mx.array) -> None:
        """Look at the final masses (B, H, rows, groups) of `key_groups`."""

    def observe(self, ctx: Context, weights: mx.array) -> None:
        """Look at the final weights (B, H, rows, keys)."""

    def head_output(self, ctx: Context, output: mx.array) -> mx.array:
        """Edit the heads' outputs (B, H, L, d) before they are joined and projected."""
        return output

    def sublayer_output(self, ctx: Context, kind: Sublayer, output: mx.array) -> mx.array:
        """Edit what a sublayer adds to the residual stream.

        Args:
            ctx: the pass.
            kind: "attention" (after its projection) or "mlp".
            output: (B, L, hidden).
        """
        return output

    def after_block(self, ctx: Context, x: mx.array) -> KeptTokens | None:
        """Choose which tokens go on, from the block's output (B, L, hidden); None keeps all."""
        return None


@dataclass(frozen=True)
class Steering:
    """What `--attention` chose.

    Attributes:
        gate: whether the model's pair gates are used; None: where it has any that do something.
        policies: in the order in which they act.
    """

    gate: bool | None = None
    policies: tuple[Policy, ...] = ()

    def touches_layers(self, count: int) -> bool:
        """Whether a policy is at work in any of the decoder's `count` layers."""
        return any(len(policy.layers(count)) > 0 for policy in self.policies)


Attention = str | Policy | Steering | Sequence[str | Policy] | None
"""What `Session` and others take: a string as of `--attention`, a policy, several of them, or None for the default."""
