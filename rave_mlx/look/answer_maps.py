"""Answering a question and recording where every token of the answer looks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from PIL import Image

from rave_mlx.config import Connector, ImageConfig, Images
from rave_mlx.errors import PromptError, UsageError
from rave_mlx.generation.confidence import TokenConfidence
from rave_mlx.generation.decode import decode
from rave_mlx.generation.prefill import prefill
from rave_mlx.generation.sampling import Sampling
from rave_mlx.generation.turns import COMPUTING
from rave_mlx.inputs.images.patch_order import in_reading_order
from rave_mlx.inputs.images.patches import ImagePatches, normalised
from rave_mlx.inputs.images.preprocess import open_image
from rave_mlx.inputs.images.token_boxes import locate_tokens
from rave_mlx.inputs.prompt.message import ImagePart, Message, Role, TextPart, latest_turn
from rave_mlx.inputs.prompt.parse_messages import read_messages
from rave_mlx.inputs.prompt.parse_parts import parse_part
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.look.maps import AnswerToken, AttentionMap, SeenImage
from rave_mlx.models.lmm import LMM
from rave_mlx.policies.parse import steering
from rave_mlx.policies.policy import Attention, Steering
from rave_mlx.policies.rereading.policy import RereadingPolicy
from rave_mlx.policies.row_recorder import Recorder, Row, RowObserver
from rave_mlx.policies.runtime import attach

MAX_TOKENS = 64
PAGE_PIXELS = 1 << 21
"""About how many pixels a page of a PDF is shown with."""


def collect(
    lmm: LMM,
    messages: Sequence[Mapping[str, Any]] | Prompt,
    *,
    policy: Attention = None,
    max_tokens: int = MAX_TOKENS,
    image_tokens: int | None = None,
) -> AttentionMap:
    """Answer greedily and keep the attention of every answer token over the images.

    Args:
        lmm: the model.
        messages: as in `LMM.prepare`, or a prompt; its images are then shown as the model saw them.
        policy: attention policy, as of `Session`.
        max_tokens: limit of the answer's length.
        image_tokens: budget of visual tokens an image, for messages.

    Raises:
        PromptError: for a text-only model, or a conversation without an image.
        UsageError: for a policy that drops tokens, rewrites messages where a prompt is given, or does not fit.
        ImageError, MemoryLimitError.
    """
    chosen = steering(policy)
    image, connector = _check(lmm, chosen, messages)
    originals: list[Image.Image] = []
    if isinstance(messages, Prompt):
        prompt, question = messages, lmm.tokenizer.decode(_text_ids(messages))
    else:
        prompt, originals, question = _read(lmm, messages, chosen, image_tokens)
    if not prompt.images:
        raise PromptError("there is no image to look at; add one to the question")
    tokens, rows = _answer(lmm, prompt, chosen, max_tokens)
    pictures = originals or [seen_by_model(patches, image) for patches in prompt.images]
    kept = [locate_tokens(patches, image, connector) for patches in prompt.images]
    of_image = prompt.token_map.image
    gates = np.stack([row.gate for row in rows])
    return AttentionMap(
        question=question,
        answer="".join(token.text for token in tokens),
        attention=label(lmm, policy, chosen),
        tokens=tuple(tokens),
        images=tuple(SeenImage(*pair) for pair in zip(pictures, kept, strict=True)),
        image=of_image[of_image >= 0],
        weights=np.stack([row.weights for row in rows]),
        mass=np.stack([row.mass for row in rows]),
        sinks=rows[0].sinks,
        shift=gates[..., 0],
        moved=gates[..., 1],
        decoder_layers=lmm.config.text.attention_layers if lmm.config.text.linear is not None else (),
    )


def _check(lmm: LMM, chosen: Steering, messages: Sequence[Mapping[str, Any]] | Prompt) -> tuple[Images, Connector]:
    """How images become visual tokens; errors as of `collect`."""
    image, connector = lmm.config.image, lmm.config.connector
    if image is None or connector is None:
        raise PromptError("this model reads text only, there is nothing to look at; choose a vision-language model")
    for each in chosen.policies:
        if each.drops or each.has("after_block"):
            raise UsageError(f"--attention {each.name} drops tokens on the way; look shows policies that keep all")
        if each.has("logits_processor"):
            raise UsageError(f"--attention {each.name} acts on the answer's logits; look shows attention")
        if each.has("revise") and isinstance(messages, Prompt):
            raise UsageError(f"--attention {each.name} rewrites the question; give messages, not a prompt")
    return image, connector


def label(lmm: LMM, policy: Attention, chosen: Steering) -> str:
    """The name of a policy as it is written after `--attention`.

    Args:
        lmm: the model, whose gates are named where they are used.
        policy: as a caller gave it; text is its own name.
        chosen: the same, read.
    """
    if isinstance(policy, str):
        return policy
    gated = lmm.make_cache(gate=chosen.gate).gated
    names = [each.name for each in chosen.policies]
    return "+".join((["rave"] if gated else []) + names) or "none"


def _answer(lmm: LMM, prompt: Prompt, chosen: Steering, max_tokens: int) -> tuple[list[AnswerToken], list[Row]]:
    """The tokens of a greedy answer, and the row of attention that chose each."""
    recorder = Recorder(lmm.decoder, np.flatnonzero(prompt.token_map.visual))
    cache = lmm.make_cache(gate=chosen.gate, hooks=attach(lmm, [*chosen.policies, RowObserver(recorder)]))
    recorder.cache = cache
    limit = min(max_tokens, lmm.config.text.max_positions - len(prompt))
    words, tokens, confidence = lmm.tokenizer.stream(), list[AnswerToken](), TokenConfidence()
    # Token by token: others may compute with the model as well.
    with COMPUTING:
        logits = prefill(lmm, prompt, cache)
    written = decode(lmm, prompt, cache, logits, Sampling(), max_tokens=limit, processors=[confidence])
    while True:
        with COMPUTING:
            index = next(written, None)
            recorder.evaluate()
        if index is None:
            break
        stopped = index in lmm.config.tokens.stop
        text = "" if stopped else words.add(index)
        if stopped or len(tokens) + 1 == limit:
            text += words.finish()
        tokens.append(AnswerToken(index, text, stopped))
    chances = confidence.each([token.id for token in tokens])
    return [replace(t, probability=c) for t, c in zip(tokens, chances, strict=True)], recorder.rows[: len(tokens)]


def _read(
    lmm: LMM, messages: Sequence[Mapping[str, Any]], chosen: Steering, image_tokens: int | None
) -> tuple[Prompt, list[Image.Image], str]:
    """The prompt, the upright originals of its images, and the question."""
    kept = any(policy.originals for policy in chosen.policies)
    read = read_messages(messages, lmm.config.image, image_tokens, originals=kept)
    opened = dict(zip((part.patches.digest for part in _images(read)), _originals(messages), strict=True))
    if lmm.config.turns == "last":
        read = latest_turn(read)
    for policy in chosen.policies:
        if isinstance(policy, RereadingPolicy):
            with COMPUTING:
                read = policy.revise(lmm, read, chosen.gate, {})
    prompt = lmm.prompt(read)
    config = lmm.config.image
    assert config is not None
    pictures = [_sized(opened.get(p.digest), p) or seen_by_model(p, config) for p in prompt.images]
    question = " ".join(part.text for part in read[-1].parts if isinstance(part, TextPart))
    return prompt, pictures, question


def _sized(original: Image.Image | None, image: ImagePatches) -> Image.Image | None:
    """The original with the size that places count in: pages of a PDF are drawn as large as a budget asks."""
    if original is None or original.size == image.size:
        return original
    return original.resize(image.size, Image.Resampling.LANCZOS)


def _images(messages: Sequence[Message]) -> list[ImagePart]:
    return [part for message in messages for part in message.parts if isinstance(part, ImagePart)]


def _originals(messages: Sequence[Mapping[str, Any]]) -> list[Image.Image]:
    """The images of messages that were read, in order."""
    parts = [part for m in messages if not isinstance(m["content"], str) for part in m["content"]]
    asked = [request for part in parts if not isinstance(request := parse_part(part, "image"), str)]
    return [open_image(request.source, request.page, page_pixels=PAGE_PIXELS) for request in asked]


def seen_by_model(image: ImagePatches, config: Images) -> Image.Image:
    """The upright image as the model saw it: the original for tiles, else put together again from its patches and
    brought to the original's size."""
    if image.original is not None:
        return image.original
    assert isinstance(config, ImageConfig)
    (_, rows, columns), patch = image.grid, config.patch_size
    pixels = image.pixels.reshape(-1, 3, config.temporal_patch_size, patch**2)[:, :, 0]
    table = normalised(config)
    levels = np.stack([np.interp(pixels[:, c], table[c], np.arange(256)) for c in range(3)], axis=1)
    grid = in_reading_order(levels.reshape(-1, 3, patch, patch), rows, columns, config.merge_size)
    page = grid.transpose(0, 3, 1, 4, 2).reshape(rows * patch, columns * patch, 3)
    return Image.fromarray(page.round().astype(np.uint8)).resize(image.size, Image.Resampling.BICUBIC)


def _text_ids(prompt: Prompt) -> list[int]:
    """Ids of what the user last wrote."""
    tokens = prompt.token_map
    written = tokens.message[(tokens.message >= 0) & (tokens.role == Role.USER)]
    last = int(written.max()) if written.size else -1
    return [int(i) for i in prompt.ids[0][(tokens.message == last) & (tokens.message >= 0)]]
