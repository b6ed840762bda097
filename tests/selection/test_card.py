"""The card says how the data came about, and whatever the data brings along stays text in it."""

import re

import numpy as np
import pytest
import yaml
from datasets import Dataset
from hostile import HOSTILE, acted_on, stated

from hf_instructmine import LossEstimator, Selector
from hf_instructmine.data.provenance import set_provenance
from hf_instructmine.outputs.markdown import CardSection


def selection_of(source, rule=None):
    rows = len(source)
    scored = Dataset.from_dict(
        {
            "prompt": [f"question {i}" for i in range(rows)],
            "completion": [f"answer {i}" for i in range(rows)],
            "source": source,
            "mtld": [float(i) for i in range(rows)],
            "reward": [0.5] * rows,
        }
    )
    scored = set_provenance(scored, {"mtld": {"indicator": "MTLD", "threshold": 0.72}})
    rule = rule or LossEstimator.from_coefficients(
        {"intercept": 1.0, "mtld": -0.25}, name="my rule", origin="By hand."
    )
    return Selector(rule).select(scored, size=max(1, rows // 2))


@pytest.fixture
def card():
    return selection_of(["web", "web", "human", "human"]).card


def rows_of(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its header."""
    body = text.split(f"## {heading}\n", 1)[1]
    lines = re.search(r"(?:^\|.*\n)+", body, flags=re.MULTILINE)[0].splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_the_metadata_is_what_the_hub_takes(card):
    metadata = yaml.safe_load(card.content.split("---\n")[1])
    (config,), info = metadata.pop("configs"), metadata.pop("dataset_info")
    assert config["data_files"] == [{"split": "train", "path": "data/train-00000-of-00001.parquet"}]
    assert info["splits"] == [{"name": "train", "num_examples": 2, "num_bytes": info["dataset_size"]}]
    assert {feature["name"]: feature["dtype"] for feature in info["features"]}["mtld"] == "float64"
    assert metadata == {
        "pretty_name": "Curated instruction data: 2 of 4 examples",
        "size_categories": ["n<1K"],
        "task_categories": ["text-generation"],
        "tags": ["instructmining", "instruction-tuning", "data-selection", "hf-instructmine"],
    }


def test_licence_and_origin_are_stated_where_they_are_known():
    selection = selection_of(["web"])
    selection.license, selection.source_datasets = "cc-by-4.0", ["tatsu-lab/alpaca"]
    assert selection.card.data.license == "cc-by-4.0"
    assert selection.card.data.source_datasets == ["tatsu-lab/alpaca"]
    assert "(tatsu-lab/alpaca)" in selection.card.text and "Licence: cc-by-4.0." in selection.card.text


def test_it_shows_the_rule_and_where_it_comes_from(card):
    assert rows_of(card.text, "The rule") == [["intercept", "1"], ["mtld", "-0.25"]]
    assert "By hand." in card.text


def test_it_says_what_made_each_indicator(card):
    assert rows_of(card.text, "Indicators") == [
        ["mtld", "yes", "MTLD", "threshold=0.72"],
        ["reward", "no", "not recorded", "–"],
    ]


def test_what_made_a_column_is_the_indicator_and_its_model_whatever_the_folder_is_called():
    scored = Dataset.from_dict({"mtld": [1.0, 2.0], "knn_6": [0.1, 0.2]})
    scored = set_provenance(scored, {"knn_6": {"indicator": "NeighborDistance", "model": "model", "i": 6}})
    card = Selector(LossEstimator.from_coefficients({"mtld": 1.0})).select(scored, size=1).card
    assert ["knn\\_6", "no", "NeighborDistance, model", "i=6"] in rows_of(card.text, "Indicators")


def test_it_says_what_each_column_means():
    scored = Dataset.from_dict({"mtld": [1.0, 2.0], "knn_6": [0.1, 0.2], "id": [1, 2]})
    card = Selector(LossEstimator.from_coefficients({"mtld": 1.0})).select(scored, size=1).card
    told = {name: meaning for name, _, meaning in rows_of(card.text, "Columns")}
    assert told["id"] == "as in the pool" and told["knn\\_6"].startswith("indicator: cosine distance to")
    assert told["predicted\\_log\\_loss"].startswith("what the rule predicts")


def test_the_pool_and_what_was_selected_stand_side_by_side():
    scored = Dataset.from_dict({"mtld": [1.0, 2.0, 3.0], "output_length": [5, 7, 900]})
    card = Selector(LossEstimator.from_coefficients({"mtld": 1.0})).select(scored, size=2).card
    assert "| response tokens | 912 | 12 |" in card.text
    assert "Responses here are shorter than in the pool: a median of 6 tokens against 7." in card.text


def test_it_counts_what_went_in_and_came_out_by_source(card):
    assert [row[:4] for row in rows_of(card.text, "How it was chosen")] == [
        ["human", "2", "2", "100.0%"],
        ["web", "2", "0", "0.0%"],
        ["**all**", "4", "2", "50.0%"],
    ]


def test_many_sources_are_cut_to_the_largest():
    text = selection_of([f"s{i}" for i in range(100)]).card.text
    assert len(rows_of(text, "How it was chosen")) == 41
    assert "The 40 largest of 100 sources" in text


def test_the_examples_run(card):
    snippets = re.findall(r"```python\n(.*?)```", card.text, flags=re.DOTALL)
    assert len(snippets) == 2
    for snippet in snippets:
        compile(snippet, "card", "exec")
    assert "select(scored, size=2)" in snippets[1]


def constrained(source: str, eval_set: str):
    scored = Dataset.from_dict(
        {
            "prompt": ["zero", "one", "two", "three"],
            "completion": ["a", "b", "c", "d"],
            "source": [source, source, "b", "b"],
            "mtld": [0.0, 1.0, 2.0, 3.0],
            "output_length": [5, 6, 7, 800],
        }
    )
    selector = Selector(
        LossEstimator.from_coefficients({"mtld": 1.0}),
        embeddings=np.eye(4),
        max_similarity=0.9,
        quotas={source: (None, 0.5)},
        max_response_tokens=700,
        eval_sets={eval_set: Dataset.from_dict({"prompt": ["One!", "four"], "completion": ["x", "y"]})},
    )
    return selector.select(scored, size=2)


def test_what_could_not_be_predicted_is_counted_in_words():
    scored = Dataset.from_dict({"mtld": [0.0, None, 2.0], "prompt": ["a", "b", "c"], "completion": ["x", "y", "z"]})
    text = Selector(LossEstimator.from_coefficients({"mtld": 1.0})).select(scored, size=1).card.text
    assert "1 row has no prediction, for want of an indicator, and could not be selected. 0 exact duplicates" in text
    assert "# Curated instruction data: 1 of 3 examples\n\nThe 1 row (33.33%) of a pool of 3 instruct" in text


def test_it_says_what_the_options_kept_out_and_how_to_ask_for_them_again():
    text = constrained("web", "mmlu").card.text
    assert "1 holds a prompt of an evaluation set (eval_sets)" in text
    assert "1 has a longer response (max_response_tokens=700)" in text
    assert "0 are too similar to a selected row (max_similarity=0.9)" in text
    assert "those that hold one were left out: mmlu in 1." in text
    snippet = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)[1]
    compile(snippet, "card", "exec")
    assert "embeddings = him.NeighborDistance(encoder).embed(scored)  # shape (4, 4)\n" in snippet
    assert "eval_sets = {'mmlu': ...}  # each a Dataset\n" in snippet
    assert (
        "him.Selector(rule, embeddings=embeddings, max_similarity=0.9, quotas={'web': (None, 0.5)}, "
        "max_response_tokens=700, eval_sets=eval_sets).select(scored, size=2)" in snippet
    )


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_options_are_called_stays_text(hostile):
    calm, card = constrained("calm", "calm").card, constrained(hostile, hostile).card
    assert stated(card) == stated(calm)
    assert card.text.count("\n") == calm.text.count("\n")
    prose, *snippets = re.split(r"```python\n", card.text)
    assert len(snippets) == 2
    for snippet in snippets:
        code, rest = snippet.split("\n```", 1)
        compile(code, "card", "exec")
        prose += rest
    assert acted_on(prose) == []
    assert "\x1b" not in card.text and "\u202e" not in card.text


def test_it_says_how_rows_competed():
    scored = Dataset.from_dict({"mtld": [0.0, 1.0], "output_length": [5, 6]})
    text = Selector(LossEstimator.from_coefficients({"mtld": 1.0})).select(scored, tokens=11).card.text
    assert "they competed by how far they lower or raise the set's mean prediction per response token" in text


def test_a_section_can_be_added():
    selection = selection_of(["web"])
    selection.sections.append(CardSection("Evi*dence", "As **Markdown**.\n\n![plot](evidence.png)"))
    assert "## Evi\\*dence\n\nAs **Markdown**.\n\n![plot](evidence.png)\n\n## How to reproduce" in selection.card.text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_the_data_is_called_stays_text(hostile):
    calm = selection_of(["calm", "b", "c", "d"]).card
    rule = LossEstimator.from_coefficients({"mtld": -0.25, "intercept": 1.0}, name=hostile, origin=hostile)
    card = selection_of([hostile, "b", "c", "d"], rule).card
    assert stated(card) == stated(calm)
    assert card.text.count("\n") == calm.text.count("\n")
    assert len(rows_of(card.text, "How it was chosen")) == 5
    assert all(len(row) == 7 for row in rows_of(card.text, "How it was chosen"))
    assert acted_on(card.text) == []


def test_it_names_the_columns_that_were_not_read():
    scored = Dataset.from_dict(
        {"prompt": ["a", "b"], "completion": ["c", "d"], "rejected": ["<b>x", "y"], "mtld": [1.0, 2.0], "id": [1, 2]}
    )
    rule = LossEstimator.from_coefficients({"mtld": -0.25})
    assert "**Not read,** though they may carry text or meaning, were the pool's columns rejected." in (
        Selector(rule).select(scored, size=1).card.text
    )
    assert "Not read" not in Selector(rule).select(scored.remove_columns("rejected"), size=1).card.text
