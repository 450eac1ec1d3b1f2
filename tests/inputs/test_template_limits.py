"""Chat templates that loop or grow without end are refused, soon; those of models go on as before."""

from __future__ import annotations

import time

import pytest

from rave_mlx.errors import PromptError
from rave_mlx.inputs.prompt.chat_template import ChatTemplate, TemplateLimitError

MESSAGES = [{"role": "user", "content": "hi"}] * 3
GROW = "{% set ns = namespace(x=START) %}{% for i in range(60) %}{% set ns.x = STEP %}{% endfor %}"
BIG = "{% set a = 'a' * 100000 %}"
LONG = "{% set a = 'a ' * 1000000 %}{% for i in range(100000) %}"


def grow(start: str, step: str, use: str = "{{ ns.x }}") -> str:
    return GROW.replace("START", start).replace("STEP", step) + use


HOSTILE = {
    "loops": "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
    "loops that go on": "{% for i in range(99999) %}{% for j in range(99999) %}{% continue %}{% endfor %}{% endfor %}",
    "loops over nothing": "{% for j in range(100000) %}{% for i in range(100000) if i < 0 %}{% endfor %}{% endfor %}",
    "loops of loops": "{% for x in [1, 1] recursive %}{% if loop.depth < 40 %}{{ loop([1, 1]) }}{% endif %}"
    "{% endfor %}",
    "a long range": "{% for i in range(10**9) %}{% endfor %}",
    "text times": "{{ 'a' * 10**10 }}",
    "list times": "{% set x = ['a'] * 10**10 %}",
    "doubled by ~": grow("'aa'", "ns.x ~ ns.x"),
    "doubled by +": grow("'aa'", "ns.x + ns.x"),
    "doubled list": grow("[1]", "ns.x + ns.x"),
    "doubled by join": grow("'aa'", "[ns.x, ns.x]|join"),
    "doubled by a method": grow("'aa'", "ns.x.replace('a', 'aa')"),
    "doubled by format": grow("'aa'", "'%s%s' % (ns.x, ns.x)"),
    "list in list": grow("[1]", "[ns.x, ns.x]"),
    "list in list as JSON": grow("[1]", "[ns.x, ns.x]", "{{ ns.x|tojson }}"),
    "list in list compared": grow("[1]", "[ns.x, ns.x]", "{{ ns.x == [ns.x, ns.x] }}"),
    "tuple in tuple as a key": grow("(1,)", "(ns.x, ns.x)", "{{ {ns.x: 1} }}"),
    "tuple in tuple looked up": grow("(1,)", "(ns.x, ns.x)", "{{ messages[0][ns.x] }}"),
    "object in object": grow("{}", "dict(a=ns.x, b=ns.x)"),
    "itself inside": "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
    "macro without end": "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}",
    "macro that doubles": "{% macro f(n) %}{% if n %}{{ f(n-1) }}{{ f(n-1) }}{% endif %}{% endmacro %}{{ f(50) }}",
    "calls that double": "{% macro m() %}{{ caller() }}{{ caller() }}{% endmacro %}" + "{% call m() %}" * 18
    + "a" + "{% endcall %}" * 18,
    "block without end": "{% block a %}{{ self.a() }}{% endblock %}",
    "output": "{% for i in range(1000) %}{% for j in range(1000) %}" + "a" * 50 + "{% endfor %}{% endfor %}",
    "output in a variable": "{% for i in range(100000) %}{% set x %}" + "a" * 9999 + "{% endset %}{% endfor %}",
    "output through a filter": "{% for i in range(99999) %}{% filter upper %}" + "a" * 9999 + "{% endfilter %}"
    "{% endfor %}",
    "powers": "{% set x = 10 ** 100000000 %}",
    "squares": grow("9", "ns.x * ns.x", ""),
    "center": "{{ 'a'|center(10**9) }}",
    "ljust": "{{ 'a'.ljust(10**10) }}",
    "to_bytes": "{{ (1).to_bytes(10**9, 'big') }}",
    "width in a format": "{{ '%999999999d' % 1 }}",
    "width beside a format": "{{ '%*d' % (10**9, 1) }}",
    "width in the filter": "{{ '%999999999d'|format(1) }}",
    "width in a method": "{{ '{:>999999999}'.format(1) }}",
    "width beside a method": "{{ '{:>{}}'.format(1, 10**9) }}",
    "replace": BIG + "{{ a.replace('a', a) }}",
    "replace nothing": BIG + "{{ a.replace('', a) }}",
    "replace in a filter": BIG + "{{ a|replace('a', a) }}",
    "join": BIG + "{{ a.join(a) }}",
    "join in a filter": BIG + "{{ a|list|join(a) }}",
    "indent": "{{ ('\n' * 100000)|indent(1000) }}",
    "sum of lists": "{{ ([[1] * 1000] * 10000)|sum(start=[]) }}",
    "sorting": "{% for i in range(100000) %}{% set x = range(100000)|list|sort %}{% endfor %}",
    "mapping": "{% for i in range(100000) %}{% set x = range(100000)|map('string')|list %}{% endfor %}",
    "searching": LONG + "{% set x = 'b' in a %}{% endfor %}",
    "comparing": LONG + "{% set x = a == a ~ '' %}{% endfor %}",
    "cutting": LONG + "{% set x = a[1:] %}{% endfor %}",
    "splitting": LONG + "{% set x = a.split() %}{% endfor %}",
    "filtering": LONG + "{% set x = a|upper|lower %}{% endfor %}",
    "dates": "{{ strftime_now('%c' * 100000) }}",
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_what_never_ends_is_refused(name):
    begun = time.process_time()
    template = ChatTemplate(HOSTILE[name])
    with pytest.raises(PromptError) as caught:
        template.render(MESSAGES, add_generation_prompt=True)
    assert time.process_time() - begun < 3
    assert isinstance(caught.value, TemplateLimitError) or "Range too big" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "source",
    [
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{{ " + "[" * 5000 + "]" * 5000 + " }}",
        "{{ " + "-" * 50000 + "1 }}",
        "{{ x" + ".a" * 50000 + " }}",
        "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
        "{% for i in [1] %}" * 300 + "{% endfor %}" * 300,
        "{{ " + "9" * 100000 + " }}",
        "a" * 1_000_000,
    ],
    ids=["brackets", "lists", "signs", "attributes", "conditions", "loops", "digits", "length"],
)
def test_what_is_nested_too_deeply_does_not_compile(source):
    with pytest.raises(PromptError, match="does not compile|characters"):
        ChatTemplate(source)


def test_a_conversation_of_thousands_of_messages_is_rendered():
    source = (
        "{%- set ns = namespace(last=messages|length - 1) %}{%- for m in messages[::-1] %}{%- set i = (messages|length"
        " - 1) - loop.index0 %}{%- if m.role == 'user' and m.content is string and not(m.content.startswith('<x>') and "
        "m.content.endswith('</x>')) %}{%- set ns.last = i %}{%- endif %}{%- endfor %}{%- for m in messages %}"
        "{%- set content = m.content if m.content is string else '' %}"
        "{{- '<|im_start|>' + m.role + '\n' + content.split("
        "'</think>')[-1].lstrip('\n') + '<|im_end|>' + '\n' }}{%- endfor %}"
    )
    messages = [{"role": "user", "content": "Hello, this is one of many."}] * 5000
    text = ChatTemplate(source).render(messages, add_generation_prompt=True)
    assert text == "<|im_start|>user\nHello, this is one of many.<|im_end|>\n" * 5000


def test_each_rendering_has_a_budget_of_its_own():
    template = ChatTemplate("{% for i in range(50000) %}{% endfor %}done")
    assert [template.render(MESSAGES, add_generation_prompt=True) for _ in range(20)] == ["done"] * 20
