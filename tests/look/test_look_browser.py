"""The page of `look` in a real browser: Chromium opens the file, a script uses it as a person would, and reports.

Everything happens without a network: the page's own policy forbids every request, and none is reported.
"""

from __future__ import annotations

import html
import json
import os
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from test_look import planted

from rave_mlx.look.colors import attention_scale, difference_scale
from rave_mlx.look.html import page

CHROMIUM = next(
    (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), ""
)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed; the page is tested in one")

TOOLS = """
const report = {};
addEventListener("error", (e) => { report.error = e.message; });
document.addEventListener("securitypolicyviolation", (e) => { report.violation = e.blockedURI; });
const $ = (id) => document.getElementById(id);
const options = () => [...$("tokens").children];
const key = (el, name) =>
  el.dispatchEvent(new KeyboardEvent("keydown", { key: name, bubbles: true, cancelable: true }));
// The colour in the middle of each of the 4 x 2 cells of the page.
const cells = (id = "heat-0") => {
  const c = $(id), g = c.getContext("2d"), out = [];
  for (let y = 0; y < 2; y++) for (let x = 0; x < 4; x++)
    out.push([...g.getImageData(Math.floor((x + 0.5) * c.width / 4), Math.floor((y + 0.5) * c.height / 2), 1, 1)
      .data.slice(0, 3)]);
  return out;
};
"""


def visit(text, script, folder, *arguments):
    """Open the page, run `script` (which fills `report`) once it stands, and return the report."""
    ending = f"<script>{TOOLS}\ntry {{ {script} }} catch (e) {{ report.error = String(e); }}\n" + (
        'document.body.insertAdjacentHTML("beforeend", `<pre id="report"></pre>`);'
        '$("report").textContent = JSON.stringify(report);</script>'
    )
    file = folder / "page.html"
    file.write_text(text.replace("</body>", ending + "</body>"), encoding="utf-8")
    return read_report(chromium(folder, "--dump-dom", *arguments, file))


def read_report(done):
    found = done.stdout.rpartition('<pre id="report">')[2].partition("</pre>")[0]
    assert found.startswith("{"), done.stderr[-2000:]
    return json.loads(html.unescape(found))


def chromium(folder, *arguments):
    return subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--virtual-time-budget=4000", f"--user-data-dir={folder / 'profile'}", *map(str, arguments),
        ],
        capture_output=True, text=True, timeout=120, check=False, env=os.environ | {"HOME": str(folder)},
    )  # fmt: skip


@pytest.fixture
def runs():
    """Two runs of the same answer: the first looks at cell 0, then at cell 5; the second at cell 2, then at 5."""
    none, gate = np.zeros((3, 3, 2, 8)), np.zeros((3, 3, 2, 8))
    none[0, 1, :, 0] = none[1, 1, :, 5] = gate[0, 1, :, 2] = gate[1, 1, :, 5] = 0.5
    none[0, 2, 0, 7], none[0, 2, 1, 3] = 0.25, 0.75  # another layer, whose heads differ
    return [planted(none), planted(gate, attention="rave")]


def colour(share, *, signed=False):
    """What a cell with this share of the peak looks like."""
    root = np.sign(share) * np.sqrt(abs(share))
    table = difference_scale() if signed else attention_scale()
    return table[round((root + 1) / 2 * 255) if signed else round(root * 255)].tolist()


def close(found, expected):
    return np.abs(np.array(found, int) - np.array(expected, int)).max() <= 4


def test_a_token_shows_its_map(runs, tmp_path):
    report = visit(
        page(runs[:1], layers=[1]),
        """
        report.options = options().map((o) => o.textContent);
        report.whole = cells();
        options()[1].dispatchEvent(new PointerEvent("pointerenter", { pointerType: "mouse" }));
        report.hovered = cells(); report.note = $("note").textContent;
        options()[1].dispatchEvent(new PointerEvent("pointerleave", { pointerType: "mouse" }));
        report.left = cells();
        options()[2].click();
        report.clicked = cells(); report.selected = options().map((o) => o.getAttribute("aria-selected"));
        report.high = $("high").textContent;
        report.mass = [...document.querySelectorAll("#mass dd:not(.bar)")].map((d) => d.textContent);
        """,
        tmp_path,
    )
    assert "error" not in report
    assert report["options"] == ["whole answer", "a", "b", "end"]
    full, nothing = colour(1), [255, 255, 255]
    assert [i for i, c in enumerate(report["hovered"]) if close(c, full)] == [0]
    assert [i for i, c in enumerate(report["hovered"]) if close(c, nothing)] == [1, 2, 3, 4, 5, 6, 7]
    assert report["note"] == "none: token 1 of 3, “a”"
    assert [i for i, c in enumerate(report["whole"]) if close(c, full)] == [0, 5]  # the stop token has no part in it
    assert report["left"] == report["whole"]
    assert [i for i, c in enumerate(report["clicked"]) if close(c, full)] == [5]
    assert report["selected"] == ["false", "false", "true", "false"]
    assert report["high"] == "50 % a cell"
    assert report["mass"] == ["50 %", "50 %", "0.0 %"]


def test_layers_and_heads(runs, tmp_path):
    report = visit(
        page(runs[:1], layers=[1]),
        """
        options()[1].click();
        $("layer").value = 2; $("layer").dispatchEvent(new Event("input"));
        report.mean = cells(); report.name = $("layer-name").textContent;
        report.heads = [...$("head").options].map((o) => o.textContent);
        $("head").value = "0"; $("head").dispatchEvent(new Event("change"));
        report.first = cells(); report.high = $("high").textContent;
        $("layer").value = 0; $("layer").dispatchEvent(new Event("input"));
        report.empty = cells();
        """,
        tmp_path,
    )
    assert "error" not in report
    assert report["name"] == "2 of 0–2"
    assert report["heads"] == ["mean of 2", "head 0", "head 1"]
    assert close(report["mean"][3], colour(1))
    assert close(report["mean"][7], colour(1 / 3))
    assert close(report["first"][7], colour(1))
    assert close(report["first"][3], [255, 255, 255])
    assert report["high"] == "25 % a cell"
    assert report["empty"] == [[255, 255, 255]] * 8


def test_the_keyboard_alone(runs, tmp_path):
    report = visit(
        page(runs, layers=[1]),
        """
        const start = document.querySelector('#tokens [tabindex="0"]');
        start.focus();
        report.focused = [document.activeElement.textContent];
        for (const name of ["ArrowRight", "ArrowRight", "End", "ArrowRight", "ArrowLeft", "Home"]) {
          key(document.activeElement, name);
          report.focused.push(document.activeElement.textContent);
        }
        key(document.activeElement, "ArrowUp"); key(document.activeElement, "ArrowUp");
        report.layer = $("layer").value;
        const run = document.querySelector('#runs [tabindex="0"]');
        run.focus(); report.run = run.textContent;
        key(run, "ArrowRight");
        report.next = document.activeElement.textContent;
        report.checked = [...$("runs").children].map((b) => b.getAttribute("aria-checked"));
        report.reachable = [...document.querySelectorAll("button, select, input, [role=option]")]
          .filter((e) => e.tabIndex === 0).length;
        """,
        tmp_path,
    )
    assert "error" not in report
    assert report["focused"] == ["whole answer", "a", "b", "end", "end", "b", "whole answer"]
    assert report["layer"] == "1"
    assert (report["run"], report["next"]) == ("rave", "none")
    assert report["checked"] == ["true", "false"]
    assert report["reachable"] == 6  # a run, a token, and four controls


def test_runs_and_their_difference(runs, tmp_path):
    report = visit(
        page(runs, layers=[1]),
        """
        options()[1].click();
        report.rave = cells();
        report.choices = [...$("against").options].map((o) => o.textContent);
        $("against").value = "0"; $("against").dispatchEvent(new Event("change"));
        report.change = cells(); report.note = $("note").textContent;
        report.ends = ["low", "middle", "high"].map((id) => $(id).textContent);
        $("runs").children[0].click();
        report.none = cells(); report.against = $("against").value;
        """,
        tmp_path,
    )
    assert "error" not in report
    assert [i for i, c in enumerate(report["rave"]) if close(c, colour(1))] == [2]
    assert report["choices"] == ["attention", "difference to none"]
    assert close(report["change"][2], colour(1, signed=True))
    assert close(report["change"][0], colour(-1, signed=True))
    assert close(report["change"][5], colour(0, signed=True))
    assert report["note"] == "rave minus none: token 1 of 3, “a”"
    assert report["ends"] == ["−50 %", "0", "+50 % a cell"]
    assert [i for i, c in enumerate(report["none"]) if close(c, colour(1))] == [0]
    assert report["against"] == "-1"  # a run is not compared with itself


def test_answers_that_part(runs, tmp_path):
    other = replace(runs[0], tokens=(replace(runs[0].tokens[0], id=99, text="x"), *runs[0].tokens[1:]))
    report = visit(
        page([other, runs[1]], layers=[1]),
        """
        $("against").value = "0"; $("against").dispatchEvent(new Event("change"));
        options()[1].click();
        report.first = $("note").textContent; report.change = cells();
        options()[2].click();
        report.later = $("note").textContent;
        """,
        tmp_path,
    )
    assert "error" not in report
    assert report["first"] == "rave minus none: token 1 of 3, “a”, where none wrote “x”"
    assert close(report["change"][2], colour(1, signed=True))
    assert "The answers differ before this token" in report["later"]


def test_one_range_for_all(runs, tmp_path):
    weights = runs[0].weights.copy()
    weights[1] /= 4
    report = visit(
        page([replace(runs[0], weights=weights)], layers=[1]),
        """
        options()[2].click();
        report.own = cells()[5];
        $("fixed").checked = true; $("fixed").dispatchEvent(new Event("change"));
        report.fixed = cells()[5]; report.high = $("high").textContent;
        """,
        tmp_path,
    )
    assert "error" not in report
    assert close(report["own"], colour(1))
    assert close(report["fixed"], colour(0.25))
    assert report["high"] == "50 % a cell"


def test_text_is_text(tmp_path):
    nasty = planted(np.full((3, 3, 2, 8), 0.1), answer="<\u202e", question="<img src=x onerror=alert(1)> & \u2028")
    report = visit(
        page([nasty]),
        """
        report.title = $("question").textContent; report.tokens = options().map((o) => o.textContent);
        report.images = document.images.length;
        """,
        tmp_path,
    )
    assert "error" not in report
    assert "violation" not in report
    assert report["title"] == "<img src=x onerror=alert(1)> &"
    assert report["tokens"][1] == "<"
    assert report["images"] == 1


@pytest.mark.parametrize("width", [340, 1300])
def test_nothing_is_wider_than_the_window(runs, tmp_path, width):
    host = tmp_path / "host.html"
    host.write_text(
        f"""<iframe id="frame" width="{width}" height="700"></iframe><script>
        const frame = document.getElementById("frame");
        frame.onload = () => {{
          const inner = frame.contentDocument, box = inner.getElementById("heat-0").getBoundingClientRect();
          const side = inner.querySelector("aside").getBoundingClientRect();
          document.body.insertAdjacentHTML("beforeend", '<pre id="report">' + JSON.stringify({{
            window: frame.contentWindow.innerWidth, width: inner.documentElement.scrollWidth, page: box.width,
            below: side.top >= box.bottom, smallest: Math.min(...[...inner.querySelectorAll("[role=option], button")]
              .map((e) => e.getBoundingClientRect().height)) }}) + "</pre>");
        }};
        frame.srcdoc = {json.dumps(page(runs)).replace("<", chr(92) + "u003c")};
        </script>""",
        encoding="utf-8",
    )
    report = read_report(chromium(tmp_path, "--dump-dom", "--window-size=1400,900", host))
    assert report["width"] <= report["window"] <= width
    assert report["page"] >= 300
    assert report["below"] == (width == 340)  # the controls move below the page on a phone
    assert report["smallest"] >= 32  # fingers


def test_dark_mode_is_dark_and_light_mode_light(runs, tmp_path):
    file = tmp_path / "page.html"
    file.write_text(page(runs), encoding="utf-8")
    corners = []
    for feature in ([], ["--force-dark-mode", "--blink-settings=preferredColorScheme=0"]):
        shot = tmp_path / f"shot{len(corners)}.png"
        chromium(tmp_path, *feature, "--window-size=900,700", f"--screenshot={shot}", file)
        with Image.open(shot) as image:
            corners.append(image.convert("L").getpixel((3, 3)))
    assert corners[0] > 240
    assert corners[1] < 60
