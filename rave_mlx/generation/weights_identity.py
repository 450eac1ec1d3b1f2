"""Which weights are these? A digest of a model in memory that costs a fraction of reading a page.

What is sampled are the weights that compute, not the files that they came from: copies and links of a model are the
same model, and adapters, gates, other types, packed or expanded weights, and changes made in memory are other ones. Of
each tensor some 4,096 values count, evenly spread over rows and columns, and all of a smaller one; hashing every byte
would take as long as reading 100 tokens. Training, merging, quantizing, casting or pruning change nearly all values of
the tensors that they change, so a sample finds them; a change of one value in 1,000 of a single tensor would be missed
in 1 of 60 cases. Rows of the embedding are what people do change one by one, so whoever uses the digest for a prompt
adds the rows of its tokens (`embedding_digest`).
"""

from __future__ import annotations

import hashlib
import math

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from rave_mlx.models.lmm import LMM

_SAMPLES = 4096
"""Values sampled of a tensor, or up to twice as many."""
_WORDS = {1: mx.uint8, 2: mx.uint16, 4: mx.uint32}


def weights_digest(lmm: LMM) -> str:
    """SHA-256, in hexadecimal, over settings, and names, shapes, types and sampled values of all parameters."""
    weights = sorted(lmm.named_weights().items())
    samples = [_sample(x).view(_WORDS[x.dtype.size]) for _, x in weights]
    mx.eval(samples)
    digest = hashlib.sha256(repr(lmm.config).encode())
    for (name, x), sample in zip(weights, samples, strict=True):
        digest.update(f"{name} {list(x.shape)} {x.dtype}\n".encode())
        digest.update(np.asarray(sample).tobytes())
    return digest.hexdigest()


def embedding_digest(lmm: LMM, ids: NDArray[np.int32]) -> str:
    """SHA-256, in hexadecimal, over the embeddings of the tokens among `ids`."""
    used = mx.array(np.unique(ids))
    rows = [lmm.decoder.embed_ids(used)]
    given = lmm.config.text.layer_inputs
    if given is not None:
        rows.append(lmm.decoder.layer_inputs.embed(mx.minimum(used, given.vocab_size - 1)))
    digest = hashlib.sha256()
    for part in rows:
        digest.update(np.asarray(part.view(_WORDS[part.dtype.size])).tobytes())
    return digest.hexdigest()


def _sample(x: mx.array) -> mx.array:
    """Every n-th value, n without a common factor with the row's length, so that all columns come in turn."""
    step = max(1, x.size // _SAMPLES)
    while math.gcd(step, x.shape[-1] if x.ndim else 1) > 1:
        step -= 1
    return mx.contiguous(x.reshape(-1)[::step])
