"""Rows and names of every hostile kind go the whole way, come out unchanged, and are text wherever they are shown."""

import re

import numpy as np
import pytest
from datasets import Dataset, load_dataset
from hostile import HOSTILE, NAMES, foreign
from huggingface_hub import DatasetCard, ModelCard
from simulated_runs import simulated_runs

import hf_instructmine as him
from hf_instructmine.estimator.file import rule_digest


CALM = [f"calm {i}" for i in range(len(NAMES))]
STRATEGIES = [name for name in NAMES if name not in HOSTILE][::6]


def fitted(name: str) -> him.LossEstimator:
    runs = simulated_runs(n=40, seed=1)
    runs["base_model"] = name
    return him.LossEstimator.fit(runs, indicators=["mtld"], select="none", name=name, permutations=10, bootstraps=10)


def compared(rule: him.LossEstimator, names: list[str]) -> him.StrategyComparison:
    """Finetunes that are made up."""
    rng = np.random.default_rng(0)
    rows = [
        {
            "mixture_id": f"{name}-{seed}", "seed": seed, "strategy": name, "amount": "tokens=100", "status": "done",
            "reason": "", "subset_size": 3, "subset_tokens": 99, "steps": 4, "seconds": 1.0, "base_model": names[0],
            "example_nll_tests": (rng.normal(2.5, 0.02, 8) * 30).tolist(), "example_tokens_tests": [30] * 8,
        }
        for name in (*names, "random") for seed in range(3)
    ]  # fmt: skip
    return him.StrategyComparison(Dataset.from_list(rows), [*names, "random"], chosen_by={names[0]: rule_digest(rule)})


def answer(name: str) -> str:
    return f"said {name} twice {name}"


def gone_the_way(names: list[str], strategies: list[str], folder) -> him.Selection:
    """Scored, fitted, selected, compared and saved, with these names for rows, sources, rule and strategies."""
    rows = {
        "prompt": [f"{n} say it" for n in names],
        "completion": [f"said {n} twice {n}" for n in names],
        "source": names,
    }
    pool = Dataset.from_dict({**rows, f"note {names[3]}": names})
    scored = him.score(pool, [him.MTLD()], folder / "scored")
    rule = fitted(names[5])
    rule.save_pretrained(folder / "rule")
    selection = him.Selector(rule).select(scored, size=len(names) // 2, allow_mismatch=True)
    selection.attach_evidence(compared(rule, strategies))
    selection.describe(pretty_name=names[7])
    selection.save_to_disk(folder / "curated")
    return selection


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for kind, names, strategies in (("hostile", NAMES, STRATEGIES), ("calm", CALM, CALM[: len(STRATEGIES)])):
        folder = tmp_path_factory.mktemp(kind)
        gone_the_way(names, strategies, folder)
        made[kind] = folder
    return made


def test_every_row_comes_out_as_it_went_in(folders, tmp_path):
    rows = load_dataset(str(folders["hostile"] / "curated"), split="train", cache_dir=tmp_path)
    assert len(rows) == len(NAMES) // 2
    for row in rows:
        assert row["source"] in NAMES
        assert (row["prompt"], row["completion"]) == (
            f"{row['source']} say it",
            f"said {row['source']} twice {row['source']}",
        )
        assert row[f"note {NAMES[3]}"] == row["source"]
    again = him.Selection.load(folders["hostile"] / "curated")
    assert again.dataset.to_list() == rows.to_list()


@pytest.mark.parametrize("card", ["curated/README.md", "rule/README.md"])
def test_nothing_of_them_acts_in_a_card(card, folders):
    pytest.importorskip("linkify_it", reason="pip install markdown-it-py linkify-it-py")
    kind = DatasetCard if card.startswith("curated") else ModelCard
    hostile, calm = (kind.load(folders[name] / card) for name in ("hostile", "calm"))
    assert foreign(hostile.text, calm.text) == []
    assert not {"\x1b", "\x9b", "\u202e", "\u2067", "\x00"} & set(hostile.content)


def test_the_metadata_says_what_it_says_of_others(folders):
    hostile, calm = (DatasetCard.load(folders[name] / "curated/README.md").data.to_dict() for name in folders)
    assert hostile.keys() == calm.keys() and hostile["tags"] == calm["tags"] and "license" not in hostile
    assert [feature["dtype"] for feature in hostile["dataset_info"]["features"]] == [
        feature["dtype"] for feature in calm["dataset_info"]["features"]
    ]


def test_what_is_printed_is_text(folders):
    told = str(him.Selection.load(folders["hostile"] / "curated"))
    assert not {"\x1b", "\x9b", "\u202e", "\u2067", "\x00"} & set(told)


def test_the_report_of_them_shows_text_and_asks_nobody(folders, browser):
    page, wrong = browser.new_page(), []
    page.on("console", lambda said: wrong.append(said.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("dialog", lambda asked: (wrong.append(asked.message), asked.dismiss()))
    page.on("request", lambda sent: sent.url.startswith(("file:", "data:")) or wrong.append(sent.url))
    page.goto(him.report(folders["hostile"]).as_uri())
    page.wait_for_selector("#rows-body tr")
    shown = page.locator("#rows-body tr").count()
    assert shown and page.get_by_text("<script>alert(1)</script>").count()
    calm = browser.new_page()
    calm.goto(him.report(folders["calm"]).as_uri())
    calm.wait_for_selector("#rows-body tr")
    for tag in ("script", "img", "iframe", "svg", "a", "style", "form"):
        # A figure, a bar or a link more would be of the data's making.
        assert page.locator(f"main {tag}").count() == calm.locator(f"main {tag}").count(), tag
    assert wrong == []


def test_pushed_and_loaded_back_they_are_what_they_were(folders, hub, tmp_path):
    selection = him.Selection.load(folders["hostile"] / "curated")
    assert selection.push_to_hub("me/hostile") == "me/hostile"
    rows = load_dataset("me/hostile", split="train", cache_dir=tmp_path)
    assert rows.to_list() == selection.dataset.to_list()
    card = DatasetCard(hub.dataset("me/hostile").files["README.md"].decode())
    marks = re.findall(r"(?m)^<!-- /?hf-instructmine\b.*-->$", card.text)
    assert len(marks) == 2 and card.text.count("<!--") == 2  # the only comments are ours
    pytest.importorskip("linkify_it", reason="pip install markdown-it-py linkify-it-py")
    text = card.text.replace(marks[0], "").replace(marks[1], "")
    assert foreign(text, DatasetCard.load(folders["calm"] / "curated/README.md").text) == []
    him.LossEstimator.from_pretrained(folders["hostile"] / "rule").push_to_hub("me/hostile-rule")
    assert him.LossEstimator.from_pretrained("me/hostile-rule").name == NAMES[5]
