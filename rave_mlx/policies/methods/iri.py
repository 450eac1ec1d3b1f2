"""IRI: outputs of decisive layers, injected again into later ones (arXiv 2511.05923, AAAI 2026), without training.
Experimental.

For the last token of the prompt and every token written, separately for attention and MLP outputs, with a(l) what
layer l adds to the residual stream and RR its recovery rate (`recovery_rates`):

    a~(l) = a(l) + strength * sum over source layers k < l of RR_k a(k),   scaled back to the norm of a(l)

Sources are the 3 and targets the 10 layers of 32 with the highest RR; in another model the same share of layers.

From the paper's text; there is no code. The paper gives RR only in figures, so it is measured on the model at hand.
Unverified: whether a(k) is taken before (here) or after its own injection; the strengths of models other than
LLaVA-1.5-7B (default), Qwen-VL-Chat and LLaVA-NeXT; the noise of the tracing; that rates are averaged as a ratio of
means (here, since single ratios diverge where the noise changes little) and not as a mean of ratios.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import mlx.core as mx
import numpy as np

from rave_mlx import backend
from rave_mlx.config import LMMConfig
from rave_mlx.errors import UsageError
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.hooks import Sublayer
from rave_mlx.models.kv_cache import Cache
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.policy import Context, Policy
from rave_mlx.policies.runtime import PolicyRuntime

_LEAST_LOSS = 1e-3
"""Mean fall of the probability below which rates would be rounding errors."""
_KINDS: tuple[Sublayer, ...] = ("attention", "mlp")


@dataclass(frozen=True)
class IRI(Policy):
    """Outputs of decisive layers, added to those of later ones.

    Attributes:
        attention, mlp: recovery rate of each layer, from the first to the last (`recovery_rates`); empty leaves that
            kind alone.
        attention_strength, mlp_strength: strengths; 0 changes nothing.
        sources, targets: how many layers of a model with `of`.
        of: see there.
    """

    name: ClassVar[str] = "iri"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "llava-7b": {},
        "qwen-vl": {"attention_strength": 0.20, "mlp_strength": 0.10},
        "llava-next": {"attention_strength": 0.15, "mlp_strength": 0.08},
    }
    needs_visual: ClassVar[bool] = False

    attention: tuple[float, ...] = ()
    mlp: tuple[float, ...] = ()
    attention_strength: float = 0.26
    mlp_strength: float = 0.16
    sources: int = 3
    targets: int = 10
    of: int = 32

    def __post_init__(self) -> None:
        if not (0 < self.sources <= self.of and 0 < self.targets <= self.of):
            raise UsageError(f"--attention iri: sources and targets are numbers of layers from 1 to {self.of}")

    def check(self, config: LMMConfig) -> None:
        count = len(config.text.attention_layers)
        if not self.attention and not self.mlp:
            raise UsageError(
                "--attention iri: needs the model's recovery rates, attention=0.1/0.3/... and mlp=...; "
                "rave_mlx.policies.methods.iri.recovery_rates measures them"
            )
        for kind in _KINDS:
            if len(self._rates(kind)) not in (0, count):
                given = len(self._rates(kind))
                raise UsageError(f"--attention iri: {kind} has {given} rates; the model has {count} layers")
        if not any(min(sources) < max(targets) for sources, targets in map(self._parts, _KINDS) if sources):
            raise UsageError(
                "--attention iri: no source layer comes before a target layer, so nothing would change; with few "
                f"layers name more, sources=2,targets={count},of={count}"
            )

    def layers(self, count: int) -> Collection[int]:
        return sorted({layer for kind in _KINDS for part in self._parts(kind) for layer in part})

    def sublayer_output(self, ctx: Context, kind: Sublayer, output: mx.array) -> mx.array:
        sources, targets = self._parts(kind)
        if not ctx.final or ctx.layer not in (*sources, *targets):
            return output
        last = output[:, -1:]
        seen: dict[tuple[str, int], mx.array] = ctx.plan.setdefault("seen", {})
        seen[kind, ctx.layer] = last
        earlier = [k for k in sources if k < ctx.layer]
        if ctx.layer not in targets or not earlier:
            return output
        strength = self.attention_strength if kind == "attention" else self.mlp_strength
        rates = self._rates(kind)
        mixed = inject(last, [seen[kind, k] for k in earlier], [rates[k] for k in earlier], strength)
        return mixed if output.shape[1] == 1 else mx.concatenate([output[:, :-1], mixed], axis=1)

    def _rates(self, kind: Sublayer) -> tuple[float, ...]:
        """Recovery rates of the layers' attention or MLP outputs."""
        return self.attention if kind == "attention" else self.mlp

    def _parts(self, kind: Sublayer) -> tuple[list[int], list[int]]:
        """Source and target layers."""
        rates = self._rates(kind)
        if not rates:
            return [], []
        order = np.argsort(-np.array(rates), kind="stable").tolist()
        sources, targets = (max(1, round(n * len(rates) / self.of)) for n in (self.sources, self.targets))
        return sorted(order[:sources]), sorted(order[:targets])


def inject(target: mx.array, sources: Sequence[mx.array], rates: Sequence[float], strength: float) -> mx.array:
    """Mix the outputs of earlier layers into a layer's, at the norm that it had.

    Args:
        target: the layer's output (..., hidden).
        sources: outputs of earlier layers, of that shape.
        rates: recovery rate of each source.
        strength: factor of all of them; 0 changes nothing.
    """
    own = target.astype(mx.float32)
    mixed = own
    for source, rate in zip(sources, rates, strict=True):
        mixed = mixed + strength * rate * source.astype(mx.float32)
    norms = [mx.linalg.norm(x, axis=-1, keepdims=True) for x in (own, mixed)]
    return (mixed * (norms[0] / mx.maximum(norms[1], 1e-20))).astype(target.dtype)


@dataclass(frozen=True)
class Rates:
    """Recovery rates of a model's layers, as `IRI` takes them."""

    attention: tuple[float, ...]
    mlp: tuple[float, ...]


def recovery_rates(
    lmm: LMM, prompts: Sequence[Prompt], token: int | None = None, *, noise: float = 1.0, seed: int = 0
) -> Rates:
    """Causal tracing: how much of a token's probability each layer's output at the last position brings back.

    The images are overlaid with noise, and one layer's attention or MLP output of the clean run is put in the place of
    the noisy one's: RR = (P_patched - P_noisy) / (P_clean - P_noisy), numerator and denominator averaged over prompts.
    A prompt costs two readings and two single-token steps a layer.

    Args:
        lmm: the model; gates are left out.
        prompts: with images and without an answer, such as yes-or-no questions that the model answers rightly.
        token: whose probability; None: the one that is most likely in the clean run, for each prompt.
        noise: standard deviation in units of the normalised pixels.
        seed: of the noise.

    Raises:
        UsageError: where the noise lowers the probability by less than 0.001.
    """
    probe, rng = _Probe(), np.random.default_rng(seed)
    count = len(lmm.config.text.attention_layers)
    lost, regained = 0.0, np.zeros((count, len(_KINDS)))
    for prompt in prompts:
        clean, noised = (PolicyRuntime(lmm, (probe,)) for _ in range(2))
        chances = _chances(lmm, prompt, lmm.make_cache(gate=False, hooks=clean))
        chosen = int(chances.argmax()) if token is None else token
        noisy = _with_noise(prompt, noise, rng)
        cache = lmm.make_cache(gate=False, hooks=noised)
        # All but the last token, which is then read once for each layer and sublayer with that one patched.
        lmm.read(noisy, cache, len(noisy) - 1)
        base = float(_chances(lmm, noisy, cache)[chosen])
        lost += float(chances[chosen]) - base
        for layer in range(count):
            for column, kind in enumerate(_KINDS):
                cache.trim(cache.reach(len(noisy) - 1))
                noised.state(probe, layer)[f"{kind} patch"] = clean.state(probe, layer)[kind]
                regained[layer, column] += float(_chances(lmm, noisy, cache)[chosen]) - base
                del noised.state(probe, layer)[f"{kind} patch"]
    if lost <= _LEAST_LOSS * len(prompts):
        raise UsageError("the noise does not lower the token's probability: raise `noise`, or choose other prompts")
    return Rates(*(tuple(map(float, column / lost)) for column in regained.T))


@dataclass(frozen=True)
class _Probe(Policy):
    """Keeps each sublayer's output at the last token, and replaces it where the state has a patch."""

    needs_visual: ClassVar[bool] = False

    def sublayer_output(self, ctx: Context, kind: Sublayer, output: mx.array) -> mx.array:
        ctx.state[kind] = output[:, -1:]
        patch = ctx.state.get(f"{kind} patch")
        return output if patch is None else mx.concatenate([output[:, :-1], patch], axis=1)


def _chances(lmm: LMM, prompt: Prompt, cache: Cache) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Probabilities (vocab,) of the token after the prompt."""
    with backend.row_parallel():
        logits = lmm.decoder.logits(lmm.read(prompt, cache, len(prompt))[:, -1])
        return np.array(mx.softmax(logits[0].astype(mx.float32)))


def _with_noise(prompt: Prompt, noise: float, rng: np.random.Generator) -> Prompt:
    """The prompt with Gaussian noise on its pixels; new digests, so that no clean features are taken for them."""
    images = []
    for image in prompt.images:
        pixels = image.pixels + rng.normal(0, noise, image.pixels.shape).astype(np.float32)
        images.append(replace(image, pixels=pixels, digest=f"{image.digest} with noise"))
    return replace(prompt, images=tuple(images))
