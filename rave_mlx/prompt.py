"""A conversation as the model reads it: ids, images, and a map that knows every token's role and position.

Messages are rendered with stand-ins in place of what people and the model wrote, so that afterwards it is known
which characters are the template's (there, control tokens count) and which are somebody's text (there, they do
not). Answers that the model itself generated go in as the very ids it generated: a conversation read so far is
then a prefix of the longer one, and a cache of it can be kept.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rave_mlx.chat_template import ChatTemplate
from rave_mlx.config import TokenConfig
from rave_mlx.errors import PromptError
from rave_mlx.images import ImagePatches
from rave_mlx.tokenizer import Tokenizer

Grid = tuple[int, int, int]


class Role(IntEnum):
    """Who a token belongs to. TEMPLATE covers control tokens and the template's own words."""

    TEMPLATE = 0
    SYSTEM = 1
    USER = 2
    ASSISTANT = 3
    IMAGE = 4


_ROLES = {"system": Role.SYSTEM, "developer": Role.SYSTEM, "user": Role.USER, "assistant": Role.ASSISTANT}


@dataclass(frozen=True)
class TextPart:
    """Text of a message; `ids` when the model generated it (its exact tokens, without the stop token)."""

    text: str
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True, eq=False)
class Original:
    """What an image was before it was cut into patches, for policies that take a closer look at parts of it.

    Attributes:
        picture: upright RGB, at the resolution it was given with; 4 bytes a pixel.
        image_tokens: the budget of visual tokens that its patches were made for; None for the default.
    """

    picture: Image.Image = field(repr=False)
    image_tokens: int | None = None


@dataclass(frozen=True)
class ImagePart:
    """An image of a message, already cut into patches; `original` where an attention policy wants it kept."""

    patches: ImagePatches
    original: Original | None = None


@dataclass(frozen=True)
class Message:
    """One turn. `plain` when the content was given as a string and not as parts: templates may tell them apart."""

    role: str
    parts: tuple[TextPart | ImagePart, ...]
    plain: bool = False


@dataclass(frozen=True)
class TokenMap:
    """Role, image and rotary position of every token.

    Attributes:
        role: (L,) values of `Role`.
        image: (L,) index of the image a visual token belongs to, -1 for the others.
        positions: (3, L) temporal, vertical and horizontal rotary positions; equal rows for plain text.
        message: (L,) index of the message a token belongs to, -1 for the template's own text.
        opened: (2, L) first and end of the later tokens that a token also sees, equal where there are none; None
            for a causal model.
    """

    role: NDArray[np.int8]
    image: NDArray[np.int32]
    positions: NDArray[np.int32]
    message: NDArray[np.int32]
    opened: NDArray[np.int32] | None = None

    @property
    def visual(self) -> NDArray[np.bool_]:
        """(L,) marks of visual tokens."""
        return self.image >= 0

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
        """How many leading tokens two prompts share; a visual token counts as equal when its image's content is."""
        length = min(len(self), len(other))
        equal = self.ids[0, :length] == other.ids[0, :length]
        equal &= self._digests()[:length] == other._digests()[:length]
        shared = length if bool(equal.all()) else int(np.argmin(equal))
        # A token that sees beyond what is shared does not count as shared: its keys and values may differ. Where the
        # shorter prompt has no answer yet, only the other one knows that the token sees further.
        ends = [p.token_map.opened[1, :shared] for p in (self, other) if p.token_map.opened is not None]
        beyond = np.flatnonzero(np.max(ends, axis=0) > shared) if ends else np.array([], int)
        return int(beyond[0]) if beyond.size else shared

    def _digests(self) -> NDArray[np.object_]:
        names = np.array([image.digest for image in self.images] + [""], dtype=object)
        return names[self.token_map.image]


@dataclass
class _Builder:
    """Collects tokens; `finish` turns them into a Prompt."""

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


@dataclass(frozen=True)
class _Piece:
    """A stretch of the rendered conversation; `message` is -1 for template text."""

    text: str
    role: Role
    message: int = -1
    ids: tuple[int, ...] | None = None


def build_prompt(
    messages: Sequence[Message],
    tokenizer: Tokenizer,
    template: ChatTemplate,
    *,
    tokens: TokenConfig,
    merge_size: int | None = None,
    mutual: bool = False,
    add_generation_prompt: bool = True,
) -> Prompt:
    """Render, tokenize and map a conversation.

    Args:
        messages: the conversation.
        tokenizer: text to ids.
        template: the chat template.
        tokens: ids with a meaning; `image` is the placeholder that templates write.
        merge_size: patches a side of a visual token, for multimodal rotary positions; None for plain ones.
        mutual: whether an image's tokens see the rest of their turn, up to `tokens.answer`.
        add_generation_prompt: end where the answer begins.

    Raises:
        PromptError: when the template refuses or drops a message, or does not place every image.
    """
    images = [part.patches for message in messages for part in message.parts if isinstance(part, ImagePart)]
    if images and tokens.image is None:
        raise PromptError("this model reads text only; leave the images out or choose a vision-language model")
    builder = _Builder()
    placed = 0
    run: list[_Piece] = []
    for piece in _render(messages, template, add_generation_prompt):
        if piece.ids is not None:
            _flush(run, builder, tokenizer)
            builder.add(piece.ids, [piece.role] * len(piece.ids), [piece.message] * len(piece.ids))
            continue
        if piece.message >= 0:
            run.append(piece)
            continue
        for control in _add_template(piece.text, run, builder, tokenizer, tokens.image):
            if placed < len(images):
                _add_image(images[placed].layout, placed, control, run, builder, tokenizer)
            placed += 1
    _flush(run, builder, tokenizer)
    if placed != len(images):
        raise PromptError(f"the conversation has {len(images)} images, the model's chat template placed {placed}")
    image = np.array(builder.image, dtype=np.int32)
    if tokens.image is not None and tuple(builder.ids[: len(tokenizer.prefix)]) != tokenizer.prefix:
        # Processors of vision-language models add the start token that their tokenizer adds to every text.
        builder.put_before(tokenizer.prefix)
    ids = np.array([builder.ids], dtype=np.int32)
    grids = [patches.grid for patches in images]
    token_map = TokenMap(
        role=np.array(builder.role, np.int8),
        image=image,
        positions=rotary_positions(image, grids, merge_size) if merge_size else _plain_positions(len(image)),
        message=np.array(builder.message, np.int32),
        opened=opened_keys(ids[0], image, tokens.answer) if mutual else None,
    )
    return Prompt(ids, tuple(images), token_map)


def _add_template(
    text: str, run: list[_Piece], builder: _Builder, tokenizer: Tokenizer, image_token: int | None
) -> Iterator[int]:
    """Add the template's own text; hands out the image placeholders, in whose stead the caller adds an image."""
    position = 0
    for start, stop, control in tokenizer.find_control(text):
        run.append(_Piece(text[position:start], Role.TEMPLATE))
        position = stop
        if control.id == image_token:
            yield control.id
            continue
        _flush(run, builder, tokenizer)
        builder.add([control.id], [Role.TEMPLATE], [-1])
    run.append(_Piece(text[position:], Role.TEMPLATE))


def _add_image(
    layout: Sequence[str | int],
    image: int,
    placeholder: int,
    run: list[_Piece],
    builder: _Builder,
    tokenizer: Tokenizer,
) -> None:
    """Add an image: its visual tokens, and the markers that the model wants around them."""
    for part in layout:
        if isinstance(part, str):
            for _ in _add_template(part, run, builder, tokenizer, None):
                raise AssertionError("no placeholder is looked for")
            continue
        _flush(run, builder, tokenizer)
        builder.add([placeholder] * part, [Role.IMAGE] * part, [-1] * part, image)


def opened_keys(ids: NDArray[np.int32], image: NDArray[np.int32], answer: int | None) -> NDArray[np.int32]:
    """What the tokens of an image see beyond themselves under modality-mutual attention (arXiv 2503.02597).

    Every image sees the rest of its turn: the tokens from its end up to and including the next `answer` token.
    The paper and its code know one image and one turn; there this is their rule (the code opens the columns from the
    image's end up to and including the first `<|assistant|>`). Without an `answer` token after it, an image sees
    nothing more, as in their pre-training on captions. Answers stay closed, so that reading a conversation at once
    gives what reading and writing it token by token gave.

    Returns:
        (2, L) first and end of the opened tokens, equal where there are none.
    """
    opened = np.zeros((2, len(ids)), np.int32)
    answers = np.flatnonzero(ids == answer)
    for index in range(image.max(initial=-1) + 1):
        tokens = np.flatnonzero(image == index)
        end = int(tokens[-1]) + 1
        following = answers[answers >= end]
        if following.size:
            opened[:, tokens] = [[end], [int(following[0]) + 1]]
    return opened


def rotary_positions(image: NDArray[np.int32], grids: Sequence[Grid], merge_size: int) -> NDArray[np.int32]:
    """Multimodal positions (3, L) for still images (Qwen2-VL, arXiv 2409.12191, section 2.1).

    A text token advances all three; the tokens of an image share the temporal position and take their row and
    column; the text after an image goes on from the largest position used.
    """
    positions = np.empty((3, len(image)), np.int32)
    starts = np.flatnonzero(np.diff(image, prepend=-2))
    following = 0
    for start, stop in zip(starts, [*starts[1:], len(image)], strict=True):
        if image[start] < 0:
            positions[:, start:stop] = following + np.arange(stop - start, dtype=np.int32)
            following += stop - start
            continue
        _, rows, columns = (1, *(side // merge_size for side in grids[image[start]][1:]))
        row, column = np.divmod(np.arange(stop - start, dtype=np.int32), columns)
        positions[:, start:stop] = following + np.stack([np.zeros_like(row), row, column])
        following += max(rows, columns)
    return positions


def _plain_positions(length: int) -> NDArray[np.int32]:
    return np.tile(np.arange(length, dtype=np.int32), (3, 1))


def _render(messages: Sequence[Message], template: ChatTemplate, add_generation_prompt: bool) -> list[_Piece]:
    """The rendered conversation as template and content pieces, in order.

    Templates of vision-language models often know content as a list of parts only, and leave out what is given as
    a string; where that fails, all messages are rendered as parts.
    """
    for message in messages:
        if message.role not in _ROLES:
            number = messages.index(message) + 1
            raise PromptError(f"message {number}: unknown role {message.role!r}; use system, user or assistant")
    try:
        return _render_as(messages, template, add_generation_prompt)
    except PromptError:
        if not any(message.plain for message in messages):
            raise
        try:
            return _render_as([replace(m, plain=False) for m in messages], template, add_generation_prompt)
        except PromptError:
            pass
        raise


def _render_as(messages: Sequence[Message], template: ChatTemplate, add_generation_prompt: bool) -> list[_Piece]:
    nonce = secrets.token_hex(8)
    stand_ins: dict[str, _Piece] = {}
    shown: list[Mapping[str, Any]] = []
    for index, message in enumerate(messages):
        content = [_show(part, index, message.role, nonce, stand_ins) for part in message.parts]
        plain = message.plain and all("text" in part for part in content)
        shown.append({"role": message.role, "content": "".join(p["text"] for p in content) if plain else content})
    text = template.render(shown, add_generation_prompt=add_generation_prompt)
    pieces: list[_Piece] = []
    seen: set[str] = set()
    while text:
        head, mark, rest = text.partition(f"\ue000{nonce}.")
        if head:
            pieces.append(_Piece(head, Role.TEMPLATE))
        if not mark:
            break
        key, _, text = rest.partition("\ue001")
        seen.add(key)
        pieces.append(stand_ins[key])
    dropped = [piece.message for key, piece in stand_ins.items() if key not in seen]
    if dropped:
        number = dropped[0] + 1
        raise PromptError(f"the model's chat template leaves out message {number} ({messages[number - 1].role})")
    return pieces


def _show(
    part: TextPart | ImagePart, index: int, role: str, nonce: str, stand_ins: dict[str, _Piece]
) -> dict[str, Any]:
    """A message part as the template sees it: images by type only, text behind a stand-in.

    White space around the text stays outside the stand-in, because templates may trim it.
    """
    if isinstance(part, ImagePart):
        return {"type": "image"}
    core = part.text if part.ids is not None else part.text.strip()
    if not core and not part.ids:
        return {"type": "text", "text": part.text}
    key = str(len(stand_ins))
    stand_ins[key] = _Piece(core, _ROLES[role], index, part.ids)
    mark = f"\ue000{nonce}.{key}\ue001"
    if part.ids is not None:
        return {"type": "text", "text": mark}
    before = part.text[: len(part.text) - len(part.text.lstrip())]
    return {"type": "text", "text": before + mark + part.text[len(part.text.rstrip()) :]}


def _flush(run: list[_Piece], builder: _Builder, tokenizer: Tokenizer) -> None:
    """Encode a run of pieces as one text, so that merges across their borders are the tokenizer's own."""
    text = "".join(piece.text for piece in run)
    if text:
        ids, starts = tokenizer.encode(text, first=not builder.ids)
        ends = np.cumsum([len(piece.text) for piece in run])
        owner = np.searchsorted(ends, starts, side="right").clip(max=len(run) - 1)
        builder.add(ids, [run[i].role for i in owner], [run[i].message for i in owner])
    run.clear()
