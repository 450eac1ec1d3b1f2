"""What methods with a profile pass share: reading a prompt under an observer, its question, and layers by depth.

A profile pass reads the prompt once before it is read for good, without gates: what it finds is the base model's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx import backend
from rave_mlx.inputs.prompt.message import Role
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.policy import Policy
from rave_mlx.policies.runtime import PolicyRuntime

_WORD = re.compile(r"[^\W_]+(?:['\u2019][^\W_]+)*")
_FUNCTION_WORDS = frozenset(
    word
    for line in (
        "a about above after again against all also am an and any are aren't as at be because been before being",
        "below between both but by can cannot could couldn't did didn't do does doesn't doing don't down during",
        "each either else few for from further had hadn't has hasn't have haven't having he her here hers herself",
        "him himself his how i if in into is isn't it it's its itself just least less let's many may me might mine",
        "more most much must my myself neither no nor not of off on once only or other our ours ourselves out over",
        "own per please quite rather same shall she should shouldn't so some such than that that's the their theirs",
        "them themselves then there there's these they this those though through to too toward under unless until",
        "up upon us very was wasn't we were weren't what what's when where whether which while who who's whom whose",
        "why will with within without won't would wouldn't yes yet you your yours yourself yourselves",
    )
    for word in line.split()
)
"""English pronouns, determiners, prepositions, conjunctions, auxiliaries and particles."""


def depth(layer: int, of: int, count: int) -> int:
    """The layer of another model at the same relative depth.

    Args:
        layer: index in the model that a paper gives it for.
        of: how many layers that model has.
        count: how many layers the model at hand has.
    """
    return min(layer * count // of, count - 1)


def depths(first: int, last: int, of: int, count: int) -> range:
    """The layers of another model at the same relative depth as [first, last]; at least one.

    Args:
        first, last: indices in the model that a paper gives them for, both included.
        of: how many layers that model has.
        count: how many layers the model at hand has.
    """
    start = depth(first, of, count)
    return range(start, max(start + 1, (last + 1) * count // of))


def observe(lmm: LMM, prompt: Prompt, features: Mapping[str, mx.array], observer: Policy) -> PolicyRuntime:
    """Read a whole prompt under an observer, in a cache of its own and without gates.

    Args:
        lmm: the model.
        prompt: what is read.
        features: of the prompt's images, by digest.
        observer: a policy that changes nothing.

    Returns:
        The runtime, in whose `state(observer, layer)` the findings are.
    """
    runtime = PolicyRuntime(lmm, (observer,))
    cache = lmm.make_cache(gate=False, hooks=runtime)
    with backend.row_parallel():
        mx.eval(lmm.read(prompt, cache, len(prompt), features))
        cache.evaluate()
    return runtime


def question(prompt: Prompt) -> NDArray[np.bool_]:
    """(L,) marks of the text tokens of the last message that a user wrote."""
    tokens = prompt.token_map
    own: NDArray[np.bool_] = tokens.role == Role.USER
    if own.any():
        own &= tokens.message == tokens.message[own].max()
    return own


def content_words(lmm: LMM, prompt: Prompt) -> NDArray[np.bool_]:
    """(L,) marks of the question's tokens that are part of a content word; of all its tokens if none is.

    A content word is one that is no function word of English; no part-of-speech tagger is needed.
    """
    own = question(prompt)
    stream = lmm.tokenizer.stream()
    index = np.flatnonzero(own)
    pieces = [stream.add(int(i)) for i in prompt.ids[0, index]]
    starts = np.cumsum([0, *map(len, pieces)])
    # A token that completes no character belongs to the one after it.
    inside = np.zeros(int(starts[-1]) + 1, bool)
    for match in _WORD.finditer("".join(pieces)):
        if match.group().lower().replace("\u2019", "'") not in _FUNCTION_WORDS:
            inside[match.start() : match.end()] = True
    chosen = np.zeros_like(own)
    for token, start, stop in zip(index, starts, starts[1:], strict=False):
        chosen[token] = inside[start : max(stop, start + 1)].any()
    return chosen if chosen.any() else own


def fitted(row: mx.array, keys: int) -> mx.array:
    """A row (L,) of the prompt's tokens for `keys` keys: cut, or zero for what came later."""
    return row[:keys] if keys <= row.shape[0] else mx.pad(row, [(0, keys - row.shape[0])])
