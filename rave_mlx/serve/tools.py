"""Tools: functions that a client offers, calls of them in answers, and what they gave, in later messages.

Calls are written as in the Hermes format, which Qwen's templates use: <tool_call>, JSON with name and arguments,
</tool_call>. Whether a model has tools, its chat template says.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rave_mlx.generation.grammar_tokens import grammar_tokens
from rave_mlx.generation.json_constraint import GrammarConstraint, json_grammar
from rave_mlx.inputs.prompt.chat_template import ChatTemplate
from rave_mlx.inputs.prompt.message import Message
from rave_mlx.models.lmm import LMM
from rave_mlx.serve.errors import ApiError

BEGIN, END = "<tool_call>", "</tool_call>"


def read_tools(tools: Sequence[Mapping[str, Any]] | None, choice: Any) -> list[dict[str, Any]]:
    """The tools that an answer may call: none for tool_choice "none", one where one is named.

    Args:
        tools: of the request.
        choice: "none", "auto", "required", or {"type": "function", "function": {"name": ...}}.

    Raises:
        ApiError: for tools that are no functions, and for a choice that is not there.
    """
    found: dict[str, dict[str, Any]] = {}
    for index, tool in enumerate(tools or ()):
        function, where = tool.get("function"), f"tools.{index}"
        if tool.get("type") != "function" or not isinstance(function, dict):
            raise ApiError(400, f'{where}: a tool is {{"type": "function", "function": {{...}}}}', param=where)
        name, schema = function.get("name"), function.get("parameters", {})
        if not isinstance(name, str) or not name or name in found:
            raise ApiError(400, f"{where}: a function needs a name of its own", param=where)
        if not isinstance(schema, dict):
            raise ApiError(400, f"{where}: parameters is a JSON Schema", param=where)
        found[name] = dict(tool)
    if choice in (None, "auto"):
        return list(found.values())
    if choice == "none":
        return []
    if choice == "required" and found:
        return list(found.values())
    function = choice.get("function") if isinstance(choice, dict) else None
    named = function.get("name") if isinstance(function, dict) else None
    if isinstance(named, str) and named in found:
        return [found[named]]
    raise ApiError(400, 'tool_choice can be "none", "auto", "required", or name one of the tools', param="tool_choice")


def check_template(template: ChatTemplate) -> None:
    """Refuse a model without tools, or that writes calls in another form.

    Raises:
        ApiError: saying so.
    """
    if not template.knows_tools:
        raise ApiError(400, "this model's chat template knows no tools; leave them out", param="tools")
    if BEGIN not in template.source or "arguments" not in template.source:
        raise ApiError(400, "this model writes calls of tools in a form that is not known here", param="tools")


def split_calls(message: Mapping[str, Any], where: str) -> tuple[dict[str, Any], tuple[dict[str, Any], ...]]:
    """A message without its calls of tools, and the calls.

    Args:
        message: of the request.
        where: names it in messages.

    Raises:
        ApiError: for calls that are malformed.
    """
    rest = {key: value for key, value in message.items() if key not in ("tool_calls", "tool_call_id")}
    given = message.get("tool_calls") or ()
    if not given:
        return rest, ()
    if rest.get("content") is None:
        rest["content"] = ""
    if message.get("role") != "assistant" or not isinstance(given, list):
        raise ApiError(400, f"{where}: tool_calls is a list, in messages of the assistant", param=where)
    return rest, tuple(_call(call, where) for call in given)


def with_tools(
    messages: Sequence[Message], calls: Sequence[tuple[dict[str, Any], ...]], tools: Sequence[dict[str, Any]]
) -> list[Message]:
    """Messages that know the calls in them, and the tools that are offered.

    Args:
        messages: of the conversation, read.
        calls: of each message.
        tools: that are offered.
    """
    found = [replace(message, calls=each) for message, each in zip(messages, calls, strict=True)]
    return [replace(found[0], tools=tuple(tools)), *found[1:]]


def call_constraint(lmm: LMM, tools: Sequence[Mapping[str, Any]]) -> GrammarConstraint:
    """What holds an answer to one call of one of the tools.

    Args:
        lmm: the model.
        tools: that may be called.

    Raises:
        UsageError: for a schema of parameters that cannot be followed.
    """
    options = [
        {
            "type": "object",
            "properties": {
                "name": {"const": tool["function"]["name"]},
                "arguments": tool["function"].get("parameters") or {"type": "object"},
            },
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for tool in tools
    ]
    call = json_grammar({"anyOf": options}).removeprefix("start:")
    return GrammarConstraint(grammar_tokens(lmm), f'start: "{BEGIN}\\n" call "\\n{END}"\ncall:{call}')


class CallText:
    """An answer's text on its way out: calls of tools are kept until the end.

    Args:
        names: of the tools that may be called.
    """

    def __init__(self, names: Sequence[str]):
        self._names, self._held, self._called = names, "", False

    def add(self, text: str) -> str:
        """More text came; returns what is no call, and cannot be the beginning of one."""
        self._held += text
        if self._called:
            return ""
        at = self._held.find(BEGIN)
        self._called = at >= 0
        if at < 0:
            most = min(len(BEGIN) - 1, len(self._held))
            at = len(self._held) - next((n for n in range(most, 0, -1) if BEGIN.startswith(self._held[-n:])), 0)
        out, self._held = self._held[:at], self._held[at:]
        return out

    def finish(self) -> tuple[str, list[dict[str, Any]] | None]:
        """The answer has ended: the rest of its text, and the calls; what is no proper call is text."""
        calls = parse_calls(self._held, self._names) if self._called else None
        return ("", calls) if calls else (self._held, None)


def parse_calls(text: str, names: Sequence[str]) -> list[dict[str, Any]] | None:
    """The calls in the part of an answer from the first `BEGIN` on, as OpenAI has them.

    Args:
        text: of the answer.
        names: of the tools that may be called.

    Returns:
        None for text that is no call of one of the tools.
    """
    found = []
    for part in text.split(BEGIN)[1:]:
        try:
            call = json.loads(part.partition(END)[0])
        except ValueError:
            return None
        if not isinstance(call, dict) or call.get("name") not in names or not isinstance(call.get("arguments"), dict):
            return None
        arguments = json.dumps(call["arguments"], ensure_ascii=False)
        found.append({"id": f"call_{uuid.uuid4().hex[:24]}", "type": "function",
                      "function": {"name": call["name"], "arguments": arguments}})  # fmt: skip
    return found or None


def _call(call: Any, where: str) -> dict[str, Any]:
    """A call of an earlier answer, as templates take it."""
    function = call.get("function") if isinstance(call, dict) else None
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise ApiError(400, f"{where}: a call of a tool names its function", param=where)
    arguments = function.get("arguments", {})
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            raise ApiError(
                400, f"{where}: the arguments of {function['name'][:60]} are not JSON", param=where
            ) from None
    if not isinstance(arguments, dict):
        raise ApiError(400, f"{where}: the arguments of {function['name'][:60]} are no object", param=where)
    return {"name": function["name"], "arguments": arguments}
