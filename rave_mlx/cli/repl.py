"""The conversation loop of `rave-mlx chat`: commands, streaming output, the status line."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from rave_mlx.chat.session import Session
from rave_mlx.chat.transcript import load_transcript, save_transcript
from rave_mlx.chat.turn_stats import TurnStats
from rave_mlx.cli.image_arguments import ImageArgument, dragged_images, open_arguments, typed_images
from rave_mlx.convert.source import SUGGESTED
from rave_mlx.errors import RaveError, UsageError
from rave_mlx.inputs.images.page_count import page_count
from rave_mlx.inputs.prompt.message import ImagePart
from rave_mlx.policies.rereading.crops import is_reduced, reading_scale

HELP = """\
/image FILE [PAGE]   show the model an image (or a page of a PDF); ask about it next. A line that is only
                     the path of an image, as when it is dragged here, does the same
/reset               forget the conversation
/save FILE           write the conversation, images included, to a JSON file
/load FILE           go on with a saved conversation
/stats               tokens, times and memory of the last answer
/help                this list
/exit                leave (so does Ctrl-D); Ctrl-C stops an answer"""

UNSURE = 0.8
"""Certainty below which a short answer is said to be unsure: on pages that people bring, two of five such are right."""
SHORT = 48
"""Tokens of an answer that reads off a page; of a longer text one word or another is always a free choice."""


class Repl:
    """Asks a session and prints: answers on stdout, notes on stderr."""

    def __init__(self, session: Session, *, built_in: bool, json: bool):
        self._session = session
        self._json = json
        self._waiting: list[ImagePart] = []
        self._built_in, self._notice, self._warned = built_in, built_in, False
        self._commands: dict[str, Callable[[list[str]], None]] = {
            "/reset": self._reset,
            "/save": self._save,
            "/load": self._load,
            "/stats": self._stats,
            "/help": self._help,
        }

    def attach(self, image: ImageArgument) -> None:
        """Read an image that the next question is about, and say how many tokens it takes."""
        self._waiting.append(self._session.read(image.source, image.page))
        patches, config = self._waiting[-1].patches, self._session.lmm.config.image
        line = f"{image.name}: {patches.size[0]} x {patches.size[1]} pixels, {patches.tokens:,} visual tokens"
        if config is not None and is_reduced(patches, config):
            line += f", read at {reading_scale(patches, config):.2f} of its size"
        which = page_count(image.source).describe(image.page)
        _note(f"{line}, {which}" if which else line)

    def ask(self, text: str) -> bool:
        """Ask and stream the answer. Ctrl-C ends the answer; what came so far stays in the conversation.

        Returns:
            Whether the answer was heard to its end.
        """
        answer = self._session.send(text, self._waiting)
        finish = "interrupted"
        said: list[str] = []
        try:
            for piece in answer:
                self._introduce()
                self._warn_without_image()
                said.append(piece.text)
                finish = piece.finish or finish
                if not self._json:
                    print(piece.text, end="", flush=True)
        except KeyboardInterrupt:
            answer.close()
        stats = self._session.stats
        if stats is None:
            # Nothing was said: the images still wait for a question.
            _note("Interrupted before the first token; what was shown is still there.")
            return False
        self._waiting = []
        if self._json:
            print(
                json.dumps({"text": "".join(said), "finish": finish, **asdict(stats)}, ensure_ascii=False), flush=True
            )
        else:
            print(flush=True)
            self._warn_if_unsure(stats)
        return finish != "interrupted"

    def _warn_if_unsure(self, stats: TurnStats) -> None:
        """Say that a short answer is likely wrong, and what reads better."""
        if stats.certainty < UNSURE and stats.answer_tokens <= SHORT:
            better = f"; a full-size model reads better: --model {SUGGESTED}" if self._built_in else ""
            _note(f"Unsure (certainty {stats.certainty:.2f}): compare it with the page{better}")

    def _warn_without_image(self) -> None:
        """Say once that a reader of images was shown none."""
        messages = self._session.messages
        shown = self._waiting or any(isinstance(part, ImagePart) for m in messages for part in m.parts)
        if self._session.lmm.config.vision is not None and not shown and not self._warned:
            _note("No image was given: the answer comes from the question alone. Show one: --image FILE, /image FILE")
            self._warned = True

    def converse(self) -> None:
        """Interactive loop on a terminal."""
        _use_history()
        self._introduce()
        _note("Ask a question; /help lists commands.")
        while True:
            try:
                line = input("> ")
            except EOFError:
                print()
                return
            except KeyboardInterrupt:
                print()
                continue
            before = self._session.stats
            if not self._do(line):
                return
            if self._session.stats is not None and self._session.stats is not before:
                _note(status_line(self._session.stats))

    def follow(self, lines: Iterable[str]) -> None:
        """Questions and commands from a pipe, one a line. The first error ends it."""
        asked = False
        for line in _decoded(lines):
            asked = asked or bool(line.strip())
            if not self._do(line, stop_on_error=True):
                return
        if not asked:
            raise UsageError("nothing to answer: give --prompt, or questions on standard input")

    def _do(self, line: str, *, stop_on_error: bool = False) -> bool:
        """One line of input; False when it ends the conversation."""
        line = line.strip()
        if line in ("/exit", "/quit"):
            return False
        try:
            command, _, rest = line.partition(" ")
            if command == "/image":
                self._image(rest)
            elif command not in self._commands and (files := dragged_images(line)):
                self._attach_all(open_arguments(files))
            elif line.startswith("/"):
                self._command(line)
            elif line:
                self.ask(line)
        except RaveError as error:
            if stop_on_error:
                raise
            _note(str(error))
        return True

    def _command(self, line: str) -> None:
        """Run a line that begins with a slash."""
        try:
            name, *arguments = shlex.split(line)
        except ValueError as error:
            raise UsageError(f"{line}: {error}") from None
        if name not in self._commands:
            raise UsageError(f"{name}: no such command; /help lists them")
        self._commands[name](arguments)

    def _image(self, rest: str) -> None:
        """/image: show files to the model."""
        if not rest.strip():
            raise UsageError("use: /image FILE [PAGE]")
        self._attach_all(typed_images(rest))

    def _attach_all(self, images: Iterable[ImageArgument]) -> None:
        """Attach all images, or none of them where one cannot be read."""
        waiting = list(self._waiting)
        try:
            for image in images:
                self.attach(image)
        except RaveError:
            self._waiting = waiting
            raise

    def _reset(self, arguments: list[str]) -> None:
        """/reset: forget the conversation, and images that wait for a question."""
        self._session.reset()
        self._waiting = []
        _note("Forgotten.")

    def _save(self, arguments: list[str]) -> None:
        """/save: write the conversation to a file."""
        if len(arguments) != 1:
            raise UsageError("use: /save FILE")
        save_transcript(self._session, Path(arguments[0]).expanduser())
        _note(f"Saved to {arguments[0]}.")

    def _load(self, arguments: list[str]) -> None:
        """/load: go on with a conversation from a file."""
        if len(arguments) != 1:
            raise UsageError("use: /load FILE")
        load_transcript(self._session, Path(arguments[0]).expanduser())
        self._waiting = []
        _note(f"Loaded {len(self._session.messages)} messages from {arguments[0]}.")

    def _stats(self, arguments: list[str]) -> None:
        """/stats: figures of the last answer."""
        stats = self._session.stats
        _note("No answer yet." if stats is None else "\n".join(f"{k}: {_number(v)}" for k, v in asdict(stats).items()))

    def _help(self, arguments: list[str]) -> None:
        """/help: the list of commands."""
        _note(HELP)

    def _introduce(self) -> None:
        """Say once that the small model answers."""
        if self._notice:
            _note(f"The small built-in model answers, each question on its own; a full-size one: --model {SUGGESTED}")
            self._notice = False


def _decoded(lines: Iterable[str]) -> Iterator[str]:
    """The lines, without a byte order mark.

    Raises:
        UsageError: for bytes that are no text in the input's encoding.
    """
    number, rest = 0, iter(lines)
    while True:
        number += 1
        try:
            line = next(rest)
        except StopIteration:
            return
        except UnicodeDecodeError as error:
            bad = error.object[error.start : error.end].hex(" ")
            raise UsageError(
                f"standard input: the bytes {bad} are not {error.encoding.upper()} text; convert the questions to UTF-8"
            ) from None
        yield line.removeprefix("\ufeff") if number == 1 else line


def status_line(stats: TurnStats) -> str:
    """One line about an answer: visual tokens, time to the first token, speed, certainty, peak memory."""
    return (
        f"[{stats.visual_tokens:,} visual of {stats.prompt_tokens:,} tokens, {stats.reused_tokens:,} reused · "
        f"first token {stats.first_token_seconds:.2f} s · {stats.tokens_per_second:.1f} tokens/s · "
        f"certainty {stats.certainty:.2f} · "
        f"peak {stats.peak_bytes / 1e9:.2f} GB]"
    )


def _number(value: float) -> str:
    """A figure with thousands separated, or three decimals."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def _note(text: str) -> None:
    """Print what is no answer: to stderr."""
    print(text, file=sys.stderr, flush=True)


def _use_history() -> None:
    """Line editing with a history that survives the program, where Python has readline."""
    try:
        import readline
    except ImportError:
        return
    import atexit

    state = Path(os.environ.get("XDG_STATE_HOME") or "~/.local/state").expanduser() / "rave-mlx"
    file = state / "history"
    with suppress(OSError):
        state.mkdir(parents=True, exist_ok=True)
        readline.read_history_file(file)

    def keep() -> None:
        with suppress(OSError):
            readline.write_history_file(file)

    readline.set_history_length(1000)
    atexit.register(keep)
