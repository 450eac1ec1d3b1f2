"""A conversation through a chat template, as pieces that are the template's and pieces that are somebody's text.

Messages are rendered with stand-ins in place of what people and the model wrote, so that afterwards it is known
which characters are the template's (there, control tokens count) and which are somebody's text (there, they do not).
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rave_mlx.errors import PromptError
from rave_mlx.inputs.prompt.chat_template import ChatTemplate, TemplateLimitError
from rave_mlx.inputs.prompt.message import ImagePart, Message, Role, TextPart
from rave_mlx.inputs.prompt.piece import Piece
from rave_mlx.inputs.prompt.template_edits import follow_edits

_ROLES = {"system": Role.SYSTEM, "developer": Role.SYSTEM, "user": Role.USER, "assistant": Role.ASSISTANT,
          "tool": Role.USER}  # fmt: skip


def render(
    messages: Sequence[Message], template: ChatTemplate, add_generation_prompt: bool, control: Collection[str] = ()
) -> list[Piece]:
    """The rendered conversation as template and content pieces, in order.

    With `add_generation_prompt` it ends where the answer begins; where the last message is the assistant's, it is an
    answer that has begun, and the conversation ends with its last word, as in transformers with
    `continue_final_message`.

    Templates of vision-language models often know content as a list of parts only, and leave out what is given as
    a string; where that fails, all messages are rendered as parts.

    Args:
        messages: the conversation.
        template: the chat template.
        add_generation_prompt: end where the answer begins.
        control: the texts of control tokens.

    Raises:
        PromptError: when the template refuses the conversation or leaves a message out, or looks into messages that
            hold the text of a control token; for tools where it knows none.
    """
    for message in messages:
        if message.role not in _ROLES or (message.role == "tool" and not template.knows_tools):
            number = messages.index(message) + 1
            raise PromptError(f"message {number}: unknown role {message.role!r}; use system, user or assistant")
    _check_tools(messages, template, control)
    try:
        return _render_as(messages, template, add_generation_prompt, control)
    except TemplateLimitError:
        raise
    except PromptError:
        if not any(message.plain for message in messages):
            raise
        try:
            return _render_as([replace(m, plain=False) for m in messages], template, add_generation_prompt, control)
        except PromptError:
            pass
        raise


def _render_as(
    messages: Sequence[Message], template: ChatTemplate, add_generation_prompt: bool, control: Collection[str]
) -> list[Piece]:
    nonce = secrets.token_hex(8)
    stand_ins: dict[str, Piece] = {}
    begun = add_generation_prompt and bool(messages) and messages[-1].role == "assistant"
    end = f"\ue000{nonce}.end\ue001" if begun else ""

    def written(show: Callable[[TextPart | ImagePart, int, str], dict[str, Any]]) -> str:
        contents = [[show(part, i, message.role) for part in message.parts] for i, message in enumerate(messages)]
        if begun:
            _mark_end(contents[-1], end, len(messages) - 1)
        shown = [_content(message, content) for message, content in zip(messages, contents, strict=True)]
        tools = messages[0].tools if messages else ()
        text = template.render(shown, add_generation_prompt=add_generation_prompt and not begun, tools=tools)
        return _until(text, end, len(messages)) if begun else text

    pieces = _pieces(written(lambda part, i, role: _show(part, i, role, nonce, stand_ins)), nonce, stand_ins, messages)
    return follow_edits(pieces, written(lambda part, i, role: _show_itself(part)), control)


def _content(message: Message, content: list[dict[str, Any]]) -> Mapping[str, Any]:
    """A message as the template sees it: one text where it was given as one."""
    plain = message.plain and all("text" in part for part in content)
    shown = {"role": message.role, "content": "".join(p["text"] for p in content) if plain else content}
    if message.calls:
        shown["tool_calls"] = [{"type": "function", "function": call} for call in message.calls]
    return shown


def _check_tools(messages: Sequence[Message], template: ChatTemplate, control: Collection[str]) -> None:
    """Refuse tools that would be left out, or in whose words a control token stands: the template writes those."""
    given = [*(messages[0].tools if messages else ()), *(call for message in messages for call in message.calls)]
    if given and not template.knows_tools:
        raise PromptError(
            "the model's chat template knows no tools; leave them out, or use a model that was made for them"
        )
    words = json.dumps(given, ensure_ascii=False)
    found = next((token for token in control if token in words), None)
    if found is not None:
        raise PromptError(f"the tools hold the control token {found!r}; write it differently")


def _pieces(text: str, nonce: str, stand_ins: Mapping[str, Piece], messages: Sequence[Message]) -> list[Piece]:
    """A rendered conversation, split at its stand-ins."""
    pieces: list[Piece] = []
    seen: set[str] = set()
    while text:
        head, mark, rest = text.partition(f"\ue000{nonce}.")
        if head:
            pieces.append(Piece(head, Role.TEMPLATE))
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


def _show(part: TextPart | ImagePart, index: int, role: str, nonce: str, stand_ins: dict[str, Piece]) -> dict[str, Any]:
    """A message part as the template sees it: images by type only, text behind a stand-in.

    White space around the text stays outside the stand-in, because templates may trim it.
    """
    if isinstance(part, ImagePart):
        return {"type": "image"}
    core = part.text if part.ids is not None else part.text.strip()
    if not core and not part.ids:
        return {"type": "text", "text": part.text}
    key = str(len(stand_ins))
    stand_ins[key] = Piece(core, _ROLES[role], index, part.ids)
    mark = f"\ue000{nonce}.{key}\ue001"
    if part.ids is not None:
        return {"type": "text", "text": mark}
    before = part.text[: len(part.text) - len(part.text.lstrip())]
    return {"type": "text", "text": before + mark + part.text[len(part.text.rstrip()) :]}


def _show_itself(part: TextPart | ImagePart) -> dict[str, Any]:
    """A message part as the template of transformers sees it."""
    if isinstance(part, ImagePart):
        return {"type": "image"}
    return {"type": "text", "text": part.text if part.ids is None else part.text.strip()}


def _mark_end(content: list[dict[str, Any]], end: str, index: int) -> None:
    """Put a mark behind the last text of an answer that has begun.

    The space behind the mark tells whether the template keeps the white space at the end of a message.
    """
    texts = [part for part in content if "text" in part]
    if not texts:
        raise PromptError(f"message {index + 1}: an answer that has begun needs a text to go on with")
    texts[-1]["text"] += f"{end} "


def _until(text: str, end: str, number: int) -> str:
    """A rendered conversation up to the mark of `_mark_end`; without the white space that the template takes off."""
    before, mark, after = text.rpartition(end)
    if not mark:
        raise PromptError(f"the model's chat template leaves out message {number} (assistant)")
    return before if after.startswith(" ") else before.rstrip()
