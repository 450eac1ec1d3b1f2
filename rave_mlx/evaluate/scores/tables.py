"""Tree edit distance of tables, TEDS (Zhong et al., ECCV 2020), and of outlines of documents."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from rave_mlx.errors import UsageError
from rave_mlx.evaluate.metrics import edit_distance

if TYPE_CHECKING:
    from lxml.html import HtmlElement


@dataclass
class Node:
    """A node of a tree: a tag of a table with what its cell holds, or a line of an outline."""

    name: str
    span: tuple[int, int] | None = None
    content: Sequence[str] = ()
    children: list[Node] = field(default_factory=list)


def teds(answer: str, truth: str) -> float:
    """Similarity of two HTML tables, from 0 to 1: 1 minus edits of the tree by nodes of the larger one.

    Args:
        answer: HTML with a table as the first thing in its body.
        truth: the same of the right table.

    Raises:
        ValueError: for spans that are no numbers, tables without any cell, or HTML that cannot be parsed.
        UsageError: without the `evaluate` extra.
    """
    if not answer or not truth:
        return 0.0
    said, true = _table(answer), _table(truth)
    if said is None or true is None:
        return 0.0
    largest = max(len(said.xpath(".//*")), len(true.xpath(".//*")))
    if not largest:
        raise ValueError("no cells")
    return 1.0 - tree_distance(_tree(said), _tree(true), _cell_cost) / largest


def _table(text: str) -> HtmlElement | None:
    try:
        from lxml import etree, html
    except ImportError:
        raise missing("lxml") from None
    try:
        root = html.fromstring(text, parser=html.HTMLParser(remove_comments=True, encoding="utf-8"))
    except (etree.ParserError, etree.XMLSyntaxError) as error:
        raise ValueError(str(error)) from None
    found = root.xpath("body/table")
    return found[0] if found else None


def missing(package: str) -> UsageError:
    """The line that says how to get a package that a measure needs."""
    return UsageError(f"this benchmark's measure needs {package}: pip install 'rave-mlx[evaluate]'")


@cache
def check_tables() -> None:
    """See that what `teds` needs is there.

    Raises:
        UsageError: naming what is missing.
    """
    teds("<html><body><table><tr></tr></table></body></html>", "<html><body><table><tr></tr></table></body></html>")


def _tree(element: Any) -> Node:
    """A table as a tree that ends at its cells."""
    name = str(element.tag)
    if name != "td":
        return Node(name, children=[_tree(child) for child in element])
    spans = int(element.attrib.get("colspan", "1")), int(element.attrib.get("rowspan", "1"))
    return Node(name, spans, _marks(element)[1:-1])


def _marks(element: Any) -> list[str]:
    """What an element holds: its tags and single characters."""
    name = str(element.tag)
    marks = [f"<{name}>", *(element.text or "")]
    for child in element:
        marks += _marks(child)
    if name != "unk":
        marks.append(f"</{name}>")
    if name != "td":
        marks += element.tail or ""
    return marks


def _cell_cost(a: Node, b: Node) -> float:
    """What it costs to make one node the other: 1 for another tag or span, else the share of a cell that differs."""
    if (a.name, a.span) != (b.name, b.span):
        return 1.0
    if a.name == "td" and (a.content or b.content):
        return edit_distance(a.content, b.content) / max(len(a.content), len(b.content))
    return 0.0


def tree_distance(a: Node, b: Node, cost: Any) -> float:
    """The cheapest way to make one tree the other; a node more or less costs 1.

    Args:
        a: a tree.
        b: another.
        cost: what it costs to put one node (first argument) in place of another, from 0 to 1.

    Raises:
        UsageError: without the `evaluate` extra.
    """
    try:
        from apted import APTED, Config
    except ImportError:
        raise missing("apted") from None

    class Costs(Config):  # type: ignore[misc]
        def rename(self, node1: Node, node2: Node) -> float:
            return float(cost(node1, node2))

    return float(APTED(a, b, Costs()).compute_edit_distance())


def whole_html(table: str) -> str:
    """A table with the tags around it that `teds` looks for, where they are missing."""
    table = table.replace("\n", "")
    opened, closed = "<table" in table, "</table>" in table
    table = ("" if opened else "<table>") + table + ("" if closed else "</table>")
    if "<body>" not in table:
        table = f"<body>{table}</body>"
    return table if "<html>" in table else f"<html>{table}</html>"


def outline_similarity(answer: str, truth: str) -> float:
    """How alike the outlines of two Markdown documents are: lines under their headings, what they say left aside."""
    trees = [_outline(text) for text in (answer, truth)]
    most = max(_count(tree) for tree in trees)
    return 1 - tree_distance(trees[0], trees[1], _blank_cost) / most


def _blank_cost(a: Node, b: Node) -> float:
    return float(not a.name.split() or not b.name.split())


_CLEANING = tuple(
    (re.compile(pattern), to)
    for pattern, to in (
        (r"<bos>|<eos>|<pad>|<unk>", ""), (r"\s##(\S)", r"\1"), (r"\\\s", r"\\"), (r"\s\*\s\*\s", "**"), (r"{\s", "{"),
        (r"\s}", "}"), (r"\s}", "}"), (r"\\begin\s", r"\\begin"), (r"\\end\s", r"\\end"),
        (r"\\end{table}", r"\\end{table} \n\n"),
    )
)  # fmt: skip
_AS_SPACE = str.maketrans("\n*_", "   ")


def _outline(text: str) -> Node:
    """Headings under the root, every other line under the first node that is called as the heading before it."""
    root = Node("ROOT", children=[Node("TITLE")])
    heading = ""
    for line in map(_clean, text.split("\n")):
        if line.startswith("#"):
            heading = line.replace("#", "")
            root.children.append(Node(heading))
        else:
            _named(root, heading or "TITLE").children.append(Node(line))
    return root


def _clean(line: str) -> str:
    """A line without what tokenizers leave behind, marks of emphasis as spaces."""
    for pattern, to in _CLEANING:
        line = pattern.sub(to, line)
    return line.translate(_AS_SPACE)


def _named(node: Node, name: str) -> Node:
    """The first node of that name; there is one."""
    waiting = [node]
    while waiting:
        node = waiting.pop()
        if node.name == name:
            break
        waiting += reversed(node.children)
    return node


def _count(node: Node) -> int:
    return 1 + sum(_count(child) for child in node.children)
