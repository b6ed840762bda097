"""The numbers of a report, held against what the rows say."""

import numpy as np
import pytest
from report_folders import RULE, write_scored

import hf_instructmine as him
from hf_instructmine.reporting.contents import open_contents
from hf_instructmine.reporting.evidence import evidence
from hf_instructmine.reporting.fates import judge_rows
from hf_instructmine.reporting.rows import write_rows
from hf_instructmine.reporting.sections import Bar, composition, path_of_numbers, predictions, the_rule, verdict


SOURCES = ["web", "web", "web", "book", "book", "note"]


@pytest.fixture
def opened(tmp_path):
    """A pool of six rows of 1 to 6 tokens: two are selected, one has no reward, one no response."""
    rows = {
        "prompt": list("abcdef"), "completion": [*"uvwxy", None], "source": SOURCES,
        "output_length": [1, 2, 3, 4, 5, 6], "reward": [4.0, 3.0, 2.0, 1.0, None, 9.0],
    }  # fmt: skip
    write_scored(rows, tmp_path / "scored")
    rule = him.LossEstimator.from_coefficients({"intercept": 1.0, "reward": 0.1}, name="mine")
    pool = him.Selector(rule).select(str(tmp_path / "scored" / "data" / "train-00000-of-00001.parquet"), size=2)
    pool.save_to_disk(tmp_path / "curated")
    return tmp_path


def parts(folder, tmp_path):
    contents = open_contents(folder, None, tmp_path / "cache")
    judged = judge_rows(contents, None)
    data = None if judged is None else write_rows(judged, contents.rule, None, False, tmp_path / "rows.html")
    return contents, judged, data


def lines(table) -> list[list[str]]:
    return [[cell.text if isinstance(cell, Bar) else cell for cell in row] for row in table.rows]


def test_each_step_has_its_rows_and_tokens(opened, tmp_path):
    contents, judged, data = parts(opened, tmp_path)
    assert lines(path_of_numbers(contents, judged, data).tables[0]) == [
        ["in the pool", "6", "21", "100.0%"],
        ["with a response that can be read", "5", "15", "83.3%"],
        ["with every indicator of the rule", "4", "10", "66.7%"],
        ["left out: beyond the size", "3", "9", "50.0%"],
        ["left out: no prediction", "1", "5", "16.7%"],
        ["selected", "2", "7", "33.3%"],
    ]


def test_without_the_pool_the_steps_are_what_the_selection_recorded(opened, tmp_path):
    contents, judged, data = parts(opened / "curated", tmp_path)
    assert lines(path_of_numbers(contents, judged, data).tables[0]) == [
        ["in the pool", "6", "not known", "100.0%"],
        ["left out: no prediction", "1", "not known", "16.7%"],
        ["left out: not reached when the selection was full", "3", "not known", "50.0%"],
        ["selected", "2", "7", "33.3%"],
    ]
    assert lines(composition(contents, judged).tables[0])[0] == ["web", "3", "50.0%", "1", "50.0%", "33.3%"]


def test_mean_contributions_are_of_selected_rows_and_of_the_others(opened, tmp_path):
    contents, judged, _ = parts(opened, tmp_path)
    mean = np.mean([4.0, 3.0, 2.0, 1.0, 9.0])
    kept, others = 0.1 * (1.5 - mean), 0.1 * (np.mean([4.0, 3.0, 9.0]) - mean)
    assert lines(the_rule(contents, judged).tables[0]) == [
        ["intercept", "1", "not known", "", ""],
        ["reward", "0.1", "not known", f"{kept:+.4f}", f"{others:+.4f}"],
    ]


def test_sources_are_counted_before_and_after(opened, tmp_path):
    contents, judged, _ = parts(opened, tmp_path)
    assert lines(composition(contents, judged).tables[0]) == [
        ["web", "3", "50.0%", "1", "50.0%", "33.3%"],
        ["book", "2", "33.3%", "1", "50.0%", "50.0%"],
        ["note", "1", "16.7%", "0", "0.0%", "0.0%"],
    ]


def test_the_verdict_is_that_of_the_selection_and_says_where_there_is_no_comparison(opened, tmp_path):
    contents, _, _ = parts(opened, tmp_path)
    section = verdict(contents)
    assert section.told == ["Selected 2 rows of 6 (33.3%).", contents.selection.verdict()]
    assert section.lines == [
        "Whether this beats a random choice is not known: no comparison: run instructmine compare …."
    ]


def test_evidence_of_the_card_is_told_where_the_comparison_is_not_here(opened, tmp_path):
    from hf_instructmine.outputs.markdown import CardSection, escape

    said = "tests: <b>mine</b> is better than random by 0.1 * x [1]"
    selection = him.Selection.load(opened / "curated")
    selection.sections = [CardSection("Evidence", "…", verdict=[escape(said)])]
    selection.save_to_disk(opened / "curated", overwrite=True)
    assert verdict(parts(opened, tmp_path)[0]).lines == [said]


def test_a_comparison_of_another_rule_says_so(mined, tmp_path):
    section = verdict(parts(mined, tmp_path)[0])
    assert section.lines[-1].startswith("About this comparison: ")


def test_predictions_are_drawn_with_shapes_that_tell_the_selected_ones(opened, tmp_path):
    from base64 import b64decode

    contents, judged, _ = parts(opened, tmp_path)
    figures = predictions(contents, judged).pictures
    svg = b64decode(figures[1].source.partition("base64,")[2]).decode()
    assert len(figures) == 2 and "2 selected" in svg and "predicted log loss (nats)" in svg
    assert "Triangles were selected" in figures[1].caption


def test_a_rule_without_a_finite_prediction_has_no_figure(tmp_path):
    write_scored({"prompt": ["a"], "completion": ["b"], "mtld": [0.0], "reward": [None]}, tmp_path / "scored")
    RULE.save_pretrained(tmp_path / "rule")
    contents, judged, _ = parts(tmp_path, tmp_path)
    assert predictions(contents, judged) is None


def test_what_was_measured_is_in_tables(mined, tmp_path):
    found = {section.name: section for section in evidence(parts(mined, tmp_path)[0])}
    assert list(found) == ["size", "comparison", "runs", "evaluation", "judge"]
    measured = lines(found["evaluation"].tables[0])
    assert measured[1][:4] == ["tests loss (nats/token, lower is better)", "base", "4", "2.3056"]  # 83 nats of 36
    assert measured[0][3] == "2.0833" and measured[0][6:8] == ["-0.2222", "not known"]  # of four equal differences
    runs = found["runs"]
    assert runs.tables[0].header[:3] == ["mixture", "seed", "status"] and len(runs.tables[0].rows) == 4
    assert any("Untrained, on single" in line for line in runs.told)
    strategies = {row[0]: row for row in lines(found["comparison"].tables[0])}
    assert {"rule", "longest", "random"} <= set(strategies)
