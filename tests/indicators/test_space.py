"""The pages of the measurements and of the whole: what they read, show and refuse; and a visitor's text is text."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
from tiny_models import CHATML, byte_tokenizer, causal_model, save

from hf_instructmine import LossEstimator, load_sample_pool
from hf_instructmine.indicators import space


gradio = pytest.importorskip("gradio", reason="pip install 'hf-instructmine[app]'")
ROOT = Path(__file__).parents[2]
HOSTILE = [
    "<script>window.acted=1</script>",
    "<img src=x onerror='window.acted=1'>",
    "[a](javascript:window.acted=1)",
    "</script><svg onload=window.acted=1>",
    "{{ 7*7 }}",
    "$$\\href{javascript:window.acted=1}{x}$$",
]


@pytest.fixture(autouse=True)
def alone(monkeypatch):
    """Neither counts of visits nor a tunnel."""
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")


def written(path: Path, rows: list[dict]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(path)


def app(folder: str) -> dict:
    return runpy.run_path(str(ROOT / folder / "app.py"))


@pytest.fixture
def visit(browser):
    """Opens a page and gives it, with what went wrong in it and whom it asked for something."""
    opened = []

    def start(blocks):
        _, url, _ = blocks.launch(**space.settings(), prevent_thread_lock=True, quiet=True, server_port=None)
        page, wrong = browser.new_page(), []
        opened.append((blocks, page))
        page.on("console", lambda said: said.type == "error" and wrong.append(said.text))
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda asked: url in asked.url or ":" in asked.url[:5] or wrong.append(asked.url))
        page.goto(url)
        return page, wrong

    yield start
    for blocks, page in opened:
        page.close()
        blocks.close()


def test_files_are_read_in_any_layout_and_as_the_page_names_its_columns(tmp_path):
    rows = [{"prompt": "a", "response": "b"}, {"prompt": "c", "response": None}]
    assert space.read_rows(written(tmp_path / "rows.jsonl", rows)) == ([("a", "b")], ["row 1: missing response"])
    alpaca = [{"instruction": "a", "input": "of it", "output": "b"}] * (space.MAX_ROWS + 1)
    found, _ = space.read_rows(written(tmp_path / "alpaca.jsonl", alpaca))
    assert len(found) == space.MAX_ROWS and found[0][1] == "b" and "of it" in found[0][0]


def test_a_mistake_is_one_line_of_text_that_a_visitor_can_act_on(tmp_path):
    path = written(tmp_path / "rows.jsonl", [{"<b>x</b>": 1}])
    with pytest.raises(gradio.Error, match="no known layout: the columns are &#x27;&lt;b&gt;x") as error:
        space.in_one_line(space.read_rows)(path)
    assert "columns={" not in error.value.message and "\n" not in error.value.message


def test_means_and_medians_are_of_the_rows_that_have_a_score():
    assert space.told({"mtld": [1.0, 2.0, 6.0, np.nan]}) == (
        "- **mtld**: mean 3, median 2 of 3 rows; 1 row could not be scored"
    )
    assert space.told({"mtld": [np.nan]}) == "- **mtld**: no score of 0 rows; 1 row could not be scored"
    assert len(space.histogram({"a": [1.0, np.nan], "b": [np.nan]}).axes) == 2


def test_a_cheap_measurement_scores_what_a_visitor_opens_and_shows_it_as_text(visit, tmp_path):
    page, wrong = visit(app("metrics/mtld")["space"])
    page.get_by_role("button", name="Score").click()
    page.get_by_text("of 3 rows").wait_for()
    rows = [{"prompt": text, "response": f"{text} and a few words more"} for text in HOSTILE]
    page.locator("input[type=file]").first.set_input_files(written(tmp_path / "rows.jsonl", rows))
    page.get_by_text(HOSTILE[0]).first.wait_for()
    page.get_by_role("button", name="Score").click()
    page.get_by_text(f"of {len(rows)} rows").wait_for()
    assert page.get_by_text(HOSTILE[1]).count() >= 2  # to be scored, and scored
    assert page.evaluate("window.acted") is None
    assert wrong == []


def test_a_measurement_with_a_model_says_which_row_has_no_score(visit, tmp_path, monkeypatch):
    tokenizer = byte_tokenizer(chat_template=CHATML)
    monkeypatch.setenv("MODEL", save(tmp_path / "model", causal_model("llama", tokenizer), tokenizer))
    page, wrong = visit(app("metrics/perplexity")["space"])
    page.get_by_role("button", name="Score").click()
    page.get_by_text("of 3 rows; 1 row could not be scored").wait_for()
    assert page.locator("img[src*='webp'], img[src*='png'], img[src^='data:']").count()
    assert wrong == []


def test_the_whole_chooses_by_a_strategy_and_says_that_it_is_no_rule():
    page = app("spaces/instructmine")
    told, _, texts, place = page["select"](None, "longest responses", None, 5, 0)
    assert told.startswith("**This is no rule.**") and "5 of 400 rows" in told
    rows = [json.loads(line) for line in Path(place).read_text("utf-8").splitlines()]
    longest = sorted(load_sample_pool(), key=lambda row: -len(row["output"]))[:5]
    assert {row["output"] for row in rows} == {row["output"] for row in longest}
    assert len(texts) == 5
    again = [page["select"](None, "at random", None, 5, 1)[2] for _ in range(2)]
    assert again[0] == again[1] != texts


def test_the_whole_chooses_by_a_rule_where_the_pool_has_its_columns(tmp_path):
    page = app("spaces/instructmine")
    LossEstimator.from_coefficients({"mtld": -0.01}).save_pretrained(tmp_path / "rule")
    rule = str(tmp_path / "rule" / "estimator.json")
    told, _, texts, _ = page["select"](None, page["RULE"], rule, 7, 0)
    assert "hand-set: nothing is known of how well it predicts" in told and len(texts) == 7
    choose = space.in_one_line(page["select"])
    with pytest.raises(gradio.Error, match=r"open an estimator\.json"):
        choose(None, page["RULE"], None, 7, 0)
    Path(rule).write_text("{", encoding="utf-8")
    with pytest.raises(gradio.Error, match=r"estimator\.json"):
        choose(None, page["RULE"], rule, 7, 0)
    with pytest.raises(gradio.Error, match="500"):
        choose(None, "longest responses", None, 500, 0)


def test_the_whole_opens_in_a_browser(visit):
    page, wrong = visit(app("spaces/instructmine")["build"]())
    page.get_by_role("button", name="Select").click()
    page.get_by_text("20 of 400 rows").wait_for()
    page.get_by_text("selected").first.wait_for()
    assert wrong == []
