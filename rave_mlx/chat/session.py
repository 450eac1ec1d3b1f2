"""A conversation with a model, in which every token and every image is read once.

The cache of keys and values grows with the conversation. Before each answer the whole conversation is rendered
again and compared with what the cache holds, token by token and image by image (by content, not by file name);
only what differs is read. An answer enters the next prompt as the ids that were generated.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import mlx.core as mx

from rave_mlx.backend.gpu_memory import wired_memory
from rave_mlx.chat.turn_stats import TurnStats, turn_stats
from rave_mlx.errors import ModelError, PromptError, UsageError
from rave_mlx.generation.confidence import TokenConfidence
from rave_mlx.generation.decode import Clock, Finish, Piece, continued, decode
from rave_mlx.generation.encoding import encode_missing
from rave_mlx.generation.logits_processors import LogitsProcessor
from rave_mlx.generation.page_store import PageStore
from rave_mlx.generation.prefill import NOT_A_NUMBER, prefill, reuse
from rave_mlx.generation.sampling import Sampling
from rave_mlx.inputs.images.preprocess import ImageSource
from rave_mlx.inputs.prompt.message import ImagePart, Message, TextPart, latest_turn
from rave_mlx.inputs.prompt.parse_messages import read_image, read_messages
from rave_mlx.inputs.prompt.prompt import Prompt
from rave_mlx.inputs.prompt.tokenizer import TextStream
from rave_mlx.models.kv_cache import Cache
from rave_mlx.models.lmm import LMM
from rave_mlx.models.rope_scaling import kept_bucket, rope_bucket
from rave_mlx.policies.parse import steering
from rave_mlx.policies.policy import Attention, Steering
from rave_mlx.policies.rereading.auxiliary_pass import AuxiliaryPasses
from rave_mlx.policies.rereading.policy import RereadingPolicy
from rave_mlx.policies.runtime import attach

_FEATURES_KEPT = 8
"""Images whose features are kept for later questions, and more as long as they are few tokens together."""
_TOKENS_KEPT = 20_000
"""Visual tokens up to which the features of more images are kept."""


class Session:
    """A conversation with a model.

    Args:
        lmm: the model.
        policy: attention policy, as after `--attention`, or `Policy` objects: "rave" uses the model's pair gates,
            "none" leaves them out, "var:paper" leaves them out and steers, "rave+var:paper" does both. None: what the
            model's config names, else gates if the model has any that do something.
        max_tokens: limit of an answer's length.
        image_tokens: budget of visual tokens an image; None for the default.
        sampling: how tokens are drawn.
        system: a system message that starts every conversation.
        pages: where what was read of pages is kept on disk, and found again; None: nowhere.

    Raises:
        UsageError: for a policy that does not exist, or that the model cannot take; for a limit below 1.
    """

    def __init__(
        self,
        lmm: LMM,
        *,
        policy: Attention = None,
        max_tokens: int = 256,
        image_tokens: int | None = None,
        sampling: Sampling | None = None,
        system: str | None = None,
        pages: PageStore | None = None,
    ):
        if max_tokens < 1:
            raise UsageError(f"max_tokens is {max_tokens}; an answer has at least 1")
        self.lmm = lmm
        self.max_tokens = max_tokens
        self.image_tokens = image_tokens
        self.sampling = sampling or Sampling()
        self._opening = [] if system is None else [Message("system", (TextPart(system),), plain=True)]
        self.messages: list[Message] = list(self._opening)
        self.stats: TurnStats | None = None
        self._cache: Cache | None = None
        self._cached_prompt: Prompt | None = None
        self._bucket: int | None = 0
        self._pages = pages
        self._features: OrderedDict[str, mx.array] = OrderedDict()
        self._answering = False
        self._steering = Steering()
        self.policy = steering(lmm.config.attention if policy is None else policy)

    @property
    def policy(self) -> Steering:
        """The attention policy. Setting another one keeps the conversation, to be read again: keys and values made
        under one policy are not those of another."""
        return self._steering

    @policy.setter
    def policy(self, policy: Attention) -> None:
        self._steering = steering(policy)
        for each in self._steering.policies:
            each.check(self.lmm.config)
        self._cache = self._cached_prompt = None
        self._passes = AuxiliaryPasses(self.lmm, self._steering, self._features)

    def send(self, text: str, images: Sequence[ImageSource | ImagePart] = ()) -> Generator[Piece]:
        """Ask a question and stream the answer; both become part of the conversation.

        When the caller stops early (closes the iterator, or is interrupted), what was generated so far is the
        answer. When reading fails, or is interrupted before the first token, the conversation is as it was before.

        Args:
            text: the question.
            images: what it is about, in order: files, addresses, bytes, pictures, or what `read` returned.

        Raises:
            UsageError: while another answer of the session is being written; for `images` that is no list.
            ImageError, PromptError, MemoryLimitError.
        """
        if not isinstance(text, str):
            raise UsageError(f"text is a {type(text).__name__}; give the question as a string")
        if isinstance(images, str | bytes) or not isinstance(images, Sequence):
            raise UsageError(f"images is one {type(images).__name__}; give a list: images=[...]")
        parts = [image if isinstance(image, ImagePart) else self.read(image) for image in images]
        return self._answer([*self.messages, Message("user", (*parts, TextPart(text)))])

    def answer(self, messages: Sequence[Mapping[str, Any]]) -> Generator[Piece]:
        """Replace the conversation by `messages` (as in `LMM.prepare`) and stream the next answer.

        Where the last message is the assistant's, it is the beginning of the answer, and its continuation is streamed.

        What the new conversation shares with the old one is not read again.
        """
        config, kept = self.lmm.config.image, self._keeps_originals
        return self._answer(read_messages(messages, config, self.image_tokens, originals=kept))

    def read(self, image: ImageSource, page: int = 1) -> ImagePart:
        """An image for `send`, decoded and cut into patches now, so that its errors come now.

        Its original is kept beside them (4 bytes a pixel) while a policy wants to take a closer look at it.
        """
        config, kept = self.lmm.config.image, self._keeps_originals
        return read_image(image, config, page=page, image_tokens=self.image_tokens, original=kept)

    def reset(self) -> None:
        """Forget the conversation. Features of recent images are kept."""
        self.resume(self._opening)

    def resume(self, messages: Sequence[Message]) -> None:
        """Replace the conversation; the next question continues `messages`."""
        self.messages = list(messages)

    def _answer(self, messages: list[Message]) -> Generator[Piece]:
        """Stream an answer, unless another one is being written."""
        if self._answering:
            raise UsageError("the session is still writing an answer: read that to its end, or close it, before asking")
        self._answering, self.stats = True, None
        try:
            with wired_memory():
                yield from self._write(messages)
        finally:
            self._answering = False

    def _write(self, messages: list[Message]) -> Generator[Piece]:
        """Read what is new in the conversation and write the next answer; what was generated is kept in any case."""
        clock = Clock()
        known = set(self._features)
        revised = self._revised(messages)
        prompt = self._prompt(revised)
        cache, held = self._reuse(prompt)
        bucket = rope_bucket(self.lmm.config.text.rope, prompt.token_map.next_position)
        stored = 0 if self._pages is None else self._pages.begin(prompt, cache, bucket)
        reused = stored or held
        encoded = len(self._features.keys() - known) + self._encode(prompt, reused)
        known = set(self._features)
        confidence = TokenConfidence()
        processors: list[LogitsProcessor] = [*self._logits_processors(revised), confidence]
        limit = min(self.max_tokens, self.lmm.config.text.max_positions - len(prompt))
        features, ids, text = self._features, list[int](), ""
        stream = self._text_stream(prompt, revised)
        finish: Finish | None = None
        try:
            logits = prefill(self.lmm, prompt, cache, features=features)
            written = decode(
                self.lmm,
                prompt,
                cache,
                logits,
                self.sampling,
                max_tokens=limit,
                processors=processors,
                features=features,
            )
            for token in written:
                clock.tick()
                if confidence.is_nan:
                    raise ModelError(NOT_A_NUMBER)
                ids.append(token)
                stopped = token in self.lmm.config.tokens.stop
                finish = "stop" if stopped else "length" if len(ids) == limit else None
                piece = stream.finish() if stopped else stream.add(token) + (stream.finish() if finish else "")
                text += piece
                yield Piece(piece, token, finish)
        finally:
            self._remember(messages, revised, prompt, cache, ids, text, finish)
            if self._pages is not None and ids and self._bucket == bucket:
                self._pages.keep(prompt, cache, bucket, known=reused)
            encoded += len(self._features.keys() - known)
            if ids:
                least = confidence.least(ids)
                self.stats = turn_stats(self.lmm, prompt, reused, stored, encoded, ids, clock, least)

    def _text_stream(self, prompt: Prompt, revised: list[Message]) -> TextStream:
        """A decoder of the answer's ids to text.

        Where the answer has begun, it is given that beginning: at the start of a text some tokenizers leave out a
        space.
        """
        stream = self.lmm.tokenizer.stream()
        if revised[-1].role == "assistant":
            for token in prompt.ids[0, prompt.token_map.message == len(revised) - 1].tolist():
                stream.add(token)
        return stream

    def _revised(self, messages: list[Message]) -> list[Message]:
        """The messages that are read: the last turn only, where the model takes no more, as policies want them."""
        revised = latest_turn(messages) if self.lmm.config.turns == "last" else messages
        for policy in self._steering.policies:
            if isinstance(policy, RereadingPolicy):
                revised = policy.revise(self.lmm, revised, self._steering.gate, self._features)
        return revised

    def _prompt(self, revised: list[Message]) -> Prompt:
        """The prompt; errors say whether the question is too long, or what came before it."""
        prompt, most = self.lmm.tokenize(revised), self.lmm.config.text.max_positions
        if len(prompt) < most:
            return prompt
        if len(revised) > len(self._opening) + 1 and len(self.lmm.tokenize([*self._opening, revised[-1]])) < most:
            raise PromptError(
                f"the conversation is full: with this question it has {len(prompt):,} tokens, and the model's context "
                f"is {most:,}, answer included; begin a new one (/reset in rave-mlx chat)"
            )
        return self.lmm.prompt(revised)

    def _logits_processors(self, revised: list[Message]) -> list[LogitsProcessor]:
        """Those of the policies that have one, in the order in which the policies are written."""
        found = [
            policy.logits_processor(revised, self._passes)
            for policy in self._steering.policies
            if isinstance(policy, RereadingPolicy)
        ]
        return [processor for processor in found if processor is not None]

    @property
    def _keeps_originals(self) -> bool:
        """Whether a policy may want to cut images again, from their originals."""
        return any(policy.originals for policy in self._steering.policies)

    def _reuse(self, prompt: Prompt) -> tuple[Cache, int]:
        """The cache, trimmed to what it shares with `prompt` (at least one token is left to read)."""
        if self._cache is None:
            acts = self._steering.touches_layers(len(self.lmm.config.text.attention_layers))
            hooks = attach(self.lmm, self._steering.policies) if acts else None
            self._cache = self.lmm.make_cache(gate=self._steering.gate, hooks=hooks)
        same_bucket = self._bucket == rope_bucket(self.lmm.config.text.rope, prompt.token_map.next_position)
        seen, self._cached_prompt = self._cached_prompt, None
        return self._cache, reuse(self._cache, seen if same_bucket else None, prompt)

    def _encode(self, prompt: Prompt, start: int) -> int:
        """Make the features of the images that are still to be read; returns how many needed the vision tower."""
        pending = sorted(set(prompt.token_map.image[start:].tolist()) - {-1})
        images = {image.digest: image for image in (prompt.images[i] for i in pending)}
        if self._pages is not None:
            self._features.update(self._pages.missing_features(prompt, start, self._features))
        missing = [image for digest, image in images.items() if digest not in self._features]
        encode_missing(self.lmm, missing, self._features)
        if self._pages is not None:
            for image in missing:
                self._pages.keep_features(image, self._features[image.digest])
        for digest in images:
            self._features.move_to_end(digest)
        tokens = sum(len(features) for features in self._features.values())
        while tokens > _TOKENS_KEPT and len(self._features) > max(_FEATURES_KEPT, len(pending)):
            tokens -= len(self._features.popitem(last=False)[1])
        return len(missing)

    def _remember(
        self,
        messages: list[Message],
        revised: list[Message],
        prompt: Prompt,
        cache: Cache,
        ids: list[int],
        text: str,
        finish: Finish | None,
    ) -> None:
        """Keep the turn: the answer's ids, and a record of which tokens the cache holds."""
        if not ids:
            cache.trim(0)
            return
        length = prompt.token_map.next_position
        self._bucket = kept_bucket(self.lmm.config.text.rope, length, length + cache.length - len(prompt))
        answer_ids = ids[:-1] if finish == "stop" else ids
        cache.trim(cache.reach(len(prompt) + len(answer_ids)))
        if messages[-1].role == "assistant":  # an answer that had begun is one message with what was added to it
            begun = messages[-1]
            answer = replace(begun, parts=(*begun.parts, TextPart(text, tuple(answer_ids))))
            self.messages = [*_without_originals(messages[:-1], self._keeps_originals), answer]
            self._cached_prompt = continued(prompt, answer_ids)
            return
        answer = Message("assistant", (TextPart(text, tuple(answer_ids)),))
        self.messages = [*_without_originals(messages, self._keeps_originals), answer]
        # With the template's end of the turn, unless it writes the answer otherwise than the model did: without the
        # thoughts in it, say. What the cache holds are the very tokens.
        seen, held = self.lmm.tokenize([*revised, answer], add_generation_prompt=False), continued(prompt, answer_ids)
        self._cached_prompt = seen if seen.same_until(held) == len(held) else held


def _without_originals(messages: Sequence[Message], keep_latest: bool) -> list[Message]:
    """The conversation without the originals of its images, but those that a policy may want again."""
    last = max((i for i, m in enumerate(messages) if any(isinstance(p, ImagePart) for p in m.parts)), default=-1)
    return [
        message
        if index == last and keep_latest
        else replace(
            message, parts=tuple(replace(p, original=None) if isinstance(p, ImagePart) else p for p in message.parts)
        )
        for index, message in enumerate(messages)
    ]
