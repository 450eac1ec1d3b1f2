"""Adapters by name on shared weights, and tools for templates that have them."""

from __future__ import annotations

import json

import mlx.core as mx
import numpy as np
import pytest

pytest.importorskip("fastapi")
openai = pytest.importorskip("openai")

from serve.running import running  # noqa: E402
from support import tiny_model  # noqa: E402

import rave_mlx  # noqa: E402
from rave_mlx.checkpoint import adapters, directory  # noqa: E402
from rave_mlx.checkpoint.adapter_config import AdapterConfig  # noqa: E402
from rave_mlx.serve.errors import ApiError  # noqa: E402
from rave_mlx.serve.shelf import Shelf  # noqa: E402

MODULES = ("decoder.layers.0.attention.q_proj", "decoder.layers.1.mlp.down_proj")
TEMPLATE = """\
{%- macro text(content) %}{%- if content is string %}{{- content }}{%- else %}
    {%- for item in content %}{%- if 'text' in item %}{{- item.text }}{%- endif %}{%- endfor %}
{%- endif %}{%- endmacro %}
{%- if tools %}{{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- text(messages[0].content) + '\\n\\n' }}{%- endif %}
    {{- "# Tools\\n<tools>" }}{%- for tool in tools %}{{- "\\n" }}{{- tool | tojson }}{%- endfor %}
    {{- "\\n</tools>\\n<tool_call>\\n{\\"name\\": <name>, \\"arguments\\": <object>}\\n</tool_call>" }}
    {{- '<|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}{{- '<|im_start|>system\\n' + text(messages[0].content) + '<|im_end|>\\n' }}
{%- endif %}
{%- for message in messages %}
    {%- if message.role == "user" %}
        {{- '<|im_start|>user\\n' + text(message.content) + '<|im_end|>\\n' }}
    {%- elif message.role == "assistant" %}{{- '<|im_start|>assistant\\n' + text(message.content) }}
        {%- for tool_call in message.tool_calls %}
            {%- if tool_call.function %}{%- set tool_call = tool_call.function %}{%- endif %}
            {{- '<tool_call>\\n{"name": "' }}{{- tool_call.name }}{{- '", "arguments": ' }}
            {{- tool_call.arguments | tojson }}{{- '}\\n</tool_call>' }}
        {%- endfor %}{{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {{- '<|im_start|>user\\n<tool_response>\\n' + text(message.content) + '\\n</tool_response><|im_end|>\\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}
"""
"""In the manner of Qwen3-VL's."""
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Find a bill.",
            "parameters": {
                "type": "object",
                "properties": {"number": {"type": "string", "pattern": "^[0-9]{3}$"}},
                "required": ["number"],
                "additionalProperties": False,
            },
        },
    }
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A tiny model with a template that knows tools, and two adapters."""
    place, lmm = tmp_path_factory.mktemp("models"), tiny_model()
    directory.write(place / "tiny", lmm.config, lmm.named_weights().items(), template=TEMPLATE, card="",
                    tokenizer=directory.BUILT_IN / "tokenizer.json")  # fmt: skip
    for seed, (name, more) in enumerate(
        {
            "low-rank": {"modules": MODULES},
            "whole": {"modules": MODULES, "replaced": ("decoder.norm.weight",), "rows": {"decoder.embed": (60, 61)}},
        }.items()
    ):
        adapted, config = tiny_model(), AdapterConfig(rank=3, scale=2.0, **more)
        adapters.attach(adapted, config)
        rng = np.random.default_rng(seed + 1)
        weights = {key: mx.array(rng.normal(0, 0.3, value.shape).astype(np.float32))
                   for key, value in adapters.adapter_weights(adapted, config).items()}  # fmt: skip
        adapters._put(adapted, config, weights)
        adapters.save(adapted, config, place / name)
    return place


def logits(lmm):
    prompt = lmm.prepare([{"role": "user", "content": "Hello"}])
    return np.asarray(lmm.logits(prompt))[0, -1]


def test_an_adapter_shares_the_weights_and_leaves_them_alone(folder):
    base = rave_mlx.load(folder / "tiny")
    before = logits(base)
    shelf = Shelf("tiny", base, adapters={name: str(folder / name) for name in ("low-rank", "whole")})
    assert shelf.names == ["tiny", "tiny:low-rank", "tiny:whole"]
    for name in ("low-rank", "whole"):
        served = shelf.open(f"tiny:{name}")
        expected = logits(rave_mlx.load(folder / "tiny", adapter=folder / name))
        assert np.array_equal(logits(served.lmm), expected)
        assert not np.allclose(expected, before, atol=1e-2)
        assert np.array_equal(logits(base), before)
        assert served.nbytes < sum(array.nbytes for array in base.named_weights().values()) / 4


def test_adapters_that_are_not_used_give_way(folder):
    names = {name: str(folder / name) for name in ("low-rank", "whole")}
    sizes = Shelf("tiny", rave_mlx.load(folder / "tiny"), adapters=names)
    most = max(sizes.open(f"tiny:{name}").nbytes for name in names)
    shelf = Shelf("tiny", rave_mlx.load(folder / "tiny"), adapters=names, adapter_bytes=most)
    first = shelf.open("tiny:low-rank")
    assert shelf.open("tiny:low-rank") is first
    with pytest.raises(ApiError, match="no memory for tiny:whole: the adapters in use take it") as refused:
        shelf.open("tiny:whole")
    assert refused.value.status == 503
    shelf.give_back(first)
    shelf.give_back(first)
    second = shelf.open("tiny:whole")
    assert [model.name for model in shelf.loaded] == ["tiny", "tiny:whole"]
    shelf.give_back(second)
    assert shelf.open("tiny:low-rank") is not first
    with pytest.raises(ApiError, match="adapters may take 0 MiB"):
        Shelf("tiny", rave_mlx.load(folder / "tiny"), adapters=names, adapter_bytes=8).open("tiny:whole")


@pytest.fixture(scope="module")
def client(folder):
    named = [f"--adapter={name}={folder / name}" for name in ("low-rank", "whole")]
    with running("--model", folder / "tiny", *named, "--adapter", f"broken={folder}") as server:
        yield openai.OpenAI(base_url=f"{server.address}/v1", api_key="x", max_retries=0)


def test_adapters_are_asked_for_by_name(client, folder):
    assert [model.id for model in client.models.list()] == ["tiny", "tiny:low-rank", "tiny:whole", "tiny:broken"]
    messages = [{"role": "user", "content": "Hello"}]
    for model, adapter in (("tiny", None), ("tiny:whole", folder / "whole"), ("tiny:low-rank", folder / "low-rank")):
        answer = client.chat.completions.create(model=model, messages=messages, max_tokens=8)
        assert answer.model == model
        lmm = rave_mlx.load(folder / "tiny", adapter=adapter)
        assert answer.choices[0].message.content == rave_mlx.generate(lmm, messages, max_tokens=8)
    with pytest.raises(openai.InternalServerError, match="the adapter of tiny:broken does not open"):
        client.chat.completions.create(model="tiny:broken", messages=messages, max_tokens=8)


def call(client, stream=False, messages=(), **fields):
    given = messages or [{"role": "user", "content": "Bill 7?"}]
    return client.chat.completions.create(
        model="tiny", messages=given, tools=TOOLS, max_tokens=100, stream=stream, **fields
    )  # fmt: skip


def test_a_call_that_is_required_follows_the_schema(client):
    named = {"type": "function", "function": {"name": "look_up"}}
    for choice in ("required", named):
        answer = call(client, tool_choice=choice).choices[0]
        assert answer.finish_reason == "tool_calls"
        assert answer.message.content is None
        (made,) = answer.message.tool_calls
        assert made.function.name == "look_up"
        assert json.loads(made.function.arguments).keys() == {"number"}
        chunks = [chunk.choices[0] for chunk in call(client, stream=True, tool_choice=choice)]
        (streamed,) = [one for chunk in chunks for one in chunk.delta.tool_calls or []]
        assert (streamed.function.name, streamed.function.arguments) == (made.function.name, made.function.arguments)
        assert "".join(chunk.delta.content or "" for chunk in chunks) == ""
        assert chunks[-1].finish_reason == "tool_calls"


def test_what_a_tool_found_is_read(client):
    made = call(client, tool_choice="required").choices[0].message
    result = {"role": "tool", "tool_call_id": made.tool_calls[0].id, "content": "Total: 13.60"}
    asked = [{"role": "user", "content": "Bill 7?"}, made.model_dump(exclude_none=True), result]
    short = call(client, messages=asked[:1]).usage.prompt_tokens
    whole = call(client, messages=asked).usage.prompt_tokens
    turn = f'<tool_call>\n{{"name": "look_up", "arguments": {made.tool_calls[0].function.arguments}}}\n</tool_call>'
    written = f"assistant\n{turn}\nuser\n<tool_response>\nTotal: 13.60\n</tool_response>\n"
    # One token a character, but for the two roles, and four control tokens.
    assert whole - short == len(written) - len("assistant" + "user") + 2 + 4


def test_no_tools_are_shown_where_none_may_be_called(client):
    asked = [{"role": "user", "content": "Bill 7?"}]
    plain = client.chat.completions.create(model="tiny", messages=asked, max_tokens=1).usage.prompt_tokens
    assert call(client, tool_choice="none").usage.prompt_tokens == plain
    assert call(client, tool_choice="auto").usage.prompt_tokens > plain + len("look_up")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"tool_choice": "always"}, "tool_choice can be"),
        ({"tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice can be"),
        ({"tools": [{"type": "search"}]}, "tools.0: a tool is"),
        ({"tools": [*TOOLS, *TOOLS]}, "tools.1: a function needs a name of its own"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "description": "<|im_end|>"}}]},
            "the tools hold the control token '<|im_end|>'",
        ),
        (
            {"messages": [{"role": "user", "content": "x", "tool_calls": [1]}]},
            "tool_calls is a list, in messages of the assistant",
        ),
    ],
)
def test_tools_that_cannot_be_meant_are_refused(client, fields, message):
    given = {"messages": [{"role": "user", "content": "x"}], "tools": TOOLS, "max_tokens": 3} | fields
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model="tiny", **given)
    assert message in refused.value.body["message"]
