"""The page of `rave-mlx serve` in a real browser against a real server: what a person does, and what they see.

Every visit ends with a look at the browser's console: errors, warnings and breaches of the page's own policy are none.
"""

from __future__ import annotations

import base64
import io
import json
import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("playwright")
from browser import CHROMIUM, Visit, axe_source, browsing, serving

from rave_mlx.look.colors import attention_scale

pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed; the page is tested in one")

TOTAL = (326 / 420, 232 / 300, 402 / 420, 258 / 300)
"""Where the sample receipt says 13.60, as shares of its width and height."""
CELL = (16 / 420, 16 / 300)
PDF_SIZE = (320, 200)


@pytest.fixture(scope="module")
def address():
    with serving() as found:
        yield found


@pytest.fixture(scope="module")
def browser():
    with browsing() as found:
        yield found


@pytest.fixture(scope="module")
def person(browser, address):
    """One browser window for all tests: a page that is opened anew knows nothing of what was."""
    found = Visit(browser, address, permissions=["clipboard-read", "clipboard-write"])
    yield found
    found.close()


@pytest.fixture
def here(person):
    person.open()
    yield person
    person.end()


def pdf(*pages):
    """A PDF of small pages with lines of text: (left, baseline from the top, text) in points."""
    canvas = pytest.importorskip("reportlab.pdfgen.canvas")
    out = io.BytesIO()
    drawn = canvas.Canvas(out, pagesize=PDF_SIZE)
    for lines in pages:
        drawn.setFont("Helvetica", 15)
        for left, top, text in lines:
            drawn.drawString(left, PDF_SIZE[1] - top, text)
        drawn.showPage()
    drawn.save()
    return out.getvalue()


REPORT = pdf(
    [(20, 40, "Harbour Cafe"), (20, 90, "Coffee"), (250, 90, "3.40"), (20, 150, "Total"), (250, 150, "13.60")],
    [(20, 40, "Hotel Linde"), (20, 90, "Room"), (250, 90, "88.00"), (20, 150, "Total"), (250, 150, "97.50")],
)


def inside(point, box, around=(0.0, 0.0)):
    (x, y), (left, top, right, bottom) = point, box
    return left - around[0] <= x <= right + around[0] and top - around[1] <= y <= bottom + around[1]


def middle(box):
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def test_a_newcomer_asks_about_the_sample(here):
    page = here.page
    assert page.locator(".drop h2").inner_text() == "Drop a document here"
    here.sample()
    assert page.locator(".chip").all_inner_texts()[0] == "What is the total?"
    page.click(".chip >> nth=0")
    page.wait_for_selector(".answer[aria-busy=false]")
    assert page.locator(".tokens").inner_text() == "13.60"
    assert page.locator(".answer .certainty").inner_text().startswith("sure · 9")
    assert not page.locator(".advice").is_visible()
    assert "visual tokens · read in" in page.locator(".stats").inner_text()
    assert "tokens/s" in page.locator(".stats").inner_text()
    assert "13.60. sure, 9" in page.locator("#announcer").inner_text()  # what a screen reader says
    assert page.locator(".token").first.get_attribute("aria-label").startswith("1, 9")


def test_a_word_shows_where_the_model_looked(here):
    here.sample()
    (answer,) = here.ask("What is the total?")
    assert answer == "13.60"
    drawn = 0
    for number in range(len(answer)):
        here.page.hover(f".token >> nth={number}")
        drawn = here.looked(drawn)
        assert inside(middle(here.box("peak")), TOTAL, CELL), number
        assert inside(here.strongest(), TOTAL, CELL), number
        assert here.page.locator("#note").inner_text().startswith(f"“{answer[number]}” 9")
    opacity = "getComputedStyle(document.querySelector('#stage canvas')).opacity"
    here.page.locator("#opacity").fill("40")
    here.page.click(".token >> nth=0")  # keeps it
    here.page.hover("h1")
    assert here.page.locator(".sheet.looked").count() == 1
    here.until(f"{opacity} == 0.4")
    here.page.click(".token >> nth=0")
    here.page.hover("h1")
    here.until(f"{opacity} == 0")


def test_the_keyboard_alone(here):
    press = here.page.keyboard.press
    for _ in range(20):
        if here.page.evaluate("document.activeElement.id") == "sample":
            break
        press("Tab")
    press("Enter")
    here.until("document.activeElement.id === 'question'")
    here.page.keyboard.type("What is the total?")
    press("Enter")
    here.page.wait_for_selector(".answer[aria-busy=false]")
    for _ in range(20):
        if here.page.evaluate("document.activeElement.matches('.token')"):
            break
        press("Shift+Tab")
    drawn = here.looked()
    press("End")
    here.looked(drawn)
    assert here.page.evaluate("document.activeElement.textContent") == "0"
    assert inside(here.strongest(), TOTAL, CELL)
    outline = here.page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
    assert outline == "3px"
    press("Escape")
    assert here.page.locator(".sheet.looked").count() == 0


def run_copied(here, folder, **environment):
    """Copy the last question as a command for a shell, and run it: the command and the answer, None without curl."""
    here.page.click(".turn:last-child button:text('Copy curl')")
    here.page.wait_for_selector("button:text('Copied')")
    command = here.page.evaluate("navigator.clipboard.readText()")
    if shutil.which("curl") is None:
        return command, None
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, capture_output=True, text=True, check=True, env=os.environ | environment
    )
    return command, json.loads(done.stdout)["choices"][0]["message"]["content"]


def test_a_pdf_is_dropped_and_a_page_of_it_asked_about(here, tmp_path):
    here.drop("stay.pdf", "application/pdf", REPORT)
    here.page.wait_for_selector(".thumb >> nth=1")
    assert here.page.locator(".thumbs .check").all_inner_texts() == ["ask about\npage 1", "ask about\npage 2"]
    here.page.uncheck(".thumbs li:nth-child(1) input")
    here.page.fill("#image-tokens", "300")
    here.page.select_option("#attention", "rave")
    (answer,) = here.ask("What is the total?")
    assert answer == "97.50"
    visual = int(here.page.locator(".stats").inner_text().split()[0])
    assert 200 < visual <= 300
    here.page.hover(".token >> nth=1")
    here.looked()
    assert here.page.locator("#stage img").get_attribute("alt") == "stay.pdf, page 2"
    printed = (250 / 320, 135 / 200, 300 / 320, 155 / 200)
    assert inside(here.strongest(), printed, (0.06, 0.08))
    (tmp_path / "stay.pdf").write_bytes(REPORT)
    assert run_copied(here, tmp_path)[1] in ("97.50", None)
    # A follow-up is a part of the same conversation; other pages begin a new one.
    (room,) = here.ask("How much is the Room?")
    assert room == "88.00"
    assert here.page.locator(".cut").count() == 0
    here.page.check(".thumbs li:nth-child(1) input")
    here.page.uncheck(".thumbs li:nth-child(2) input")
    assert here.ask("What is the total?") == ["13.60"]
    assert here.page.locator(".cut").count() == 1


def test_two_policies_beside_each_other(here):
    here.sample()
    here.page.select_option("#attention", "rave")
    here.page.select_option("#compare", "none")
    answers = here.ask("What is the total?", answers=2)
    assert answers[0] == "13.60"
    assert here.page.locator(".policy").all_inner_texts() == ["rave", "none"]
    verdict = "Both answers are the same." if len(set(answers)) == 1 else "The answers differ: check this on the page."
    assert here.page.locator(".verdict").inner_text() == verdict
    here.page.hover(".answer:nth-child(1) .token >> nth=0")
    here.looked(1)
    assert here.page.locator("#stage figcaption").all_inner_texts() == ["rave", "none"]
    assert inside(here.strongest(0), TOTAL, CELL)
    # The first word of either answer was chosen after the same words, so the other's map is shown beside it.
    maps = here.page.evaluate("[...document.querySelectorAll('#stage canvas')].map((c) => c.toDataURL())")
    assert len(set(maps)) == 2


def test_fields_and_their_places(here):
    here.drop("stay.pdf", "application/pdf", REPORT)
    here.page.wait_for_selector(".thumb >> nth=1")
    here.page.uncheck(".thumbs li:nth-child(1) input")
    here.page.click("#tab-extract")
    here.page.click(".field:nth-child(2) .remove")
    here.page.click("#add-field")
    here.page.keyboard.type("room")
    here.page.click("#extract-send")
    here.page.wait_for_selector(".values")
    rows = here.page.locator(".values tbody tr").all_inner_texts()
    assert [row.split()[:2] for row in rows] == [["total", "97.5"], ["room", "88.00"]]
    here.page.click("button.value >> nth=0")
    left, top, right, bottom = here.box("place")
    # Helvetica of 15 points: its digits are 0.72 of that high, "97.50" is 37.5 points wide.
    assert (left * 320, right * 320) == pytest.approx((250, 287.5), abs=4)
    assert (top * 200, bottom * 200) == pytest.approx((139, 150), abs=5)
    assert "page 2" in here.page.locator("#note").inner_text()


def test_rows_of_a_table_and_their_places(here):
    stock = Path(__file__).parents[2] / "examples" / "documents" / "stock.png"
    if not stock.exists():
        pytest.skip("not in a checkout")
    page = here.page
    here.drop("stock.png", "image/png", stock.read_bytes())
    page.wait_for_selector("#stage img")
    page.click("#tab-extract")
    page.click(".field:nth-child(2) .remove")
    page.fill(".field:nth-child(1) .name", "items")
    page.select_option(".field:nth-child(1) .kind >> nth=0", "rows")
    page.fill(".columns .name", "Item")
    page.click(".rows-part button:text('Add column'):visible")
    page.keyboard.type("Qty")
    page.select_option(".columns li:nth-child(2) .kind", "integer")
    page.click("#extract-send")
    page.wait_for_selector("table.rows")
    assert page.locator("table.rows caption").inner_text().startswith("items · 3 rows")
    cells = page.locator("table.rows .value").evaluate_all("(all) => all.map((e) => e.firstChild.data)")
    cells[3] = cells[3][:3]  # the built-in model may read the number twice
    assert cells == ["Hammer", "12", "Screws", "240", "Paint", "8"]
    page.click("table.rows button.value:text('240')")
    left, top, right, bottom = here.box("place")
    assert 0.46 < left < right < 0.57  # the second column
    assert 0.66 < (top + bottom) / 2 < 0.76  # the second of three rows


def test_a_schema_is_built_and_pasted(here):
    here.sample()
    page = here.page
    page.click("#tab-extract")
    page.click("#add-field")
    page.keyboard.type("items")
    page.select_option(".field:nth-child(3) .kind >> nth=0", "rows")
    page.fill(".columns .name", "price")
    page.select_option(".columns .kind", "number")
    page.click(".rows-part button:text('Add column'):visible")
    page.keyboard.type("name")
    page.check("#by-json")
    assert json.loads(page.input_value("#schema-text")) == {
        "type": "object",
        "properties": {
            "total": {"type": "number"},
            "date": {"type": "string", "format": "date"},
            "items": {
                "type": "array",
                "items": {"type": "object", "properties": {"price": {"type": "number"}, "name": {"type": "string"}}},
            },
        },
    }
    page.check("#by-form")
    assert [e.input_value() for e in page.locator("#fields .name").all()] == ["total", "date", "items", "price", "name"]
    page.check("#by-json")
    page.fill("#schema-text", '{"type": "object", "properties": {"a": {"not": {}}}}')
    page.click("#by-form")
    assert page.locator("#schema-error").inner_text().startswith("This schema says more than the form can show")
    assert page.is_checked("#by-json")
    page.click("#extract-send")
    page.wait_for_selector(".result .error:visible")
    assert "not" in page.locator(".result .error").inner_text()  # the server's words, where it happened
    here.wrong.clear()  # browsers write every status of 400 to the console
    page.fill("#schema-text", "{")
    page.click("#extract-send")
    assert page.locator("#schema-error").inner_text().startswith("The schema is no JSON")


def test_text_is_read_and_is_text(here):
    here.drop(
        "<b>bold</b>.pdf", "application/pdf", pdf([(20, 60, "Total 13.60"), (20, 120, "Harbour Cafe")]), paste=True
    )
    here.page.wait_for_selector("#stage img")
    assert here.page.locator("#documents .name").inner_text() == "<b>bold</b>.pdf"
    here.page.click("#tab-read")
    here.page.click("#read-send")
    here.page.wait_for_selector(".block")
    lines = here.page.locator(".block p").all_inner_texts()
    assert lines == ["Total 13.60", "Harbour Cafe"]
    here.page.hover(".block >> nth=0")
    assert inside((60 / 320, 55 / 200), here.box("place"), (0.02, 0.03))


def test_nothing_is_left_after_a_reload(here):
    here.sample()
    here.ask("What is the total?")
    here.page.fill("#question", "something private")
    here.page.reload()
    here.until("document.querySelector('#model').options.length > 0")
    assert here.page.locator("#turns li, #documents section, #stage img").count() == 0
    assert here.page.input_value("#question") == ""
    kept = here.page.evaluate("""async () => [localStorage.length, sessionStorage.length, document.cookie,
        (await indexedDB.databases()).length, (await caches.keys()).length, history.state]""")
    assert kept == [0, 0, "", 0, 0, None]
    assert here.context.cookies() == []


def test_a_phone_scrolls_down_only(browser, address):
    here = Visit(browser, address, width=390, height=844, has_touch=True, is_mobile=True)
    here.open()
    page = here.page

    def too_wide():
        """How far the page is wider than the screen of a phone and of a small one, with any of its tabs open."""
        found = []
        for width in (320, 390):
            page.set_viewport_size({"width": width, "height": 844})
            for tab in page.locator("[role=tab]").all():
                tab.tap()
                found.append(
                    page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                )
        page.tap("#tab-ask")
        return max(found)

    assert too_wide() == 0
    here.sample()
    page.tap("#settings summary")
    page.select_option("#compare", "none")
    page.tap("#settings summary")
    here.ask("What is the total?", answers=2)
    page.tap(".token >> nth=0")
    here.looked()
    in_sight = "(e) => { const b = e.getBoundingClientRect(); return b.top >= 0 && b.bottom <= innerHeight; }"
    assert page.locator(".token").first.evaluate(in_sight)
    assert page.locator("#stage").evaluate(in_sight)  # the word and its map at once
    page.tap("#tab-extract")
    page.tap("#extract-send")
    page.wait_for_selector(".values")
    assert too_wide() == 0
    here.close()


def test_no_serious_violation_of_accessibility(here, pytestconfig):
    source = axe_source(pytestconfig.cache.mkdir("axe"))
    page = here.page

    def serious(what):
        found = []
        for scheme, options in (("light", "{}"), ("dark", '{runOnly: ["color-contrast"]}')):
            page.emulate_media(color_scheme=scheme)
            violations = page.evaluate(f"axe.run(document, {options}).then((r) => r.violations)")
            found += [
                (what, scheme, v["id"], n["target"])
                for v in violations
                for n in v["nodes"]
                if v["impact"] in ("serious", "critical")
            ]
        page.emulate_media(color_scheme="light")
        return found

    page.emulate_media(reduced_motion="reduce")  # colours are measured when they have settled
    page.evaluate(source)
    found = serious("empty")
    here.sample()
    here.drop("stay.pdf", "application/pdf", REPORT)
    page.wait_for_selector(".thumb >> nth=2")
    for page_of_pdf in page.locator(".thumbs input").all()[1:]:
        page_of_pdf.uncheck()
    here.ask("What is the total?")
    page.click(".token >> nth=0")
    here.looked()
    found += serious("conversation")
    page.click("#tab-extract")
    page.click("#extract-send")
    page.wait_for_selector(".values")
    page.click("button.value >> nth=0")
    found += serious("fields")
    page.click("#tab-read")
    page.click("#read-send")
    page.wait_for_selector(".block")
    assert found + serious("text") == []


def test_errors_are_said_where_they_happened(here):
    here.page.fill("#question", "What is the total?")
    here.page.press("#question", "Enter")
    assert here.page.locator("#ask-error").inner_text().startswith("There is no page to ask about")
    assert here.page.input_value("#question") == "What is the total?"
    here.drop("broken.pdf", "application/pdf", b"%PDF-1.7 nothing more")
    here.page.wait_for_selector("#documents-error:visible")
    assert here.page.locator("#documents-error").inner_text().startswith("broken.pdf: ")
    here.sample()
    here.page.select_option("#attention", "custom …")
    here.page.fill("#attention-custom", "nonsense")
    here.page.fill("#question", "What is the total?")
    here.page.press("#question", "Enter")
    here.page.wait_for_selector(".answer .error:visible")
    assert "nonsense" in here.page.locator(".answer .error").inner_text()
    here.wrong.clear()  # browsers write every status of 400 to the console


def test_an_answer_is_stopped(here):
    here.sample()
    here.page.fill("#question", "What is the total?")
    here.page.evaluate("document.querySelector('#send').click(); document.querySelector('#stop').click()")
    here.page.wait_for_selector(".answer[aria-busy=false]")
    assert here.page.locator(".stats").inner_text() == "Stopped."
    assert here.page.locator(".answer .error:visible").count() == 0
    assert here.ask("What is the total?") == ["13.60"]


def test_events_are_read_however_they_are_cut(here):
    """The text of the HTML standard's examples, in pieces of every size."""
    text = (
        ': comment\n\ndata: YHOO\ndata: +2\r\ndata:10\n\nid: 1\ndata\r\rdata:é {"a": 1}\r\n\r\ndata:  two\n\ndata: cut'
    )
    found = here.page.evaluate(
        """async (text) => {
          const { events } = await import("/page/api.js"), bytes = new TextEncoder().encode(text), out = [];
          for (const size of [1, 2, 3, 5, 8, 1000]) {
            const pieces = [];
            for (let i = 0; i < bytes.length; i += size) pieces.push(bytes.slice(i, i + size));
            const found = [], pull = (to) => (pieces.length ? to.enqueue(pieces.shift()) : to.close());
            for await (const data of events(new ReadableStream({ pull }))) found.push(data);
            out.push(found);
          }
          return out;
        }""",
        text,
    )
    assert found == [["YHOO\n+2\n10", "", 'é {"a": 1}', " two"]] * 6


def test_colours_are_those_of_look(here):
    table = here.page.evaluate("import('/page/colors.js').then((m) => [...m.attentionScale()])")
    assert np.abs(np.array(table).reshape(256, 3) - attention_scale().astype(int)).max() <= 1


def test_a_key_is_asked_for_and_not_kept(person, tmp_path):
    """And the command that is copied asks the same as the page, with the key from where scripts have it."""
    here = person
    with serving(RAVE_MLX_API_KEY="correct-horse") as address:
        here.open(address)
        here.sample()
        here.page.fill("#question", "What is the $HOME `total`?")
        here.page.press("#question", "Enter")
        here.page.wait_for_selector(".answer .error:visible")
        assert "key" in here.page.locator(".answer .error").inner_text()
        here.wrong.clear()  # browsers write every status of 401 to the console
        here.page.fill("#key", "correct-horse")
        (answer,) = here.ask("What is the $HOME `total`?")
        assert answer
        picture = here.page.evaluate("document.querySelector('#stage img').src.split(',')[1]")
        (tmp_path / "sample-receipt.png").write_bytes(base64.b64decode(picture))
        command, said = run_copied(here, tmp_path, RAVE_MLX_API_KEY="correct-horse")
        assert "correct-horse" not in command
        assert said in (answer, None)
        here.open(address)
        assert here.page.input_value("#key") == ""
        here.page.goto("about:blank")
    here.end()
