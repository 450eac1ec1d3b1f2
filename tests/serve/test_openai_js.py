"""OpenAI's own JavaScript client, where Node.js and npm are at hand, and curl as people type it."""

from __future__ import annotations

import json
import shutil
import subprocess

import pytest

pytest.importorskip("fastapi")

from serve.running import png, question, receipt, running, url

SCRIPT = """\
import OpenAI from "openai";
const { address, messages, two } = JSON.parse(process.argv[2]);
const client = new OpenAI({ baseURL: `${address}/v1`, apiKey: "x", maxRetries: 0 });
const model = (await client.models.list()).data[0].id, fields = { model, messages, max_tokens: 20 };
const whole = await client.chat.completions.create(fields);
let streamed = "", usage = null;
for await (const chunk of await client.chat.completions.create({
  ...fields, stream: true, stream_options: { include_usage: true } })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
  usage = chunk.usage ?? usage;
}
const helper = await client.chat.completions.stream(fields).finalContent();
const several = await client.chat.completions.create({ ...fields, messages: two, max_tokens: 2 });
const schema = { type: "object", properties: { kind: { enum: ["receipt", "letter"] } }, required: ["kind"],
  additionalProperties: false };
const held = await client.chat.completions.create({
  ...fields, response_format: { type: "json_schema", json_schema: { name: "kind", schema, strict: true } } });
let status = null, message = "";
try { await client.chat.completions.create({ ...fields, model: "gpt-4o" }); } catch (error) {
  status = error.status; message = error.message;
}
console.log(JSON.stringify({ whole: whole.choices[0].message.content, streamed, helper, usage, status, message,
  visual: several.rave.visual_tokens, held: JSON.parse(held.choices[0].message.content) }));
"""


@pytest.fixture(scope="module")
def server():
    with running() as started:
        yield started


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with the client."""
    place, npm = tmp_path_factory.mktemp("js"), shutil.which("npm")
    if npm is None or shutil.which("node") is None:
        pytest.skip("needs Node.js and npm")
    (place / "package.json").write_text('{"type": "module", "private": true}')
    command = [npm, "install", "--silent", "--no-audit", "--no-fund", "--ignore-scripts", "openai@^6"]
    if subprocess.run(command, cwd=place, capture_output=True, timeout=120, check=False).returncode:
        pytest.skip("npm cannot install openai")
    return place


def test_the_javascript_client_asks_streams_and_sees_errors(server, folder):
    (folder / "ask.js").write_text(SCRIPT)
    given = {"address": server.address, "messages": question(), "two": question("?", receipt(), receipt(["A 1.00"]))}
    found = subprocess.run(["node", "ask.js", json.dumps(given)], cwd=folder, capture_output=True, text=True,
                           timeout=120, check=False)  # fmt: skip
    assert found.stderr == ""
    said = json.loads(found.stdout)
    assert said["whole"] == said["streamed"] == said["helper"] == "13.60"
    assert said["usage"]["completion_tokens"] == 6
    assert said["visual"] > 0
    assert said["held"]["kind"] in ("receipt", "letter")
    assert said["status"] == 404
    assert "there is no model 'gpt-4o' here" in said["message"]


def test_curl_as_people_type_it(server, tmp_path):
    if shutil.which("curl") is None:
        pytest.skip("needs curl")
    (tmp_path / "body.json").write_text(json.dumps({"messages": question(), "max_tokens": 20, "stream": True}))
    (tmp_path / "page.png").write_bytes(png(receipt()))

    def curl(*arguments):
        command = ["curl", "-sS", "--max-time", "60", *arguments]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout

    lines = curl(f"{server.address}/v1/chat/completions", "--json", "@body.json").split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "13.60"
    row = json.loads(curl(f"{server.address}/v1/read", "-F", "file=@page.png"))["documents"][0]
    assert row["file"] == "page.png"
    assert "Total 13.60" in row["markdown"]
    large = {
        "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url(receipt())}}] * 40}]
    }
    (tmp_path / "many.json").write_text(json.dumps(large))
    refused = curl(f"{server.address}/v1/chat/completions", "--json", "@many.json", "-w", "%{http_code}")
    assert refused.endswith("400")
    assert "40 images, at most 32" in refused
