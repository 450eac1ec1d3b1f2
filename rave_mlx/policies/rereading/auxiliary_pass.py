"""Auxiliary passes: further readings of a conversation that follow an answer, and give logits of its next token."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from rave_mlx.generation.decode import continued, step
from rave_mlx.generation.encoding import encode_missing
from rave_mlx.generation.prefill import prefill, reuse
from rave_mlx.generation.prefix_store import Notes, PrefixStore, T, fork
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.kv_cache import Cache
from rave_mlx.models.lmm import LMM
from rave_mlx.models.rope_scaling import rope_bucket
from rave_mlx.policies.policy import Steering
from rave_mlx.policies.runtime import attach


class AuxiliaryPass:
    """A prompt, read when it is first asked for, and the tokens of the answer, read when they are needed.

    Args:
        lmm: the model.
        prompt: what is read.
        cache: what it is read with; empty.
        features: of images by digest; those of the prompt's images are added.
        prefixes: where what others have read is found; None: nowhere.
    """

    def __init__(
        self,
        lmm: LMM,
        prompt: Prompt,
        cache: Cache,
        features: MutableMapping[str, mx.array],
        prefixes: PrefixStore | None = None,
    ):
        self._lmm, self._prompt, self._cache, self._features = lmm, prompt, cache, features
        self._prefixes = prefixes
        self._answer: list[mx.array] = []

    def reset_prompt(self, prompt: Prompt) -> None:
        """Go on to another prompt and no answer yet; what it shares with the one before is not read again."""
        rope, seen = self._lmm.config.text.rope, self._prompt
        before, after = seen.token_map.next_position, prompt.token_map.next_position
        same_bucket = len({rope_bucket(rope, length) for length in (before, before + len(self._answer), after)}) == 1
        reuse(self._cache, seen if same_bucket else None, prompt)
        self._prompt, self._answer = prompt, []

    def append_token(self, token: mx.array) -> None:
        """Let the answer go on with a token (1,)."""
        self._answer.append(token)

    def logits(self) -> mx.array:
        """Logits (1, vocab) of the token after the answer so far; once after each token at most.

        Raises:
            MemoryLimitError: when keys and values would not fit.
        """
        rope = self._lmm.config.text.rope
        length = self._prompt.token_map.next_position + len(self._answer)
        unread = len(self._prompt) + len(self._answer) - self._cache.length
        # As in `decode`: dynamic frequencies go on with the keys there are, longrope reads everything again.
        rereads = rope.scaling is not None and rope.scaling.kind == "longrope"
        if rereads and self._cache.length and rope_bucket(rope, length) != rope_bucket(rope, length - unread):
            self._cache.trim(0)
            unread = len(self._prompt) + len(self._answer)
        try:
            if self._answer and unread == 1:
                return step(self._lmm, self._cache, self._answer[-1], length - 1)
            return self._read()
        except BaseException:
            # Some layers may hold more than others.
            self._cache.trim(0)
            raise

    def _read(self) -> mx.array:
        """Logits after all that the cache does not hold yet, in one pass."""
        encode_missing(self._lmm, self._prompt.images, self._features)
        answer = np.concatenate([np.array(token) for token in self._answer]).tolist() if self._answer else []
        whole, rope = continued(self._prompt, answer), self._lmm.config.text.rope
        bucket = rope_bucket(rope, self._prompt.token_map.next_position)
        store = self._prefixes
        if (
            self._cache.length
            or self._cache.hooks is not None
            or bucket != rope_bucket(rope, whole.token_map.next_position)
        ):
            store = None
        if store is not None:
            self._cache = store.begin(self._prompt, self._cache, bucket)
        logits = prefill(self._lmm, whole, self._cache, features=self._features)
        if store is not None:
            store.keep(self._prompt, fork(self._cache, self._cache.reach(len(self._prompt))), bucket)
        return logits


@dataclass(frozen=True)
class AuxiliaryPasses:
    """The auxiliary passes of a conversation by name, and what they share: model, attention, image features.

    They stay from one answer to the next, so that a page is not read again for the next question about it; `prefixes`
    does the same for answers that are written at the same time, each with passes of its own.
    """

    lmm: LMM
    steering: Steering
    features: MutableMapping[str, mx.array]
    passes: dict[str, AuxiliaryPass] = field(default_factory=dict)
    prefixes: PrefixStore | None = None
    own_notes: Notes = field(default_factory=Notes)

    def note(self, key: str, make: Callable[[], T]) -> T:
        """What is known of a page under a key; `make` finds it out where nothing is."""
        return (self.own_notes if self.prefixes is None else self.prefixes.notes).get(key, make)

    def open(self, name: str, prompt: Prompt, steering: Steering | None = None) -> AuxiliaryPass:
        """The pass of a name, reset to a prompt.

        Args:
            name: always with the same `steering`.
            prompt: what is read.
            steering: gates and policies; None: the answer's.
        """
        if name in self.passes:
            self.passes[name].reset_prompt(prompt)
        else:
            chosen = steering or self.steering
            acts = chosen.touches_layers(len(self.lmm.config.text.attention_layers))
            cache = self.lmm.make_cache(gate=chosen.gate, hooks=attach(self.lmm, chosen.policies) if acts else None)
            self.passes[name] = AuxiliaryPass(self.lmm, prompt, cache, self.features, self.prefixes)
        return self.passes[name]
