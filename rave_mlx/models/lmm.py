"""LMM: vision tower, connector and decoder behind one interface, text-only models included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from rave_mlx import backend
from rave_mlx.attention import Path as AttentionPath
from rave_mlx.attention import group_size
from rave_mlx.attention.gate import any_acts
from rave_mlx.config import ImageConfig, LMMConfig
from rave_mlx.errors import PromptError
from rave_mlx.inputs.images.preprocess import ImagePatches
from rave_mlx.inputs.prompt.chat_template import ChatTemplate
from rave_mlx.inputs.prompt.message import Message, TextPart
from rave_mlx.inputs.prompt.parse_messages import read_messages
from rave_mlx.inputs.prompt.prompt import Prompt, build_prompt
from rave_mlx.inputs.prompt.tokenizer import Tokenizer
from rave_mlx.models.connectors import build_connector
from rave_mlx.models.decoder import Decoder
from rave_mlx.models.hooks import PassHooks
from rave_mlx.models.kv_cache import Cache
from rave_mlx.models.rope import text_positions
from rave_mlx.models.sink_gate import prompt_groups
from rave_mlx.models.vision import build_tower


class LMM(nn.Module):
    """A model with its tokenizer and chat template. Weights are parameters; nothing of a request is kept.

    Attributes:
        has_all_heads: whether this process has every head of the decoder, as what looks into layers needs.
    """

    has_all_heads: ClassVar[bool] = True

    def __init__(self, config: LMMConfig, tokenizer: Tokenizer, template: ChatTemplate, path: Path | None = None):
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.template = template
        self.path = path
        if config.vision is not None and config.connector is not None:
            self.vision = build_tower(config.vision)
            self.connector = build_connector(config.connector, config.vision)
        self.decoder = Decoder(config)
        self._kv_bits: int | None = None

    @property
    def kv_bits(self) -> int | None:
        """Bits of a number of keys and values in caches that are made from now on, 8 or 4; None keeps them whole.

        Setting it is for the time before the first question.

        Raises:
            UsageError: for other bits, or heads of a width that cannot be packed.
        """
        return self._kv_bits

    @kv_bits.setter
    def kv_bits(self, bits: int | None) -> None:
        if bits is not None:
            for width in {self.config.text.head_dim_of(layer) for layer in self.config.text.key_layers}:
                group_size(width, bits)
        self._kv_bits = bits

    def __repr__(self) -> str:
        """Three lines: what it is, what it reads with, what it writes with."""
        config, text, vision = self.config, self.config.text, self.config.vision
        size = sum(array.nbytes for array in self.named_weights().values())
        stored = str(self.decoder.norm.weight.dtype).removeprefix("mlx.core.")
        if config.quantization is not None:
            stored = f"{config.quantization.bits}-bit weights, {stored}"
        kind = "native resolution" if isinstance(config.image, ImageConfig) else "square tiles"
        reads = "text only" if vision is None else f"images ({kind}, {vision.depth} vision layers) and text"
        gates = f"pair gates in {len(self.decoder.gates)}" if self.decoder.gates else "no pair gates"
        gates += f", sink gates in {len(self.decoder.sink_gates)}" if self.decoder.sink_gates else ""
        linear = "" if text.linear is None else f" ({len(text.linear.layers)} with linear attention)"
        return (
            f"LMM: {config.family}, {size / 1e6:,.1f} MB in memory, {stored}\n"
            f"  reads {reads}; context of {text.max_positions:,} tokens\n"
            f"  decoder: {text.num_layers} layers{linear}, {text.num_heads} query and {text.num_kv_heads} KV heads, "
            f"{gates}"
        )

    def prepare(self, messages: Sequence[Mapping[str, Any]], image_tokens: int | None = None) -> Prompt:
        """Turn chat messages into a prompt that ends where the answer begins.

        Args:
            messages: `{"role": ..., "content": text or parts}`; parts are `{"type": "text", "text": ...}` and
                `{"type": "image", "image": path, bytes or PIL image, "page": 1}`.
            image_tokens: budget of visual tokens an image; None for the default.

        Raises:
            ImageError: for an image that cannot be read.
            PromptError: for messages the model or its chat template cannot take.
        """
        return self.prompt(read_messages(messages, self.config.image, image_tokens))

    def prompt(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> Prompt:
        """`prepare` for messages whose images are already cut into patches.

        Raises:
            PromptError: for messages that the chat template cannot take, or that leave no room for an answer.
        """
        prompt, most = (
            self.tokenize(messages, add_generation_prompt=add_generation_prompt),
            self.config.text.max_positions,
        )
        if len(prompt) >= most:
            remedy = "lower --image-tokens or use fewer images" if prompt.images else "shorten the text"
            raise PromptError(
                f"the prompt has {len(prompt)} tokens ({prompt.visual_tokens} of them visual), the model's "
                f"context is {most}, answer included: {remedy}"
            )
        return prompt

    def tokenize(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> Prompt:
        """The tokens of messages, however many there are.

        Raises:
            PromptError: for messages that the chat template cannot take, or text that is not Unicode.
        """
        _check_text(messages)
        text, image = self.config.text, self.config.image
        if self.config.vision is None:
            messages = [Message(m.role, m.parts, plain=True) for m in messages]
        return build_prompt(
            messages,
            self.tokenizer,
            self.template,
            tokens=self.config.tokens,
            vocab_size=text.vocab_size,
            mask=self.config.mask,
            readers=self.config.sink_gate is not None,
            merge_size=image.merge_size if isinstance(image, ImageConfig) and text.rope.sections else None,
            page_axes=text.rope.axes == "page",
            add_generation_prompt=add_generation_prompt,
        )

    def named_weights(self) -> dict[str, mx.array]:
        """Every parameter by its canonical name."""
        return dict(tree_flatten(self.parameters()))

    def features(self, image: ImagePatches) -> mx.array:
        """Embeddings of one image (visual tokens, hidden * (1 + n)): what enters the decoder and, with DeepStack,
        what is added after each of its first n layers."""
        if image.features is not None:
            return mx.array(image.features).astype(self.decoder.norm.weight.dtype)
        pixels = mx.array(image.pixels).astype(self.decoder.norm.weight.dtype)
        features: mx.array = self.connector(self.vision(pixels, image.grid), image)
        return features

    def make_cache(self, *, gate: bool | None = None, hooks: PassHooks | None = None) -> Cache:
        """An empty cache for one conversation.

        Args:
            gate: whether pair gates and sink gates are used; None: unless there are none that do something.
            hooks: attention policies of the conversation (`policies.runtime.attach`), fresh ones; None for none.
        """
        if gate is None:
            gate = any_acts(self.decoder.gates) or bool(self.decoder.sink_gates)
        if backend.current().kind != "cpu":
            self.decoder.join()
        text = self.config.text
        linear = () if text.linear is None else text.linear.layers
        gated = gate and bool(self.decoder.gates or self.decoder.sink_gates)
        return Cache(text.num_layers, gated=gated, hooks=hooks, linear=linear, kv_bits=self.kv_bits)

    def embed(
        self, prompt: Prompt, start: int, stop: int, features: Mapping[str, mx.array] | None = None
    ) -> tuple[mx.array, mx.array | None]:
        """Input embeddings of part of a prompt: text from the table, images from the vision tower.

        Args:
            prompt: the whole prompt.
            start, stop: the part, [start, stop).
            features: of images by digest, as of `features`; those that are here are not computed again.

        Returns:
            Embeddings (1, stop - start, hidden), and DeepStack features (n, 1, stop - start, hidden) or None.
        """
        x = self.decoder.embed_ids(mx.array(prompt.ids[:, start:stop]))
        image = prompt.token_map.image
        visual = image[start:stop] >= 0
        if not visual.any():
            return x, None
        first, last = image[start:stop][visual][0], image[start:stop][visual][-1]
        known = features or {}
        encoded = [known[p.digest] if p.digest in known else self.features(p) for p in prompt.images[first : last + 1]]
        rows = np.cumsum(image >= first) - 1
        places = mx.array(rows[start:stop].clip(0, sum(len(x) for x in encoded) - 1))[None]
        return put_features(x, mx.concatenate(encoded), places, mx.array(visual)[None])

    def read(
        self,
        prompt: Prompt,
        cache: Cache,
        stop: int,
        features: Mapping[str, mx.array] | None = None,
        *,
        path: AttentionPath | None = None,
    ) -> mx.array:
        """Read tokens [cache.length, stop) of a prompt into the cache.

        Args:
            prompt: the whole prompt.
            cache: holds the tokens before; extended in place.
            stop: index after the last token to read.
            features: as of `embed`.
            path: forced attention path.

        Returns:
            Normalized hidden states (1, stop - cache.length, hidden) of these tokens.
        """
        start = cache.length
        tokens = prompt.token_map
        visual = np.flatnonzero(tokens.visual[start:stop])
        if visual.size:
            cache.extend_visual_span(start + int(visual[0]), start + int(visual[-1]) + 1)
        if cache.hooks is not None:
            cache.hooks.read(tokens, start, stop)
        x, deepstack = self.embed(prompt, start, stop, features)
        lookahead = None if tokens.lookahead is None else tokens.lookahead[None, :, start:stop]
        groups = prompt_groups(self.config.sink_gate, x, [tokens], start, stop) if cache.gated else None
        return self.decoder.hidden(
            x,
            text_positions(tokens.positions[:, start:stop]) or mx.array(tokens.positions[None, :, start:stop]),
            mx.array(tokens.visual[None, start:stop]),
            ids=mx.array(prompt.ids[:, start:stop]),
            cache=cache,
            gate_span=cache.visual_span if cache.gated else None,
            groups=groups,
            lookahead=mx.array(lookahead) if lookahead is not None and lookahead.any() else None,
            deepstack=deepstack,
            longest=tokens.next_position,
            path=path,
            hooks=cache.hooks,
        )

    def logits(
        self,
        prompt: Prompt | Sequence[Prompt],
        *,
        gate: bool | None = None,
        path: AttentionPath | None = None,
        hooks: PassHooks | None = None,
    ) -> mx.array:
        """Scores of every next token (B, L, vocab); several prompts are padded on the left to one length.

        Args:
            prompt: one prompt or several, as of `prepare`.
            gate: False switches the pair gates off, True computes them even if they are all zero.
            path: forced attention path.
            hooks: attention policies for this call (`policies.runtime.attach`), fresh ones.
        """
        prompts = [prompt] if isinstance(prompt, Prompt) else list(prompt)
        length = max(map(len, prompts))
        gated = self.make_cache(gate=gate).gated
        pads = [length - len(p) for p in prompts]
        embedded = [self.embed(p, 0, len(p)) for p in prompts]
        x = mx.concatenate([_pad(e, n) for (e, _), n in zip(embedded, pads, strict=True)])
        maps = [(p.token_map, n) for p, n in zip(prompts, pads, strict=True)]
        visual = np.stack([np.pad(m.visual, [(n, 0)]) for m, n in maps])
        valid = np.arange(length) >= np.array(pads)[:, None]
        columns = np.flatnonzero(visual.any(axis=0))
        span = (int(columns[0]), int(columns[-1]) + 1) if columns.size else (0, 0)
        if hooks is not None:
            hooks.plan(prompts, {})
            hooks.read_batch([m for m, _ in maps], length)
        lookahead = [np.pad(m.lookahead + n, [(0, 0), (n, 0)]) for m, n in maps if m.lookahead is not None]
        hidden = self.decoder.hidden(
            x,
            mx.array(np.stack([np.pad(m.positions, [(0, 0), (n, 0)]) for m, n in maps])),
            mx.array(visual),
            ids=mx.array(np.stack([np.pad(p.ids[0], [(n, 0)]) for p, n in zip(prompts, pads, strict=True)])),
            gate_span=span if gated else None,
            groups=prompt_groups(self.config.sink_gate, x, [m for m, _ in maps], 0, length) if gated else None,
            valid=mx.array(valid) if any(pads) else None,
            lookahead=mx.array(np.stack(lookahead)) if lookahead else None,
            deepstack=_batch_deepstack([deep for _, deep in embedded], x, pads),
            longest=max(m.next_position for m, _ in maps),
            path=path,
            hooks=hooks,
        )
        return self.decoder.logits(hidden)


def _check_text(messages: Sequence[Message]) -> None:
    """Refuse half characters, which stand for bytes that were no text where they came from."""
    for part in (part for message in messages for part in message.parts if isinstance(part, TextPart)):
        try:
            part.text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise PromptError(
                f"the text {part.text[:40]!r} has bytes that are not UTF-8 (character {error.start}); convert it first"
            ) from None


def put_features(x: mx.array, table: mx.array, places: mx.array, visual: mx.array) -> tuple[mx.array, mx.array | None]:
    """Text embeddings with visual features in their places.

    Args:
        x: embeddings (B, L, hidden).
        table: features of all images, (visual tokens, hidden * (1 + n)) as of `LMM.features`.
        places: (B, L) the row of the table for each token; any for text.
        visual: (B, L) marks of visual tokens.

    Returns:
        Input embeddings (B, L, hidden), and DeepStack features (n, B, L, hidden) or None.
    """
    marks, hidden = visual[..., None], x.shape[-1]
    picked = table.astype(x.dtype)[places]
    mixed = mx.where(marks, picked[..., :hidden], x)
    layers = picked.shape[-1] // hidden - 1
    if not layers:
        return mixed, None
    deep = mx.where(marks, picked[..., hidden:], 0).reshape(*x.shape[:2], layers, hidden)
    return mixed, deep.transpose(2, 0, 1, 3)


def _pad(x: mx.array, count: int) -> mx.array:
    """(..., L, hidden) with `count` zero rows before."""
    return mx.pad(x, [(0, 0)] * (x.ndim - 2) + [(count, 0), (0, 0)])


def _batch_deepstack(deep: Sequence[mx.array | None], x: mx.array, pads: Sequence[int]) -> mx.array | None:
    """DeepStack features (n, B, L, hidden) of a padded batch in which some prompts have no image."""
    layers = next((d.shape[0] for d in deep if d is not None), 0)
    if not layers:
        return None
    rows = [
        mx.zeros((layers, 1, *x.shape[1:]), x.dtype) if d is None else _pad(d, n)
        for d, n in zip(deep, pads, strict=True)
    ]
    return mx.concatenate(rows, axis=1)
