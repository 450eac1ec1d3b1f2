"""The forward pass of training: what `LMM.logits` computes, over a batch padded on the right, up to the hidden states.

The vocabulary scores are left to `loss`, which needs them at few positions only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import mlx.core as mx

from rave_mlx.attention import Path
from rave_mlx.models.decoder_layer import DecoderLayer
from rave_mlx.models.lmm import LMM, put_features
from rave_mlx.models.rope_scaling import rope_bucket
from rave_mlx.models.sink_gate import visual_groups
from rave_mlx.models.step import Step
from rave_mlx.train.activation_checkpointing import Call, full_checkpointing, selective_checkpointing
from rave_mlx.train.batch import Batch

Watch = Callable[[int, mx.array, Batch], None]
"""Is given every layer's index, what enters it (B, L, hidden), and the batch."""


def hidden_states(
    lmm: LMM,
    batch: Batch,
    features: Mapping[str, mx.array] | None = None,
    *,
    checkpoint: bool = False,
    path: Path | None = "train",
    watch: Watch | None = None,
) -> mx.array:
    """Normalized hidden states (B, L, hidden) of a batch; those of padding mean nothing.

    Args:
        lmm: the model. Gates are computed wherever it has them, inert ones too: they are being trained.
        batch: what to read, at least one row.
        features: of images by digest, where the tower and the connector are frozen (`features.FeatureCache`); others
            go through them, with their gradient.
        checkpoint: keep only the input of each decoder layer and compute the rest again for the gradient.
        path: attention path; "train" has a gradient whose memory grows with L, not with its square.
        watch: looks at what enters the layers; rows may come one by one.
    """
    text, config = lmm.config.text, lmm.config.sink_gate
    longest = batch.positions.max(axis=(1, 2)) + 1
    buckets = [rope_bucket(text.rope, int(n)) for n in longest]
    if len(set(buckets)) > 1:
        return _by_bucket(lmm, batch, features, buckets, checkpoint, path, watch)
    x, deepstack = _embed(lmm, batch, features)
    return lmm.decoder.hidden(
        x,
        mx.array(batch.positions),
        mx.array(batch.visual),
        ids=mx.array(batch.ids),
        gate_span=batch.span if lmm.decoder.gates else None,
        groups=None if config is None else visual_groups(config, x, batch.reader, batch.image),
        lookahead=None if batch.lookahead is None else mx.array(batch.lookahead),
        deepstack=deepstack,
        longest=int(longest.max()),
        path=path,
        call=_call(batch, checkpoint, watch),
    )


def _call(batch: Batch, checkpoint: bool, watch: Watch | None) -> Call:
    """Runs a layer."""
    run = full_checkpointing if checkpoint else selective_checkpointing
    if watch is None:
        return run

    def call(index: int, layer: DecoderLayer, x: mx.array, step: Step) -> mx.array:
        watch(index, x, batch)
        return run(index, layer, x, step)

    return call


def _embed(lmm: LMM, batch: Batch, features: Mapping[str, mx.array] | None) -> tuple[mx.array, mx.array | None]:
    """Input embeddings (B, L, hidden) and DeepStack features (n, B, L, hidden) or None."""
    x = lmm.decoder.embed_ids(mx.array(batch.ids))
    if not batch.images:
        return x, None
    known = features or {}
    shown = [known[i.digest] if i.digest in known else lmm.features(i) for i in batch.images]
    return put_features(x, mx.concatenate(shown), mx.array(batch.feature), mx.array(batch.visual))


def _by_bucket(
    lmm: LMM,
    batch: Batch,
    features: Mapping[str, mx.array] | None,
    buckets: Sequence[int],
    checkpoint: bool,
    path: Path | None,
    watch: Watch | None,
) -> mx.array:
    """Rows whose rotary frequencies differ (they follow the length) one by one."""
    known = features or {}
    known = {i.digest: known[i.digest] if i.digest in known else lmm.features(i) for i in batch.images}
    rows = []
    for index in range(len(buckets)):
        one = slice(index, index + 1)
        row = replace(
            batch,
            ids=batch.ids[one],
            positions=batch.positions[one],
            visual=batch.visual[one],
            loss_mask=batch.loss_mask[one],
            feature=batch.feature[one],
            lookahead=None if batch.lookahead is None else batch.lookahead[one],
            reader=batch.reader[one],
            image=batch.image[one],
            lengths=batch.lengths[one],
            where=batch.where[one],
        )
        rows.append(hidden_states(lmm, row, known, checkpoint=checkpoint, path=path, watch=watch))
    return mx.concatenate(rows)
