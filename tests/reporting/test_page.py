"""The page in a browser: it shows what there is, nothing in it acts, and nothing leaves it."""

import gzip
import re
import time
from base64 import b64decode

import numpy as np
import pytest
from report_folders import ACTIVE, pool, write_scored

import hf_instructmine as him
from hf_instructmine.reporting.page import is_ours


@pytest.fixture(scope="module")
def page_file(mined, tmp_path_factory):
    return him.report(mined, tmp_path_factory.mktemp("page") / "report.html")


@pytest.fixture
def tab(browser, page_file):
    """The page in a window of 1280 by 900, with the table of rows. What it says on the console fails the test."""
    with opened(browser, page_file) as page:
        yield page


class opened:
    """A page in a window of its own; on leaving it, whatever was on the console or asked of a network fails."""

    def __init__(self, browser, path, **options):
        self.context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        self.page, self.said, self.asked = self.context.new_page(), [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: self.said.append(f"a dialog: {dialog.message}"))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.path = path

    def __enter__(self):
        self.page.goto(self.path.as_uri())
        self.page.wait_for_selector("#rows-body tr")
        return self.page

    def __exit__(self, *_):
        title = self.page.title()
        self.context.close()
        assert self.said == []
        assert [url for url in self.asked if not url.startswith("data:image/svg+xml")] == [self.path.as_uri()]
        assert title == "What was selected, why, and what it is worth"


def cells(tab, column: str) -> list[str]:
    return tab.locator(f"#rows-body td.{column}").all_inner_texts()


def numbers(tab) -> list[int]:
    return [int(text) for text in tab.locator("#rows-body th").all_inner_texts()]


def until(tab, condition: str) -> None:
    """Waits; `wait_for_function` evaluates text inside of the page, which its policy forbids."""
    ends = time.monotonic() + 15
    while not tab.evaluate(condition):
        assert time.monotonic() < ends, condition
        tab.wait_for_timeout(20)


def status(tab, text: str) -> None:
    until(tab, f"document.getElementById('status').textContent.startsWith({text!r})")


# --- What is shown ------------------------------------------------------------------------------------------------


def test_every_section_is_there_in_its_order(tab):
    assert tab.locator("section").evaluate_all("all => all.map((one) => one.id)") == [
        "verdict", "path", "rule", "predictions", "composition", "size", "comparison", "runs", "evaluation", "judge",
        "rows-section",
    ]  # fmt: skip
    assert "Selected 20 rows of 60 (33.3%)" in tab.inner_text("#verdict")
    assert "exact duplicate" in tab.inner_text("#path") and "log(mtld)" in tab.inner_text("#rule")
    assert "<i>mine</i> wins 3 of 4" in tab.inner_text("#judge")
    figures = tab.locator("figure img").evaluate_all("all => all.map((one) => [one.naturalWidth, one.alt.length])")
    assert len(figures) == 4 and all(width > 400 and alt > 20 for width, alt in figures)


def test_each_row_says_what_became_of_it_and_what_decided(tab):
    tab.fill("#page", "3")
    tab.dispatch_event("#page", "change")
    until(tab, "document.querySelector('#rows-body th').textContent === '50'")
    first = tab.locator("#rows-body tr").first
    assert "✗ exact duplicate" in first.inner_text()
    assert "reward" in first.locator(".why").inner_text() and "−" in first.locator(".why").inner_text()
    assert tab.locator("#of").inner_text() == "of 3" and len(numbers(tab)) == 10
    assert tab.locator("#next").is_disabled() and tab.locator("#first").is_enabled()


# --- Search, filters, order ---------------------------------------------------------------------------------------


def test_search_reads_prompts_and_responses_whatever_their_case(tab):
    tab.fill("#search", "QUESTION 41 of")
    status(tab, "1 of 60 rows")
    assert numbers(tab) == [41]
    tab.fill("#search", pool()[30]["completion"].split()[4].upper())
    status(tab, "")
    until(tab, "![...document.querySelectorAll('#rows-body th')].some((one) => one.textContent === '41')")
    assert 30 in numbers(tab)
    tab.fill("#search", "</script>")
    until(tab, "document.querySelectorAll('#rows-body tr').length === 2")
    tab.fill("#search", "no row holds this")
    status(tab, "0 of 60 rows")
    assert numbers(tab) == []


def test_decision_and_source_are_filtered(tab):
    tab.select_option("#decision", label="selected")
    status(tab, "20 of 60 rows")
    assert set(cells(tab, "decision")) == {"✓ selected"}
    tab.select_option("#source", label="web")
    until(tab, "!document.getElementById('status').textContent.startsWith('20')")
    assert set(cells(tab, "source")) == {"web"} and set(cells(tab, "decision")) == {"✓ selected"}


def test_any_column_sorts_both_ways_and_what_is_not_known_is_last(tab):
    head = "#rows-head th:nth-child(4)"
    for way in ("ascending", "descending"):
        tab.click(f"{head} button")
        tab.wait_for_selector(f"{head}[aria-sort={way}]")
        tab.click("#last")
        until(tab, "document.getElementById('page').value === '3'")
        assert tab.locator("#rows-body tr td:nth-child(4)").all_inner_texts()[-2:] == ["not known", "not known"]
        tab.click("#first")
        shown = [float(text) for text in tab.locator("#rows-body tr td:nth-child(4)").all_inner_texts()]
        assert shown == sorted(shown, reverse=way == "descending")
    for kind in ("prompt", "response", "source", "contribution of reward"):
        tab.select_option("#sort", label=kind)
    until(tab, "document.getElementById('sort').selectedOptions[0].label.startsWith('contribution')")
    tab.select_option("#sort", label="prompt")
    tab.wait_for_selector("#rows-head th.prompt[aria-sort]")
    until(tab, "document.querySelectorAll('#rows-body tr').length === 25")


# --- One row, and the keyboard ------------------------------------------------------------------------------------


def test_a_row_is_opened_by_a_click_and_closed_by_escape(tab):
    tab.click("#rows-body tr:nth-child(4) td.prompt")
    tab.wait_for_selector("#detail[open]")
    assert tab.inner_text("#detail-title").startswith("Row 3: ")
    assert "log(mtld)" in tab.inner_text("#detail-body") and "Predicted log loss" in tab.inner_text("#detail-body")
    tab.click("#detail-next")
    until(tab, "document.getElementById('detail-title').textContent.startsWith('Row 4:')")
    tab.keyboard.press("Escape")
    tab.wait_for_selector("#detail", state="hidden")
    until(tab, "document.activeElement.textContent === '4'")


def test_the_keyboard_alone_goes_through_the_rows(tab):
    tab.focus("#rows-body tr:first-child button")
    for key in ("ArrowDown", "ArrowDown", "ArrowUp"):
        tab.keyboard.press(key)
    assert tab.evaluate("document.activeElement.textContent") == "1"
    tab.keyboard.press("PageDown")
    until(tab, "document.activeElement.textContent === '25'")
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#detail[open]")
    assert tab.inner_text("#detail-title").startswith("Row 25: ")
    assert tab.evaluate("document.activeElement.id") == "detail-close"


def test_what_has_the_focus_is_seen(tab):
    for selector in ("#search", "#theme", "nav a", "#rows-body button"):
        tab.locator(selector).first.focus()
        tab.keyboard.press("Tab")
        tab.keyboard.press("Shift+Tab")
        width = tab.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert width == "3px"


# --- Nothing acts -------------------------------------------------------------------------------------------------


def test_hostile_text_is_text(tab):
    shown = tab.locator("#rows-body .prompt .snippet").all_inner_texts()
    assert shown[0] == "<script>alert(1)</script>" and shown[2] == "{{ 7777777*7 }}"
    assert tab.locator("script").count() == 4  # the rows, their numbers, a block of texts, and our own
    assert tab.locator("img").count() == tab.locator("figure img").count()
    assert "<b>mine</b>{{ 7 }}" in tab.inner_text("#rule h2")
    turned = next(n for n, text in enumerate(ACTIVE) if text.startswith("\u202e") and "left" in text)
    assert shown[turned] == "�right to left�"
    assert not re.search("[\x00\x1b\u202e\u2066]", tab.inner_text("body"))


def test_a_row_of_a_million_characters_is_cut_and_said_to_be(tab):
    assert "cut at 2,000 characters" in tab.inner_text("#rows-section")
    tab.fill("#search", "yyyyy")
    status(tab, "1 of 60 rows")
    tab.click("#rows-body tr td.prompt")
    assert len(tab.locator("#detail-body pre").nth(1).inner_text()) == 2001
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_script_that_is_not_ours_does_not_run(browser, page_file, tmp_path):
    text = page_file.read_text("utf-8").replace("<h1>", "<script>document.title = 'acted'</script><h1>", 1)
    path = tmp_path / "changed.html"
    path.write_text(text, "utf-8")
    context = browser.new_context()
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.goto(path.as_uri())
    page.wait_for_selector("#rows-body tr")
    assert page.title() != "acted" and any("Content Security Policy" in text for text in said)
    context.close()


def test_nothing_of_this_machine_is_in_the_page(page_file, tmp_path):
    import getpass
    from pathlib import Path

    text = page_file.read_text("utf-8")
    packed = re.findall(r'(?:octet-stream" id="[\w-]+">|base64,)([\w+/=]+)', text)
    held = [text]
    for piece in packed:
        content = b64decode(piece)
        held.append((gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content).decode("utf-8", "replace"))
    user = getpass.getuser()
    for one in held:
        assert str(tmp_path.parent.parent) not in one and str(Path.cwd()) not in one
        assert f"/{user}/" not in one and str(Path.home()) + "/" not in one
    own = re.sub(r"base64,[\w+/=]+|<script.*?</script>", "", text, flags=re.DOTALL)
    assert "http" not in own.replace("http-equiv", "")


def test_a_page_of_ours_is_known_as_such(page_file, tmp_path):
    other = tmp_path / "other.html"
    other.write_text("<title>mine</title>")
    assert is_ours(page_file) and not is_ours(other)


# --- Colours, widths, paper ---------------------------------------------------------------------------------------

# Relative luminance and contrast by WCAG 2.2 of each element that has text of its own.
_CONTRASTS = """() => {
  const channel = (v) => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const read = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const behind = (one) => {
    for (let at = one; at; at = at.parentElement) {
      const colour = read(getComputedStyle(at).backgroundColor);
      if (colour.length < 4 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.body.querySelectorAll('*')]
    .filter((one) => one.checkVisibility() && !one.disabled
      && [...one.childNodes].some((node) => node.nodeType === 3 && node.data.trim()))
    .map((one) => {
      const [a, b] = [light(read(getComputedStyle(one).color)), light(behind(one))].sort((x, y) => y - x);
      return [(a + 0.05) / (b + 0.05), one.tagName + '#' + one.id + '.' + one.className];
    });
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_of_aa_in_either_scheme(browser, page_file, scheme):
    with opened(browser, page_file, color_scheme=scheme) as tab:
        tab.click("#rows-body tr td.prompt")
        found = tab.evaluate(_CONTRASTS)
        assert len(found) > 100 and [one for one in found if one[0] < 4.5] == []
        back = tab.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (back == "rgb(255, 255, 255)") == (scheme == "light")


def test_the_button_changes_the_colours(tab):
    colours = []
    for _ in range(3):
        tab.click("#theme")
        colours.append(tab.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours[0] == colours[2] == "rgb(255, 255, 255)" != colours[1]


@pytest.mark.parametrize("width", [320, 390, 768])
def test_on_a_phone_nothing_but_tables_is_wider_than_the_window(browser, page_file, width):
    with opened(browser, page_file, viewport={"width": width, "height": 800}) as tab:
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        tab.click("#rows-body tr td.prompt")
        assert tab.evaluate("document.getElementById('detail').getBoundingClientRect().width") <= width


def test_on_paper_there_is_no_button_and_no_dark(browser, page_file):
    with opened(browser, page_file, color_scheme="dark", viewport={"width": 718, "height": 1000}) as tab:
        tab.emulate_media(media="print", color_scheme="dark")
        assert tab.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--back')") == "#ffffff"
        assert not tab.locator("#filters").is_visible() and not tab.locator("#theme").is_visible()
        widths = tab.evaluate("[...document.querySelectorAll('.scroll table')].map((one) => one.offsetWidth)")
        assert max(widths) <= 718


def test_every_control_has_a_name(tab):
    nameless = """() => [...document.querySelectorAll('button, input, select, img, [role=region], dialog')]
      .filter((one) => !(one.ariaLabel || one.alt || one.textContent.trim() || one.labels?.length
        || one.getAttribute('aria-labelledby'))).map((one) => one.outerHTML)"""
    assert tab.evaluate(nameless) == []


# --- A large pool -------------------------------------------------------------------------------------------------


def test_a_hundred_thousand_rows_open_in_three_seconds_and_answer_meanwhile(browser, tmp_path):
    words = np.array([f"{'aeiou'[n % 5]}word{n}" for n in range(5000)])
    drawn = np.random.default_rng(0).integers(0, len(words), (5000, 30))
    texts = [" ".join(words[row]) for row in drawn]
    n = 100_000
    rows = {
        "prompt": [f"{k} {texts[k % 4999]}" for k in range(n)], "completion": [texts[7 * k % 5000] for k in range(n)],
        "source": [f"https://a.page/{k}" for k in range(n)], "mtld": np.random.default_rng(1).lognormal(size=n),
    }  # fmt: skip
    write_scored(rows, tmp_path / "scored")
    him.LossEstimator.from_coefficients({"mtld": 0.1}).save_pretrained(tmp_path / "rule")
    page = him.report(tmp_path)
    assert page.stat().st_size < 25_000_000
    with opened(browser, page) as tab:
        assert tab.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime") < 3000
        assert tab.inner_text("#status") == "100,000 of 100,000 rows, 1 to 25 shown"
        tab.evaluate("""() => {
          globalThis.longest = 0;
          let last = performance.now();
          setInterval(() => { longest = Math.max(longest, performance.now() - last); last = performance.now(); }, 10);
        }""")
        tab.fill("#search", "99998 ")
        status(tab, "1 of 100,000 rows")
        tab.fill("#search", "")
        status(tab, "100,000 of 100,000 rows")
        tab.select_option("#sort", label="prompt")
        tab.click("#last")
        until(tab, "document.getElementById('page').value === '4000'")
        assert tab.locator("#source option[disabled]").inner_text() == "(99,800 smaller ones)"
        assert tab.evaluate("longest") < 1000  # milliseconds


# --- Browsers that lack something ---------------------------------------------------------------------------------


def test_a_browser_that_cannot_unpack_is_told_which_can(browser, page_file):
    context = browser.new_context()
    context.add_init_script("delete globalThis.DecompressionStream")
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert "DecompressionStream" in page.inner_text("#trouble") and page.locator("#verdict").is_visible()
    context.close()


def test_without_scripts_all_but_the_table_is_there(browser, page_file):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(page_file.as_uri())
    assert "needs JavaScript" in page.inner_text("#rows-section") and page.locator("#rule").is_visible()
    context.close()
