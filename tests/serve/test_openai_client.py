"""OpenAI's own Python client against a server that runs: document questions, streams, schemas, errors."""

from __future__ import annotations

import json
import math

import pytest

pytest.importorskip("fastapi")
openai = pytest.importorskip("openai")

from serve.running import LINES, question, receipt, running  # noqa: E402

import rave_mlx  # noqa: E402

MODEL = "rave-mlx-builtin"


@pytest.fixture(scope="module")
def server():
    with running("--allow-remote-images") as started:
        yield started


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key="any", max_retries=0, timeout=120)


def ask(client, **fields):
    return client.chat.completions.create(**{"model": MODEL, "messages": question(), "max_tokens": 24} | fields)


def test_models(client):
    assert [model.id for model in client.models.list()] == [MODEL]
    assert client.models.retrieve(MODEL).owned_by == "rave-mlx"
    with pytest.raises(openai.NotFoundError, match="there is no model 'gpt-4o' here; there are: rave-mlx-builtin"):
        client.models.retrieve("gpt-4o")


def test_a_document_question(client):
    answer = ask(client)
    assert answer.choices[0].message.content == "13.60"
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage.completion_tokens == len("13.60") + 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    rave = answer.model_extra["rave"]
    assert rave["certainty"] > 0.9
    assert 0 < rave["visual_tokens"] < answer.usage.prompt_tokens
    assert rave["tokens_per_second"] > 0


def test_the_answer_is_that_of_the_package(client):
    lmm = rave_mlx.load()
    messages = [{"role": "user", "content": [{"type": "image", "image": receipt()}, {"type": "text", "text": "Cake?"}]}]
    for attention in (None, "rave", "none"):
        extra = {} if attention is None else {"attention": attention}
        found = ask(client, messages=question("Cake?"), extra_body=extra).choices[0].message.content
        assert found == rave_mlx.generate(lmm, messages, max_tokens=24, policy=attention)


def test_a_stream_has_the_same_text_and_token_counts(client):
    whole = ask(client)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices]
    assert "".join(pieces) == whole.choices[0].message.content
    assert len([piece for piece in pieces if piece]) > 1
    assert [chunk.choices for chunk in chunks[-1:]] == [[]]
    counts = chunks[-1].usage
    assert (counts.prompt_tokens, counts.completion_tokens) == (
        whole.usage.prompt_tokens,
        whole.usage.completion_tokens,
    )
    assert counts.prompt_tokens_details.cached_tokens == counts.prompt_tokens - 1
    ended = [chunk for chunk in chunks if chunk.choices and chunk.choices[0].finish_reason]
    assert [chunk.choices[0].finish_reason for chunk in ended] == ["stop"]
    assert ended[0].model_extra["rave"]["certainty"] == whole.model_extra["rave"]["certainty"]


def test_several_images(client):
    other = receipt(["SOUTH BAKERY", "Bread 3.20", "Rolls 1.80", "Total 5.00"])
    both = ask(client, messages=question("What is the total?", receipt(), other))
    one = ask(client, messages=question("What is the total?", other))
    assert both.model_extra["rave"]["visual_tokens"] == 2 * one.model_extra["rave"]["visual_tokens"]
    assert one.choices[0].message.content == "5.00"


def test_an_answer_follows_a_schema(client):
    schema = {
        "type": "object",
        "properties": {
            "kind": {"enum": ["receipt", "letter"]},
            "total": {"type": "string", "pattern": "^[0-9.]{4,6}$"},
        },
        "required": ["kind", "total"],
        "additionalProperties": False,
    }
    form = {"type": "json_schema", "json_schema": {"name": "found", "schema": schema, "strict": True}}
    found = json.loads(ask(client, response_format=form, max_tokens=60).choices[0].message.content)
    assert set(found) == {"kind", "total"}
    assert found["kind"] in ("receipt", "letter")
    free = ask(client, response_format={"type": "json_object"}, max_tokens=5).choices[0].message.content
    assert free.startswith("{")
    with pytest.raises(openai.BadRequestError, match="the schema cannot be followed"):
        bad = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "nothing"}}}
        ask(client, response_format=bad)


@pytest.mark.parametrize("stream", [False, True])
def test_log_probabilities(client, stream):
    answer = ask(client, logprobs=True, top_logprobs=3, stream=stream)
    if stream:
        entries = [e for chunk in answer for c in chunk.choices if c.logprobs for e in c.logprobs.content]
    else:
        entries = answer.choices[0].logprobs.content
    assert "".join(entry.token for entry in entries) == "13.60"
    assert [entry.bytes for entry in entries] == [[ord(c)] for c in "13.60"]
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].token == entry.token
        assert entry.logprob == pytest.approx(entry.top_logprobs[0].logprob, abs=1e-4)
        scores = [other.logprob for other in entry.top_logprobs]
        assert scores == sorted(scores, reverse=True)
        assert math.exp(entry.logprob) > 0.9


def test_a_stop_text_across_tokens_is_not_shown(client):
    """The built-in model writes one character a token."""
    for stop, left in ((".6", "13"), (["zz", "3.60"], "1"), ("1", ""), ("60x", "13.60")):
        answer = ask(client, stop=stop)
        assert (answer.choices[0].message.content, answer.choices[0].finish_reason) == (left, "stop")
        chunks = [chunk for chunk in ask(client, stop=stop, stream=True) if chunk.choices]
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == left
    counted = ask(client, stop=".6", logprobs=True)
    assert "".join(entry.token for entry in counted.choices[0].logprobs.content) == "13"
    assert counted.usage.completion_tokens == len("13.6")


def test_several_choices_and_seeds(client):
    fields = {"n": 3, "temperature": 1.7, "max_tokens": 12, "messages": [{"role": "user", "content": "Say"}]}
    first = [choice.message.content for choice in ask(client, seed=5, **fields).choices]
    again = [choice.message.content for choice in ask(client, seed=5, **fields).choices]
    other = [choice.message.content for choice in ask(client, seed=6, **fields).choices]
    assert first == again
    assert len(set(first)) == 3
    assert first[1:] == other[:2]
    greedy = ask(client, n=2, messages=fields["messages"])
    assert greedy.choices[0].message == greedy.choices[1].message
    assert [choice.index for choice in greedy.choices] == [0, 1]


def test_an_answer_is_cut_at_its_limit(client):
    assert [ask(client, **{name: 2}).choices[0].finish_reason for name in ("max_tokens",)] == ["length"]
    answer = client.chat.completions.create(model=MODEL, messages=question(), max_completion_tokens=2)
    assert (answer.choices[0].message.content, answer.usage.completion_tokens) == ("13", 2)


def test_a_begun_answer_is_gone_on_with(client):
    messages = [*question(), {"role": "assistant", "content": "13"}]
    assert ask(client, messages=messages).choices[0].message.content == ".60"


def test_a_typed_control_token_is_text(client):
    """In the prompt it is the ids of its characters, and no end of the turn."""
    plain = ask(client, messages=[{"role": "user", "content": "ab"}]).usage.prompt_tokens
    typed = ask(client, messages=[{"role": "user", "content": "a<|im_end|>b"}]).usage.prompt_tokens
    assert typed == plain + len("<|im_end|>")


def test_completions(client):
    text = "\n".join(LINES[:2])
    whole = client.completions.create(model=MODEL, prompt=[text, "ab"], max_tokens=4, logprobs=2, n=2)
    assert len(whole.choices) == 4
    assert whole.choices[0].text == whole.choices[1].text
    assert whole.usage.prompt_tokens == len(text) + 2
    found = whole.choices[0].logprobs
    assert "".join(found.tokens) == whole.choices[0].text
    assert found.text_offset == list(range(len(found.tokens)))
    assert all(len(likely) == 2 for likely in found.top_logprobs)
    chunks = list(client.completions.create(model=MODEL, prompt=text, max_tokens=4, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model": "gpt-4o"}, "there is no model 'gpt-4o' here"),
        ({"messages": []}, "messages: List should have at least 1 item"),
        ({"messages": [{"role": "teacher", "content": "x"}]}, "message 1: unknown role 'teacher'"),
        ({"temperature": -1}, "temperature: Input should be greater than or equal to 0"),
        ({"top_p": 0}, "top_p"),
        ({"presence_penalty": 0.5}, "presence_penalty is not supported, and would change the answer"),
        ({"logit_bias": {"5": 1}}, "logit_bias is not supported"),
        ({"top_logprobs": 3}, "top_logprobs goes with logprobs: true"),
        ({"stop": ["a"] * 17}, "stop: at most 16 texts"),
        ({"n": 17}, "17 answers are asked for, at most 16 are written"),
        ({"extra_body": {"max_tokenz": 3}}, "there is no field 'max_tokenz'; do you mean max_tokens?"),
        ({"extra_body": {"attention": "varr"}}, "no policy is called 'varr'"),
        ({"extra_body": {"attention": "dyvte:router=/etc/passwd"}}, "a file of the server's is not taken"),
        ({"extra_body": {"image_tokens": 100_000}}, "image_tokens is 100000, at most 16384 are read"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "chat template knows no tools"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://0x7f.1/"}}]}
                ]
            },
            "is on this machine or its network; only public addresses are fetched",
        ),
        ({"max_completion_tokens": 3}, "max_tokens and max_completion_tokens differ"),
        ({"response_format": {"type": "json_schema"}}, "json_schema goes with type"),
    ],
)
def test_what_would_change_the_answer_and_is_not_known_is_refused(client, fields, message):
    with pytest.raises(openai.APIStatusError) as refused:
        ask(client, **fields)
    assert refused.value.status_code == (404 if "model" in fields else 400)
    assert message in refused.value.body["message"]
    assert refused.value.body["type"] in ("invalid_request_error", "not_found_error")


def test_what_says_nothing_about_the_answer_is_passed_over(client):
    answer = ask(
        client, user="me", metadata={"a": "b"}, store=False, presence_penalty=0, frequency_penalty=0.0, logit_bias={},
        parallel_tool_calls=True, service_tier="auto", tools=[], tool_choice="none", response_format={"type": "text"},
    )  # fmt: skip
    assert answer.choices[0].message.content == "13.60"
