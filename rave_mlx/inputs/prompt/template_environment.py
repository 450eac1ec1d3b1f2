"""The Jinja in which chat templates run: transformers' dialect, in a sandbox, with every step counted.

What transformers gives to a template is here under the same names: `raise_exception`, `strftime_now`, `tojson` with
its arguments, `{% generation %}` blocks, `{% break %}` and `{% continue %}`. What no chat template needs and whose
cost is hard to bound (`lipsum`, `urlize`, `striptags`, ...) is left out.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from datetime import datetime
from typing import Any, NoReturn, cast

from jinja2 import TemplateError, nodes, pass_context
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from rave_mlx.inputs.prompt.template_limits import (
    LONGEST,
    TemplateLimit,
    check_format,
    check_length,
    check_method,
    check_operator,
    check_replace,
    joinable,
    spend,
    spend_on,
    spend_on_all,
)

_ABSENT_FILTERS = ("pprint", "striptags", "urlize", "wordwrap", "xmlattr")
_PADDING = ("batch", "center", "indent", "round", "slice", "tojson")
"""Filters whose arguments are widths."""
_WIDEST = 1000
_ITEMS_UNSEEN = (
    "attr", "batch", "count", "d", "default", "first", "items", "last", "length", "list", "map", "reject", "rejectattr",
    "reverse", "select", "selectattr", "slice",
)  # fmt: skip
"""Filters that do not look at what is inside the items of a list."""
_KINDS = (
    "boolean", "callable", "defined", "false", "filter", "float", "integer", "iterable", "mapping", "none", "number",
    "sameas", "sequence", "string", "test", "true", "undefined",
)  # fmt: skip
"""Tests that do not look at what is inside a value."""


def _raise_exception(message: object) -> NoReturn:
    spend_on_all(message)
    raise TemplateError(str(message))


def _strftime_now(pattern: str) -> str:
    check_format(pattern, "%*")
    if len(pattern) > _WIDEST:
        raise TemplateLimit("formats the date with a very long pattern")
    return datetime.now().strftime(pattern)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON as transformers writes it: nothing is escaped for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Names(Namespace):
    """A template's `namespace`, which keeps no names that Python reserves for itself."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        own, *rest = args
        names = dict(*rest, **kwargs)
        for name in names:
            _check_name(name)
        Namespace.__init__(own, names)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        Namespace.__setitem__(self, name, value)


def _check_name(name: object) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"a namespace keeps no name that begins with an underscore, as {name!r} does")


class _Generation(Extension):
    """`{% generation %}` marks what the model writes, for trainers; it changes nothing that is rendered."""

    tags = {"generation"}  # noqa: RUF012 - as Jinja declares it

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        """The block's content in a scope of its own, as in transformers: what is set inside is unknown after it."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Macro) -> str:
        content: str = caller()
        return content


@pass_context
def _finalize(_: Context, value: Any) -> Any:
    """Count a piece of output. That it takes the context keeps Jinja from computing constants while it compiles."""
    if not isinstance(value, str):
        spend_on_all(value)
        value = str(value)
    spend(1, len(value))
    return value


class _Counting(NodeTransformer):
    """Puts the counting into a template's syntax tree, where Jinja offers no hook for it."""

    def visit_For(self, node: nodes.For) -> nodes.For:
        """A loop counts every pass, with the size of its body."""
        self.generic_visit(node)
        node.body = [_tick(node), *node.body]
        return node

    visit_Macro = visit_For
    visit_CallBlock = visit_For

    def visit_Concat(self, node: nodes.Concat) -> nodes.Expr:
        """`a ~ b`."""
        self.generic_visit(node)
        return _through("_concatenated", nodes.List(node.nodes))

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Expr:
        """`text[a:b]`, which Jinja leaves to Python."""
        self.generic_visit(node)
        return _through("_counted", node) if isinstance(node.arg, nodes.Slice) and node.ctx == "load" else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Compare:
        """Comparisons look at all of both sides; a constant side ends them early."""
        self.generic_visit(node)
        sides = [node.expr, *(operand.expr for operand in node.ops)]
        if not any(isinstance(side, nodes.Const) for side in sides) or any("in" in o.op for o in node.ops):
            node.expr = _through("_seen", node.expr)
            for operand in node.ops:
                operand.expr = _through("_counted" if "in" in operand.op else "_seen", operand.expr)
        return node

    def visit_Pair(self, node: nodes.Pair) -> nodes.Pair:
        """Keys are hashed, which looks at all of them."""
        self.generic_visit(node)
        if not isinstance(node.key, nodes.Const):
            node.key = _through("_seen", node.key)
        return node


def _through(name: str, node: nodes.Expr) -> nodes.Expr:
    """An expression that gives what a filter makes of another one."""
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno or 1)


def _tick(node: nodes.Node) -> nodes.Node:
    """A statement that counts one pass through a loop's or a macro's body."""
    inside = [*node.find_all(nodes.Node)]
    static = sum(len(n.data) for n in inside if isinstance(n, nodes.TemplateData))
    cost = nodes.Const(1 + len(inside) // 16)
    # A filter and no call: a call would be counted itself.
    return nodes.ExprStmt(nodes.Filter(cost, "_tick", [nodes.Const(static)], [], None, None), lineno=node.lineno)


class Environment(ImmutableSandboxedEnvironment):
    """A sandbox whose templates can neither run nor grow without end; see `template_limits`."""

    intercepted_binops = frozenset(("//", "%", "+", "*", "-", "/", "**"))

    def __init__(self) -> None:
        # Not optimized: the optimizer computes constant expressions while it compiles, outside any budget.
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[loopcontrols, _Generation],
            autoescape=False,
            optimized=False,
            finalize=_finalize,
            cache_size=0,
        )
        del self.globals["lipsum"]
        self.globals |= {"raise_exception": _raise_exception, "strftime_now": _strftime_now, "namespace": _Names}
        self.filters = {n: _filter(n, f) for n, f in self.filters.items() if n not in _ABSENT_FILTERS}
        self.filters |= {
            "tojson": _filter("tojson", _tojson),
            "_concatenated": _concatenated,
            "_counted": _counted,
            "_seen": _seen,
            "_tick": spend,
        }
        self.tests = {n: f if n in _KINDS else _test(f) for n, f in cast(dict[str, Any], self.tests).items()}

    def _generate(self, source: nodes.Template, *args: Any, **kwargs: Any) -> str:
        return super()._generate(_Counting().visit(source), *args, **kwargs)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call an object from a template."""
        spend()
        args = check_method(__obj, args, kwargs)
        result = super().call(__context, __obj, *args, **kwargs)
        spend_on(result)
        return result

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute a binary operator."""
        check_operator(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Look an item up."""
        if isinstance(argument, tuple):
            spend_on_all(argument)
        return super().getitem(obj, argument)


def _concatenated(values: list[Any]) -> str:
    spend_on_all(values)
    texts = [str(value) for value in values]
    check_length(sum(map(len, texts)))
    return "".join(texts)


def _counted(value: Any) -> Any:
    spend_on(value)
    return value


def _seen(value: Any) -> Any:
    spend_on_all(value)
    return value


def _filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that counts what it reads and what it makes."""
    first = int(hasattr(function, "jinja_pass_arg"))

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        head, (value, *rest) = args[:first], args[first:]
        (spend_on if name in _ITEMS_UNSEEN else spend_on_all)(value)
        given = [*rest, *kwargs.values()]
        for argument in given:
            spend_on_all(argument)
        if name == "join":
            separator = kwargs.get("d", rest[0] if rest else "")
            value = joinable(value, separator if isinstance(separator, str) else "")
        elif name == "format":
            check_format(str(value), "%*")
        elif name == "replace" and len(given) > 1:
            check_replace(str(value), given[0], given[1])
        elif name == "sum" and not all(isinstance(x, (int, float, str, type(None))) for x in given):
            raise TemplateLimit("sums up what is no number")
        elif name in _PADDING:
            _check_padding(name, value, given)
        result = function(*head, value, *rest, **kwargs)
        spend_on(result)
        return result

    return counted


def _check_padding(name: str, value: Any, given: list[Any]) -> None:
    widths = [len(x) if isinstance(x, (str, tuple)) else x for x in given]
    widest = max((x for x in widths if isinstance(x, int)), default=0)
    if widest > _WIDEST:
        raise TemplateLimit(f"uses {name} with a very large width")
    if name == "indent" and isinstance(value, str):
        check_length(len(value) + (value.count("\n") + 1) * widest)
    elif name == "tojson" and widest > LONGEST // 100_000:
        raise TemplateLimit("indents JSON very far")


def _test(function: Callable[..., Any]) -> Callable[..., Any]:
    """A test that counts what it reads."""
    first = int(hasattr(function, "jinja_pass_arg"))

    @functools.wraps(function)
    def counted(*args: Any, **kwargs: Any) -> Any:
        for value in (*args[first:], *kwargs.values()):
            spend_on_all(value)
        return function(*args, **kwargs)

    return counted
