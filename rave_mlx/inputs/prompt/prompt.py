"""A conversation as the model reads it: ids, images, and a map that knows every token's role and position.

Control tokens count in the template's text and nowhere else. Answers that the model itself generated go in as the very
ids it generated: a conversation read so far is then a prefix of the longer one, and a cache of it can be kept.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rave_mlx.config import TokenConfig
from rave_mlx.errors import PromptError
from rave_mlx.inputs.images.preprocess import ImagePatches
from rave_mlx.inputs.prompt.chat_template import ChatTemplate
from rave_mlx.inputs.prompt.message import ImagePart, Message, Role
from rave_mlx.inputs.prompt.piece import Piece
from rave_mlx.inputs.prompt.positions import (
    image_spans,
    last_inputs,
    lookahead_spans,
    page_positions,
    plain_positions,
    rotary_positions,
)
from rave_mlx.inputs.prompt.render import render
from rave_mlx.inputs.prompt.tokenizer import Tokenizer


@dataclass(frozen=True)
class TokenMap:
    """Role, image and rotary position of every token.

    Attributes:
        role: (L,) values of `Role`.
        image: (L,) index of the image a visual token belongs to, -1 for the others.
        positions: (3, L) temporal, vertical and horizontal rotary positions; equal rows for plain text. (4, L) with the
            axes of a page.
        message: (L,) index of the message a token belongs to, -1 for the template's own text.
        lookahead: (2, L) first and end of the later tokens that a token also sees, equal where there are none; None
            for a causal model.
        reader: (L,) as of `positions.last_inputs`, for models whose visual keys depend on that token; None for others.
    """

    role: NDArray[np.int8]
    image: NDArray[np.int32]
    positions: NDArray[np.int32]
    message: NDArray[np.int32]
    lookahead: NDArray[np.int32] | None = None
    reader: NDArray[np.int32] | None = None

    @property
    def visual(self) -> NDArray[np.bool_]:
        """(L,) marks of visual tokens."""
        return self.image >= 0

    @property
    def reach(self) -> NDArray[np.int32] | None:
        """(L,) the end of what a token's keys and values depend on beyond itself; None where that is nothing."""
        ends = [] if self.lookahead is None else [self.lookahead[1]]
        ends += [] if self.reader is None else [self.reader + 1]
        return np.max(ends, axis=0) if ends else None

    @property
    def next_position(self) -> int:
        """Rotary position of the token after the last one."""
        return int(self.positions.max()) + 1 if self.positions.size else 0


@dataclass(frozen=True)
class Prompt:
    """Everything the model needs to read a conversation.

    Attributes:
        ids: (1, L) token ids; visual tokens carry the image placeholder's id.
        images: the images in the order of their tokens.
        token_map: what each token is.
    """

    ids: NDArray[np.int32]
    images: tuple[ImagePatches, ...]
    token_map: TokenMap

    def __len__(self) -> int:
        return int(self.ids.shape[1])

    @property
    def pixels(self) -> NDArray[np.float32] | None:
        """Patches of all images, one after the other, (patches, channels * frames * patch^2); None without images."""
        return np.concatenate([image.pixels for image in self.images]) if self.images else None

    @property
    def visual_tokens(self) -> int:
        """How many tokens the images take."""
        return int(self.token_map.visual.sum())

    def same_until(self, other: Prompt) -> int:
        """How many leading tokens two prompts share, so that a cache of them can be kept.

        A visual token counts as equal when the content of its image is.
        """
        length = min(len(self), len(other))
        equal = self.ids[0, :length] == other.ids[0, :length]
        equal &= self._digests()[:length] == other._digests()[:length]
        shared = length if bool(equal.all()) else int(np.argmin(equal))
        # A token that sees beyond what is shared does not count as shared: its keys and values may differ. Where the
        # shorter prompt has no answer yet, only the other one knows that the token sees further.
        ends = [reach[:shared] for p in (self, other) if (reach := p.token_map.reach) is not None]
        beyond = np.flatnonzero(np.max(ends, axis=0) > shared) if ends else np.array([], int)
        return int(beyond[0]) if beyond.size else shared

    def _digests(self) -> NDArray[np.object_]:
        names = np.array([image.digest for image in self.images] + [""], dtype=object)
        return names[self.token_map.image]


@dataclass
class _Builder:
    """Collects tokens and what is known of each, in the order of the prompt."""

    ids: list[int] = field(default_factory=list)
    role: list[int] = field(default_factory=list)
    image: list[int] = field(default_factory=list)
    message: list[int] = field(default_factory=list)

    def add(self, ids: Sequence[int], role: Sequence[int], message: Sequence[int], image: int = -1) -> None:
        self.ids += ids
        self.role += role
        self.message += message
        self.image += [image] * len(ids)

    def put_before(self, ids: Sequence[int]) -> None:
        """Template tokens in front of everything."""
        self.ids[:0] = ids
        self.role[:0] = [Role.TEMPLATE] * len(ids)
        self.message[:0] = [-1] * len(ids)
        self.image[:0] = [-1] * len(ids)


def build_prompt(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    *,
    tokens: TokenConfig,
    vocab_size: int | None = None,
    merge_size: int | None = None,
    page_axes: bool = False,
    mask: Literal["causal", "mutual", "image", "windows", "whole"] = "causal",
    readers: bool = False,
    add_generation_prompt: bool = True,
) -> Prompt:
    """Turn a conversation into ids, with what is known of every token.

    Args:
        messages: the conversation.
        tokenizer: text to ids.
        template: the chat template.
        tokens: ids with a meaning; `image` is the placeholder that templates write.
        vocab_size: rows of the model's embedding; no token of the prompt may have an id beyond. None: any may.
        merge_size: patches a side of a visual token, for multimodal rotary positions; None for plain ones.
        page_axes: whether these have the axes of a page, as of `RopeConfig`.
        mask: what an image's tokens see beyond themselves, as of `LMMConfig`.
        readers: whether visual keys depend on the last input token of their turn (`TokenMap.reader`).
        add_generation_prompt: end where the answer begins.

    Raises:
        PromptError: when the template refuses or drops a message, or does not place every image, or a token has no
            row in the embedding.
    """
    images = [part.patches for message in messages for part in message.parts if isinstance(part, ImagePart)]
    if images and tokens.image is None:
        raise PromptError("this model reads text only; leave the images out or choose a vision-language model")
    builder = _Builder()
    placed = 0
    run: list[Piece] = []
    for piece in render(messages, template, add_generation_prompt, tokenizer.control):
        if piece.ids is not None:
            _flush(run, builder, tokenizer)
            builder.add(piece.ids, [piece.role] * len(piece.ids), [piece.message] * len(piece.ids))
            continue
        if piece.message >= 0 and not piece.edited:
            run.append(piece)
            continue
        placeholder = tokens.image if tokens.placeholder is None else tokens.placeholder
        for _ in _add_template(piece, run, builder, tokenizer, placeholder):
            if placed < len(images) and tokens.image is not None:
                _add_image(images[placed].layout, placed, tokens.image, run, builder, tokenizer)
            placed += 1
    _flush(run, builder, tokenizer)
    if placed != len(images):
        raise PromptError(f"the conversation has {len(images)} images, the model's chat template placed {placed}")
    if tokens.image is not None and tuple(builder.ids[: len(tokenizer.prefix)]) != tokenizer.prefix:
        # Processors of vision-language models add the start token that their tokenizer adds to every text.
        builder.put_before(tokenizer.prefix)
    if vocab_size is not None:
        _check_ids(builder, vocab_size, tokenizer)
    image, ids = np.array(builder.image, dtype=np.int32), np.array([builder.ids], dtype=np.int32)
    grids = [patches.grid for patches in images]
    place = page_positions if page_axes else rotary_positions
    positions = place(image, grids, merge_size) if merge_size else plain_positions(len(image))
    role, message = np.array(builder.role, np.int8), np.array(builder.message, np.int32)
    if any(patches.kept is not None for patches in images):
        stay = _kept(image, images)
        ids, positions = ids[:, stay], positions[:, stay]
        role, image, message = role[stay], image[stay], message[stay]
    token_map = TokenMap(
        role=role,
        image=image,
        positions=positions,
        message=message,
        lookahead=_lookahead(ids[0], image, tokens.answer, mask),
        reader=last_inputs(role, image) if readers else None,
    )
    return Prompt(ids, tuple(images), token_map)


def _kept(image: NDArray[np.int32], images: Sequence[ImagePatches]) -> NDArray[np.bool_]:
    """(L,) marks of the tokens that stay where visual ones were dropped; image (L,) as of `TokenMap`."""
    stay = np.ones(len(image), bool)
    for index, patches in enumerate(images):
        if patches.kept is not None:
            own = np.flatnonzero(image == index)
            stay[np.delete(own, patches.kept)] = False
    return stay


def _lookahead(
    ids: NDArray[np.int32], image: NDArray[np.int32], answer: int | None, mask: str
) -> NDArray[np.int32] | None:
    """What tokens see beyond themselves; None for a causal model."""
    if mask in ("image", "windows", "whole"):
        return image_spans(image, whole=mask == "whole")
    return lookahead_spans(ids, image, answer) if mask == "mutual" else None


def _check_ids(builder: _Builder, vocab_size: int, tokenizer: Tokenizer) -> None:
    """Refuse an id that has no row in the embedding: the backend would read whatever lies behind the last one."""
    place = next((i for i, index in enumerate(builder.ids) if index >= vocab_size), None)
    if place is None:
        return
    index, message = builder.ids[place], builder.message[place]
    where = f"message {message + 1}" if message >= 0 else "the chat template"
    raise PromptError(
        f"{where} has {tokenizer.token(index)!r}, which is token {index} of the tokenizer, but the model has only the "
        f"ids 0 to {vocab_size - 1}; leave it out, or get the tokenizer that belongs to the model"
    )


def _add_template(
    piece: Piece, run: list[Piece], builder: _Builder, tokenizer: Tokenizer, image_token: int | None
) -> Iterator[int]:
    """Add text of the template; hands out the image placeholders, in whose stead the caller adds an image."""
    position, text = 0, piece.text
    for start, stop, control in tokenizer.find_control(text):
        run.append(replace(piece, text=text[position:start]))
        position = stop
        if control.id == image_token:
            yield control.id
            continue
        _flush(run, builder, tokenizer)
        builder.add([control.id], [Role.TEMPLATE], [-1])
    run.append(replace(piece, text=text[position:]))


def _add_image(
    layout: Sequence[str | int],
    image: int,
    placeholder: int,
    run: list[Piece],
    builder: _Builder,
    tokenizer: Tokenizer,
) -> None:
    """Add an image: its visual tokens, and the markers that the model wants around them."""
    for part in layout:
        if isinstance(part, str):
            for _ in _add_template(Piece(part, Role.TEMPLATE), run, builder, tokenizer, None):
                raise AssertionError("no placeholder is looked for")
            continue
        _flush(run, builder, tokenizer)
        builder.add([placeholder] * part, [Role.IMAGE] * part, [-1] * part, image)


def _flush(run: list[Piece], builder: _Builder, tokenizer: Tokenizer) -> None:
    """Encode a run of pieces as one text, so that merges across their borders are the tokenizer's own."""
    text = "".join(piece.text for piece in run)
    if text:
        ids, starts = tokenizer.encode(text, first=not builder.ids)
        ends = np.cumsum([len(piece.text) for piece in run])
        owner = np.searchsorted(ends, starts, side="right").clip(max=len(run) - 1)
        builder.add(ids, [run[i].role for i in owner], [run[i].message for i in owner])
    run.clear()
