"""LMM: vision tower, connector and decoder behind one interface, text-only models included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten

from rave_mlx.attention import Path as AttentionPath
from rave_mlx.cache import Cache
from rave_mlx.chat_template import ChatTemplate
from rave_mlx.config import LMMConfig
from rave_mlx.errors import PromptError
from rave_mlx.images import ImagePatches
from rave_mlx.messages import read_messages
from rave_mlx.models.connector import PatchMerger
from rave_mlx.models.decoder import Decoder
from rave_mlx.models.vision.qwen import QwenVision
from rave_mlx.prompt import Message, Prompt, build_prompt
from rave_mlx.tokenizer import Tokenizer


class LMM(nn.Module):
    """A model with its tokenizer and chat template. Weights are parameters; nothing of a request is kept."""

    def __init__(self, config: LMMConfig, tokenizer: Tokenizer, template: ChatTemplate, path: Path | None = None):
        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.template = template
        self.path = path
        if config.vision is not None and config.connector is not None:
            self.vision = QwenVision(config.vision)
            self.connector = PatchMerger(config.connector, config.vision)
        self.decoder = Decoder(config)

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
        """`prepare` for messages whose images are already cut into patches."""
        text, image = self.config.text, self.config.image
        if self.config.vision is None:
            messages = [Message(m.role, m.parts, plain=True) for m in messages]
        prompt = build_prompt(
            messages,
            self.tokenizer,
            self.template,
            image_token=self.config.tokens.image,
            multimodal_positions=text.rope.sections is not None,
            merge_size=image.merge_size if image is not None else 1,
            add_generation_prompt=add_generation_prompt,
        )
        if len(prompt) >= text.max_positions:
            remedy = "lower --image-tokens or use fewer images" if prompt.images else "shorten the text"
            raise PromptError(
                f"the prompt has {len(prompt)} tokens ({prompt.visual_tokens} of them visual), the model's "
                f"context is {text.max_positions}, answer included: {remedy}"
            )
        return prompt

    def named_weights(self) -> dict[str, mx.array]:
        """Every parameter by its canonical name."""
        return dict(tree_flatten(self.parameters()))

    def features(self, image: ImagePatches) -> mx.array:
        """Embeddings (visual tokens, hidden) of one image."""
        pixels = mx.array(image.pixels).astype(self.vision.patch_embed.weight.dtype)
        return self.connector(self.vision(pixels, image.grid))

    def make_cache(self, *, gate: bool | None = None) -> Cache:
        """An empty cache. `gate` None: gates are used unless they are all zero."""
        if gate is None:
            gate = any(not g.is_inert for g in self.decoder.gates)
        return Cache(self.config.text.num_layers, gated=gate and bool(self.decoder.gates))

    def embed(self, prompt: Prompt, start: int, stop: int, features: Mapping[str, mx.array] | None = None) -> mx.array:
        """Input embeddings (1, stop - start, hidden); `features` by image digest spares the vision tower."""
        x: mx.array = self.decoder.embed(mx.array(prompt.ids[:, start:stop]))
        image = prompt.token_map.image
        visual = image[start:stop] >= 0
        if not visual.any():
            return x
        first, last = image[start:stop][visual][0], image[start:stop][visual][-1]
        known = features or {}
        shown = [known[p.digest] if p.digest in known else self.features(p) for p in prompt.images[first : last + 1]]
        rows = np.cumsum(image >= first) - 1
        table = mx.concatenate(shown).astype(x.dtype)
        picked = table[mx.array(rows[start:stop].clip(0, table.shape[0] - 1))]
        return mx.where(mx.array(visual)[None, :, None], picked[None], x)

    def read(
        self,
        prompt: Prompt,
        cache: Cache,
        stop: int,
        features: Mapping[str, mx.array] | None = None,
        *,
        path: AttentionPath | None = None,
    ) -> mx.array:
        """Read tokens [cache.length, stop) of a prompt into the cache; returns their hidden states."""
        start = cache.length
        tokens = prompt.token_map
        visual = np.flatnonzero(tokens.visual[start:stop])
        if visual.size:
            cache.see(start + int(visual[0]), start + int(visual[-1]) + 1)
        return self.decoder.hidden(
            self.embed(prompt, start, stop, features),
            mx.array(tokens.positions[None, :, start:stop]),
            mx.array(tokens.visual[None, start:stop]),
            cache=cache,
            gate_span=cache.visual_span if cache.gated else None,
            path=path,
        )

    def logits(
        self, prompt: Prompt | Sequence[Prompt], *, gate: bool | None = None, path: AttentionPath | None = None
    ) -> mx.array:
        """Scores of every next token (B, L, vocab); several prompts are padded on the left to one length.

        `gate` False switches the pair gates off, True computes them even if they are all zero.
        """
        prompts = [prompt] if isinstance(prompt, Prompt) else list(prompt)
        length = max(map(len, prompts))
        gated = self.make_cache(gate=gate).gated
        pads = [length - len(p) for p in prompts]
        x = mx.concatenate(
            [mx.pad(self.embed(p, 0, len(p)), [(0, 0), (n, 0), (0, 0)]) for p, n in zip(prompts, pads, strict=True)]
        )
        positions = np.stack(
            [np.pad(p.token_map.positions, [(0, 0), (n, 0)]) for p, n in zip(prompts, pads, strict=True)]
        )
        visual = np.stack([np.pad(p.token_map.visual, [(n, 0)]) for p, n in zip(prompts, pads, strict=True)])
        valid = np.arange(length) >= np.array(pads)[:, None]
        columns = np.flatnonzero(visual.any(axis=0))
        span = (int(columns[0]), int(columns[-1]) + 1) if columns.size else (0, 0)
        hidden = self.decoder.hidden(
            x,
            mx.array(positions),
            mx.array(visual),
            gate_span=span if gated else None,
            valid=mx.array(valid) if any(pads) else None,
            path=path,
        )
        return self.decoder.logits(hidden)
