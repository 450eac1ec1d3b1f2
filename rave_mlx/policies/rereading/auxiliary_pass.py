"""Further readings of a conversation that follow an answer as it is written, and say what they would write next."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field

import mlx.core as mx
import numpy as np

from rave_mlx.generation.decode import continued, encode, prefill, reuse, step
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.kv_cache import Cache
from rave_mlx.models.lmm import LMM
from rave_mlx.models.rope_scaling import regime
from rave_mlx.policies.parse import Steering


class SecondRun:
    """A prompt, read when it is first asked for, and the tokens of the answer, read when they are needed.

    Args:
        lmm: the model.
        prompt: what is read.
        cache: what it is read with; empty.
        features: of images by digest; those of the prompt's images are added.
    """

    def __init__(self, lmm: LMM, prompt: Prompt, cache: Cache, features: MutableMapping[str, mx.array]):
        self._lmm, self._prompt, self._cache, self._features = lmm, prompt, cache, features
        self._said: list[mx.array] = []

    def turn_to(self, prompt: Prompt) -> None:
        """Another prompt and no answer yet; what it shares with the one before is not read again."""
        rope, seen = self._lmm.config.text.rope, self._prompt
        before, after = seen.token_map.next_position, prompt.token_map.next_position
        alike = len({regime(rope, length) for length in (before, before + len(self._said), after)}) == 1
        reuse(self._cache, seen if alike else None, prompt)
        self._prompt, self._said = prompt, []

    def say(self, token: mx.array) -> None:
        """The answer goes on with a token (1,)."""
        self._said.append(token)

    def logits(self) -> mx.array:
        """Logits (1, vocab) after what was said; once after each token at most.

        Raises:
            MemoryLimitError: when keys and values would not fit.
        """
        rope = self._lmm.config.text.rope
        length = self._prompt.token_map.next_position + len(self._said)
        unread = len(self._prompt) + len(self._said) - self._cache.length
        # As in `decode`: dynamic frequencies go on with the keys there are, longrope reads everything again.
        turns = rope.scaling is not None and rope.scaling.kind == "longrope"
        if turns and self._cache.length and regime(rope, length) != regime(rope, length - unread):
            self._cache.trim(0)
            unread = len(self._prompt) + len(self._said)
        try:
            if self._said and unread == 1:
                return step(self._lmm, self._cache, self._said[-1], length - 1)
            return self._read()
        except BaseException:
            # Some layers may hold more than others.
            self._cache.trim(0)
            raise

    def _read(self) -> mx.array:
        """Logits after all that the cache does not hold yet, in one pass."""
        for image in self._prompt.images:
            if image.digest not in self._features:
                self._features[image.digest] = encode(self._lmm, image)
        said = np.concatenate([np.array(token) for token in self._said]).tolist() if self._said else []
        return prefill(self._lmm, continued(self._prompt, said), self._cache, features=self._features)


@dataclass(frozen=True)
class Readings:
    """What an answer's readings share: the model, how it attends, features of images, and runs by name.

    Runs stay from one answer to the next, so that a page is not read again for the next question about it.
    """

    lmm: LMM
    steering: Steering
    features: MutableMapping[str, mx.array]
    runs: dict[str, SecondRun] = field(default_factory=dict)

    def open(self, name: str, prompt: Prompt, steering: Steering | None = None) -> SecondRun:
        """The run of a name, turned to a prompt.

        Args:
            name: always with the same `steering`.
            prompt: what is read.
            steering: gates and policies; None: the answer's.
        """
        if name in self.runs:
            self.runs[name].turn_to(prompt)
        else:
            chosen = steering or self.steering
            cache = self.lmm.make_cache(gate=chosen.gate, policies=chosen.policies)
            self.runs[name] = SecondRun(self.lmm, prompt, cache, self.features)
        return self.runs[name]
