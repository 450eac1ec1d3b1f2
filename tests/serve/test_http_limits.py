"""What a server refuses: other sites, other names, missing keys, large and slow bodies, files of its own machine."""

from __future__ import annotations

import base64
import io
import json
import socket
import time

import pytest

pytest.importorskip("fastapi")
httpx = pytest.importorskip("httpx")

from PIL import Image  # noqa: E402
from serve.running import png, question, running  # noqa: E402

KEY = "a-key-of-the-test"
CHAT = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server():
    with running("--max-body", 1, "--max-images", 2, "--max-pixels", 1, "--max-pages", 2,
                 RAVE_MLX_API_KEY=KEY) as started:  # fmt: skip
        yield started


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.address, headers={"Authorization": f"Bearer {KEY}"}, timeout=60) as found:
        yield found


def reason(response, status):
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["message"]


def refused(client, content, status=400, **fields):
    messages = [{"role": "user", "content": content}]
    return reason(client.post(CHAT, json={"messages": messages, "max_tokens": 2, **fields}), status)


def test_a_key_is_asked_for(server, client):
    for header in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}, {"Authorization": "Bearer"}):
        for path in ("/v1/models", "/metrics", "/openapi.json"):
            answer = httpx.get(server.address + path, headers=header)
            assert reason(answer, 401).startswith("the API key is missing or wrong")
            assert answer.headers["www-authenticate"] == "Bearer"
        assert httpx.post(server.address + CHAT, headers=header, json={}).status_code == 401
    assert client.get("/v1/models").status_code == 200
    for path in ("/health", "/v1/settings"):
        assert httpx.get(server.address + path).status_code == 200
    assert httpx.get(f"{server.address}/v1/settings").json()["api_key"] is True
    assert httpx.get(f"{server.address}/health").json() == {"status": "ok"}


def test_other_sites_and_names_are_refused(server, client):
    port = server.address.rpartition(":")[2]
    for host in ("evil.example", f"evil.example:{port}", "127.0.0.1.evil.example", "localhost.evil.example", ""):
        assert "answers to 127.0.0.1 and localhost" in reason(client.get("/v1/models", headers={"Host": host}), 403)
    for host in (f"localhost:{port}", f"127.0.0.1:{port}", f"[::1]:{port}"):
        assert client.get("/v1/models", headers={"Host": host}).status_code == 200
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": f"http://localhost:{port}"},
        {"Origin": "http://[x"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        answer = client.post(CHAT, headers=headers, json={"messages": question()})
        assert reason(answer, 403) == "pages of other sites may not use this server"
    own = {"Origin": server.address, "Sec-Fetch-Site": "same-origin"}
    assert client.post(CHAT, headers=own, json={"messages": question(), "max_tokens": 1}).status_code == 200
    allowed = {name for name in client.options(CHAT, headers={"Origin": server.address}).headers if "allow-" in name}
    assert allowed == set()


def test_every_response_has_headers_that_keep_browsers_safe(client):
    for path in ("/health", "/nothing", "/v1/models"):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "default-src 'self'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert headers["cache-control"] == "no-store"
    for name in ("..%2frun.py", "../run.py", "%2e%2e/run.py", "x.html", "run.py", "index.html%00", ""):
        assert client.get(f"/page/{name}").status_code == 404


def test_bodies_that_are_no_json(client):
    for body, message in (
        (b"", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"[]", "the body is a list; send a JSON object"),
        (b"null", "the body is null"),
        (b'"x"', "the body is text"),
        (b"\xff\xfe", "the body is not UTF-8 (byte 0)"),
        (b'{"messages": NaN}', "NaN is not JSON"),
        (b'{"n": ' + b"9" * 5000 + b"}", "cannot be meant"),
        (b"[" * 100_000, "nested too deeply"),
        (b"{}", "messages: Field required"),
    ):
        answer = client.post(CHAT, content=body, headers={"Content-Type": "application/json"})
        assert message in reason(answer, 400)
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = client.post(CHAT, content=b"{}", headers={"Content-Type": kind})
        assert "send JSON" in reason(answer, 415)
    assert "multipart/form-data" in reason(client.post("/v1/read", json={}), 415)
    assert reason(client.put(CHAT, json={}), 405) == "PUT is not known here"
    assert reason(client.get("/nothing"), 404) == "there is nothing at /nothing"


def test_half_characters_come_back_as_question_marks(client):
    answer = client.post(CHAT, content=rb'{"messages": [{"role": "\ud800", "content": "x"}]}',
                         headers={"Content-Type": "application/json"})  # fmt: skip
    assert "unknown role" in reason(answer, 400)
    answer = client.post(
        "/v1/completions", content=rb'{"prompt": "a\udfff"}', headers={"Content-Type": "application/json"}
    )
    assert "half characters" in reason(answer, 400)


def test_large_bodies_are_refused_however_they_come(client):
    large = json.dumps({"messages": [{"role": "user", "content": "x" * (2 << 20)}]}).encode()

    def pieces():
        for start in range(0, len(large), 1 << 16):
            yield large[start : start + (1 << 16)]

    headers = {"Content-Type": "application/json"}
    for content in (large, pieces()):
        assert "larger than 1 MiB" in reason(client.post(CHAT, content=content, headers=headers), 413)
    answer = client.post("/v1/pages", files={"file": ("x.png", b"x" * (2 << 20))})
    assert "larger than 1 MiB" in reason(answer, 413)


def test_a_body_that_does_not_end_holds_nobody_up(server, client):
    host, port = server.address.removeprefix("http://").split(":")
    waiting = []
    for _ in range(20):
        slow = socket.create_connection((host, int(port)))
        slow.sendall(f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n"
                     "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{".encode())  # fmt: skip
        waiting.append(slow)
    began = time.monotonic()
    assert client.post(CHAT, json={"messages": question(), "max_tokens": 1}).status_code == 200
    assert time.monotonic() - began < 20
    for slow in waiting:
        slow.close()


@pytest.mark.parametrize(
    "source",
    [
        "/etc/passwd",
        "file:///etc/passwd",
        "FILE:/etc/passwd",
        "etc/passwd",
        "",
        " data:image/png;base64,AA==",
        "ftp://example.org/x.png",
        "javascript:1",
        "iVBORw0KGgo" + "A" * 200,
    ],
)
def test_files_of_the_server_are_not_read(client, source):
    for part in (
        {"type": "image_url", "image_url": {"url": source}},
        {"type": "image_url", "image_url": source},
        {"type": "image", "image": source},
        {"type": "image", "path": source},
        {"type": "input_image", "image_url": source},
        {"image": {"path": source}},
    ):
        assert "an image comes as a data: URL" in refused(client, [part, {"type": "text", "text": "?"}])


def test_sources_that_are_hidden_in_others_are_refused(client):
    data = question()[0]["content"][0]["image_url"]["url"]
    for part in (
        {"type": "image_url", "image_url": {"url": data, "path": "/etc/passwd"}},
        {"type": "image_url", "image_url": {"url": data, "bytes": "x", "path": "/etc/passwd"}},
        {"type": "image_url", "image_url": {"url": data}, "image": "/etc/passwd"},
        {"type": "image", "image": data, "source": {"path": "/etc/passwd"}},
        {"type": "file", "file": {"file_id": "/etc/passwd"}},
        {"type": "image_url", "image_url": {"url": data}, "min_pixels": 178_000_000},
        {"type": "image_url", "image_url": {"url": data}, "wigth": 3},
    ):
        assert refused(client, [part, {"type": "text", "text": "?"}])


def test_remote_images_are_off(client):
    for address in ("http://127.0.0.1/x.png", "https://example.org/x.png"):
        part = {"type": "image_url", "image_url": {"url": address}}
        assert "images are not fetched from other servers here" in refused(client, [part])


def test_broken_and_large_images(client):
    whole = png(Image.effect_noise((64, 64), 50))
    huge = io.BytesIO()
    Image.new("L", (1200, 1200)).save(huge, "png")
    for data, message in (
        (b"", "the file is empty"),
        (b"hello", "this is"),
        (whole[:200], "damaged"),
        (whole[:40], "damaged"),
        (huge.getvalue(), "1200 x 1200 pixels, at most 1 megapixels"),
        (b"%PDF-1.4 nothing", ""),
    ):
        address = "data:image/png;base64," + base64.b64encode(data).decode()
        assert message in refused(client, [{"type": "image_url", "image_url": {"url": address}}])
    assert "not valid base64" in refused(
        client, [{"type": "image_url", "image_url": {"url": "data:image/png;base64,@"}}]
    )
    three = question("?", *[Image.new("RGB", (32, 32))] * 3)[0]["content"]
    assert "3 images, at most 2" in refused(client, three)


def test_forms_are_checked(client):
    file = {"file": ("x.png", png(Image.new("RGB", (32, 32), "white")))}
    for path, data, message in (
        ("/v1/read", {"format": "docx"}, "format is 'docx'; it can be markdown, text, json"),
        ("/v1/read", {"pages": "0"}, "pages are counted from 1"),
        ("/v1/read", {"bbox": "maybe"}, "bbox is 'maybe'"),
        ("/v1/read", {"path": "/etc/passwd"}, "there is no field 'path'"),
        ("/v1/read", {"model": "x"}, "there is no model 'x'"),
        ("/v1/read", {"max_tokens": "0"}, "max_tokens is '0'; it is a whole number"),
        ("/v1/extract", {}, "extract needs either schema"),
        ("/v1/extract", {"schema": "{"}, "schema: the text is not JSON"),
        ("/v1/extract", {"schema": '"/etc/passwd"'}, "a schema is a JSON object"),
        ("/v1/extract", {"schema": "{}", "fields": "a"}, "extract needs either schema"),
        ("/v1/extract", {"fields": ","}, "names nothing"),
    ):
        answer = client.post(path, files=file, data=data)
        assert message in reason(answer, 404 if "model" in data else 400)
    assert "there is no file" in reason(client.post("/v1/read", files={"x": (None, "y")}), 400)
    assert 'send files under "file"' in reason(client.post("/v1/pages", files={"image": ("x.png", b"y")}), 400)
    assert reason(client.post("/v1/pages", files={"file": ("x.png", b"y")}), 400).startswith("x.png: this is")
    broken = client.post(
        "/v1/read", content=b"--x\r\nhello", headers={"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert reason(broken, 400)
