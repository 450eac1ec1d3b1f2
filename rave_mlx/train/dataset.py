"""A data set of conversations, checked when it is opened: a row that cannot be trained on is an error, not a gap.

Opening reads every row and the header of every image, lays out every prompt and counts its tokens. Images are decoded
when an example is taken, or at opening already where bad rows are tolerated, so that they can be told apart.

Models that were trained on single questions (`LMMConfig.turns` "last": the built-in one) see a conversation's latest
images and latest question only. For them a row with several answers is several examples, one for each.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from rave_mlx.errors import PromptError, RaveError
from rave_mlx.inputs.image_reference import ImageReference
from rave_mlx.inputs.prompt.message import ImagePart, Message, TextPart, latest_turn
from rave_mlx.inputs.text_files import RowError
from rave_mlx.models.lmm import LMM
from rave_mlx.train.example import Example, answer_of, make_example
from rave_mlx.train.image_stub import ImageStub, Spool, check_budget, make_stub
from rave_mlx.train.rows import DataError, Turn, other_answers, read_row, unused_columns
from rave_mlx.train.sources import RawRow, read_source

_SHOWN = 10
_READERS = 4
"""Threads that read image files for the fingerprint."""


@dataclass(frozen=True)
class RowStats:
    """What is known of an example without its pixels.

    Attributes:
        tokens, visual, trained_tokens: how many there are of each.
        images, answers: of the conversation.
        ended: answers behind which the token that ends an answer stands, and is trained on.
    """

    tokens: int
    visual: int
    trained_tokens: int
    images: int
    answers: int
    ended: int


class Dataset:
    """Examples by index. Opened with `open_dataset`.

    Attributes:
        name: of the source, with its split.
        stats: of every example.
        bad: the rows that were left out, each with its name and the reason.
        unused: columns that nothing was read from.
        several_answers: rows with more right answers than the first, which is trained on.
        image_tokens: budget of visual tokens an image.
    """

    def __init__(self, lmm: LMM, name: str, image_tokens: int | None):
        self.name = name
        self.image_tokens = image_tokens
        self.stats: list[RowStats] = []
        self.bad: list[str] = []
        self.unused: set[str] = set()
        self.several_answers = 0
        self._lmm = lmm
        self._conversations: list[tuple[tuple[Message, ...], str]] = []
        self._tokens = hashlib.sha256()

    def __len__(self) -> int:
        return len(self._conversations)

    def __getitem__(self, index: int) -> Example:
        """The example with its images decoded; from any thread.

        Raises:
            DataError: naming the row, when one of its images cannot be read.
        """
        messages, where = self._conversations[index]
        return make_example(self._lmm, self._read(messages, where), where)

    def __iter__(self) -> Iterator[Example]:
        return (self[index] for index in range(len(self)))

    @property
    def lengths(self) -> list[int]:
        """Tokens of every example."""
        return [row.tokens for row in self.stats]

    def where(self, index: int) -> str:
        """The name of an example's row."""
        return self._conversations[index][1]

    def question(self, index: int) -> tuple[list[Message], str]:
        """An example's conversation up to its last answer, images decoded, and that answer."""
        messages, where = self._conversations[index]
        last = max(i for i, message in enumerate(messages) if message.role == "assistant")
        answer = answer_of(messages[last]).parts[0]
        assert isinstance(answer, TextPart)
        return self._read(messages[:last], where), answer.text

    def fingerprint(self) -> str:
        """A hash of everything that is trained on: tokens, which of them count, and the bytes of every image.

        Reads every image file once.

        Raises:
            DataError: when one is gone.
        """
        found = self._tokens.copy()
        stubs = [
            part.patches
            for messages, _ in self._conversations
            for message in messages
            for part in message.parts
            if isinstance(part, ImagePart) and isinstance(part.patches, ImageStub)
        ]
        unique = {id(stub): stub for stub in stubs}
        with ThreadPoolExecutor(_READERS) as threads:
            digests = dict(zip(unique, threads.map(ImageStub.content_digest, unique.values()), strict=True))
        for stub in stubs:
            found.update(f"{digests[id(stub)]} {stub.page}\n".encode())
        return found.hexdigest()

    def add(self, messages: Sequence[Message], where: str, limit: int) -> None:
        """Add a conversation of stubs; DataError or PromptError when it cannot be trained on."""
        example = make_example(self._lmm, messages, where)
        if len(example) > limit:
            raise DataError(
                f"{len(example)} tokens, {example.prompt.visual_tokens} of them visual, where {limit} are allowed; "
                "lower --image-tokens, raise --max-tokens or shorten the row"
            )
        if not example.loss_mask.any():
            raise DataError("no token of it would be trained on; the model's chat template leaves its answers out")
        stop = set(self._lmm.config.tokens.stop)
        own = example.prompt.ids[0][example.loss_mask].tolist()
        self.stats.append(
            RowStats(
                tokens=len(example),
                visual=example.prompt.visual_tokens,
                trained_tokens=len(own),
                images=len(example.prompt.images),
                answers=sum(message.role == "assistant" for message in messages),
                ended=sum(token in stop for token in own),
            )
        )
        self._conversations.append((tuple(messages), where))
        for array in (example.prompt.ids, example.loss_mask):
            self._tokens.update(f"{array.shape}".encode() + array.tobytes())

    def _read(self, messages: Sequence[Message], where: str) -> list[Message]:
        try:
            return [self._decoded(message) for message in messages]
        except RaveError as error:
            raise DataError(f"{where}: {error}") from None

    def _decoded(self, message: Message) -> Message:
        image = self._lmm.config.image
        parts = [
            ImagePart(part.patches.read(image, self.image_tokens))
            if isinstance(part, ImagePart) and isinstance(part.patches, ImageStub) and image is not None
            else part
            for part in message.parts
        ]
        return Message(message.role, tuple(parts), message.plain)


def open_dataset(
    source: str | Path,
    lmm: LMM,
    *,
    split: str = "train",
    image_tokens: int | None = None,
    max_tokens: int | None = None,
    bad_rows: int = 0,
) -> Dataset:
    """Open a data set and check all of it.

    Args:
        source: a folder with train.jsonl and valid.jsonl (or .json, .parquet), one such file, or the id of a data set
            on the Hub. The forms of rows are those of `rows`.
        lmm: the model that will read it.
        split: "train", "valid", or another one's name.
        image_tokens: budget of visual tokens an image; None for the model's default.
        max_tokens: longest row that is allowed; None for the model's context.
        bad_rows: how many rows may be left out. They are kept in `Dataset.bad`.

    Raises:
        UsageError: when there is no such source.
        DataError: for more bad rows than allowed, the first ten of them named; for a set without rows.
        ImageError: for a budget that no image fits into.
    """
    if lmm.config.image is not None:
        check_budget(lmm.config.image, image_tokens)
    dataset = Dataset(lmm, f"{source} ({split})", image_tokens)
    reader = _Reader(lmm, image_tokens, decode=bad_rows > 0)
    limit = min(lmm.config.text.max_positions, max_tokens or lmm.config.text.max_positions)
    rows = 0
    for raw in read_source(source, split):
        rows += 1
        try:
            dataset.unused |= unused_columns(raw.row)
            dataset.several_answers += other_answers(raw.row)
            conversations = reader.conversations(raw)
            for number, messages in enumerate(conversations, 1):
                several = f", answer {number}" if len(conversations) > 1 else ""
                dataset.add(messages, raw.where + several, limit)
        except RaveError as error:
            dataset.bad.append(f"{raw.where}: {error}")
    if len(dataset.bad) > bad_rows or (dataset.bad and not len(dataset)):
        raise DataError(_bad_rows(dataset, rows, bad_rows))
    if not len(dataset):
        raise DataError(f"{dataset.name}: no rows to train on")
    return dataset


class _Reader:
    """Turns rows into conversations of stubs; an image that many rows show is looked at once."""

    def __init__(self, lmm: LMM, image_tokens: int | None, *, decode: bool):
        self._lmm, self._image_tokens, self._decode = lmm, image_tokens, decode
        self._spool = Spool()
        self._known: dict[tuple[Path, int], ImageStub] = {}

    def conversations(self, raw: RawRow) -> list[list[Message]]:
        """What the model is shown of a row: the whole conversation, or each of its questions."""
        if isinstance(raw.row, RowError):
            raise raw.row
        messages = [self._message(turn) for turn in read_row(raw.row, raw.folder)]
        if self._lmm.config.turns == "all":
            return [messages]
        answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
        for index in answers:
            if index == 0 or messages[index - 1].role != "user":
                raise DataError(f"message {index + 1}: an answer without a question before it")
        return [[*latest_turn(messages[:index]), messages[index]] for index in answers]

    def _message(self, turn: Turn) -> Message:
        parts = [TextPart(part) if isinstance(part, str) else ImagePart(self._stub(part)) for part in turn.parts]
        return Message(turn.role, tuple(parts), turn.plain)

    def _stub(self, image: ImageReference) -> ImageStub:
        config = self._lmm.config.image
        if config is None:
            raise PromptError("this model reads text only; leave the images out or choose a vision-language model")
        key = (image.source, image.page) if isinstance(image.source, Path) else None
        if key is not None and key in self._known:
            return self._known[key]
        made = make_stub(image, config, self._image_tokens, self._spool)
        if self._decode:
            made.read(config, self._image_tokens)
        if key is not None:
            self._known[key] = made
        return made


def _bad_rows(dataset: Dataset, rows: int, allowed: int) -> str:
    bad, more = dataset.bad[:_SHOWN], len(dataset.bad) - _SHOWN
    shown = "; ".join(bad) + (f"; and {more} more" if more > 0 else "")
    limit = f" ({allowed} are allowed)" if allowed else ""
    return (
        f"{dataset.name}: {len(dataset.bad)} of {rows} rows cannot be trained on{limit}: {shown}. Mend them, or leave "
        f"them out with --bad-rows {len(dataset.bad)}"
    )
