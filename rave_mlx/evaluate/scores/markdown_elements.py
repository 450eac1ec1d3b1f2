"""Text, tables and formulas of a page: as OmniDocBench annotates them, and as a Markdown answer holds them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_KINDS = {
    "text": ("text", {"text_block", "title", "text_caption", "header", "footer", "page_number", "footnote"}),
    "formula": ("latex", {"equation_isolated", "equation_inline"}),
    "table": ("html", {"table"}),
}
"""By kind of element: where its content stands, and which categories it has."""
_MATH = re.compile(r"\$\$(.+?)\$\$|\\\[(.+?)\\\]", re.DOTALL)
_HTML_TABLE = re.compile(r"<table[\s>].*?</table>", re.DOTALL | re.IGNORECASE)
_PIPE_TABLE = re.compile(
    r"((?:^\|.+\|[ \t]*\n)(?:^\|[\s:|-]+\|[ \t]*\n)(?:^\|.+\|[ \t]*(?:\n|$))+)",
    re.MULTILINE,
)
_FENCE = re.compile(r"```(?:markdown|html|latex)?\s*\n?")
_AFTER_THOUGHTS = re.compile(r"\n\s*\n(?=[#|<$\\]|[\u4e00-\u9fff]|(?:[A-Z][a-z]))")
_ANNOUNCED = ("Here is the", "Here's the", "```markdown", "```")
Elements = dict[str, list[str]]


def true_elements(page: Mapping[str, Any]) -> Elements:
    """The annotated elements of a page in reading order; parts of one that is cut apart are joined."""
    found: dict[str, list[tuple[int, str]]] = {kind: [] for kind in _KINDS}
    for parts in _joined(page):
        parts.sort(key=lambda part: part.get("order") or 0)
        for kind, (column, categories) in _KINDS.items():
            if parts[0].get("category_type", "") in categories:
                content = " ".join(part[column] for part in parts if part.get(column)).strip()
                if content:
                    found[kind].append((parts[0].get("order") or 0, content))
    return {kind: [text for _, text in sorted(each, key=lambda e: e[0])] for kind, each in found.items()}


def _joined(page: Mapping[str, Any]) -> list[list[Mapping[str, Any]]]:
    """Elements in groups: those that a relation calls truncated belong together."""
    leader: dict[Any, Any] = {}

    def lead(name: Any) -> Any:
        while leader.get(name, name) != name:
            name = leader[name]
        return name

    for relation in (page.get("extra") or {}).get("relation", []):
        if relation.get("relation_type") == "truncated":
            first, second = lead(relation["source_anno_id"]), lead(relation["target_anno_id"])
            if first != second:
                leader[first] = second
    groups: dict[Any, list[Mapping[str, Any]]] = {}
    for number, element in enumerate(page.get("layout_dets", [])):
        groups.setdefault(lead(element.get("anno_id", ("unnamed", number))), []).append(element)
    return list(groups.values())


def read_elements(answer: str) -> Elements:
    """Tables in HTML or between pipes, displayed formulas, and every other line of an answer in Markdown."""
    text = _FENCE.sub("", _without_thoughts(answer)).replace("```", "")
    tables = [match[0] for match in _HTML_TABLE.finditer(text)]
    text = _HTML_TABLE.sub("\n", text)
    tables += [_as_html(match[0]) for match in _PIPE_TABLE.finditer(text)]
    text = _PIPE_TABLE.sub("\n", text)
    formulas = [content for match in _MATH.finditer(text) if (content := (match[1] or match[2] or "").strip())]
    lines = _MATH.sub("\n", text).split("\n")
    return {"text": [t for line in lines if (t := _line(line))], "table": tables, "formula": formulas}


def _line(line: str) -> str:
    """A line of text without marks of formulas and headings; "" for one character alone, which is no line."""
    text = re.sub(r"^#{1,6}\s*", "", re.sub(r"\$(.+?)\$", r"\1", line).strip())
    return text if len(text) > 1 else ""


def _as_html(table: str) -> str:
    """A table between pipes as HTML, its first row as the head."""
    rows = [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in table.strip().split("\n")]
    head = "".join(f"<th>{cell}</th>" for cell in rows[0])
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows[2:])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _without_thoughts(text: str) -> str:
    """An answer without what a model thought before it, as "Thinking Process: ..."."""
    begin = text.lstrip()
    if not begin or begin[0] in "#|<$\\" or (begin[0].isalnum() and "Thinking" not in begin[:20]):
        return text
    if (match := _AFTER_THOUGHTS.search(text)) is not None:
        return text[match.end() :].lstrip("\n")
    for words in _ANNOUNCED:
        if words in text:
            return text[text.index(words) + len(words) :].lstrip("\n")
    return text
