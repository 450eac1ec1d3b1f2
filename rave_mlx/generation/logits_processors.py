"""Functions that change the logits of the next token before it is drawn."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx

LogitsProcessor = Callable[[mx.array, mx.array], mx.array]
"""(tokens (n,), logits (1, vocab)) -> logits (1, vocab), as in mlx-lm.

`tokens` are the ids of the prompt and of the answer so far, on the device: the newest may not have been computed yet.
A processor belongs to one answer and is called once for each of its tokens, in order; after a stop token it may be
called once more, for a token that nobody will see.
"""
