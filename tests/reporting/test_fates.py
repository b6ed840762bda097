"""What became of each row: as recorded, or found again by the texts."""

import json
import shutil

import numpy as np
import pytest
from report_folders import RULE, pool, score, write_scored

from hf_instructmine.reporting.contents import open_contents
from hf_instructmine.reporting.fates import NOT_KNOWN, UNFOUND, UNSELECTED, judge_rows


def judged(folder, tmp_path, pool=None):
    return judge_rows(open_contents(folder, pool, tmp_path / "cache"), None)


def fates(found) -> list[str]:
    return [found.names[code] for code in found.codes]


def test_what_the_selection_recorded_is_told(mined, tmp_path):
    found = judged(mined, tmp_path)
    told = fates(found)
    assert told[49:54:2] == ["selected", "no prediction", "no prediction"]  # row 51 has no response, 53 no reward
    assert told[50] == "exact duplicate" and "beyond the size" in told
    assert found.selected.sum() == 20 and found.whole and not found.notes


def test_contributions_add_up_to_the_prediction_less_its_mean(mined, tmp_path):
    found = judged(mined, tmp_path)
    assert list(found.contributions) == ["reward", "log(mtld)"]
    known = np.isfinite(found.log_loss)
    summed = sum(found.contributions.values())[known]
    assert summed == pytest.approx(found.log_loss[known] - found.log_loss[known].mean())


def test_of_a_selection_that_an_earlier_version_saved_the_rows_are_known_and_not_the_reasons(copied, tmp_path):
    before = judged(copied, tmp_path / "before").selected
    (copied / "curated" / "decisions.npz").unlink()
    found = judged(copied, tmp_path / "now")
    assert np.array_equal(found.selected, before)
    assert set(fates(found)) == {"selected", NOT_KNOWN, "no prediction"}
    assert found.notes == ["why the others were not selected is not known: an earlier version made the selection"]


def test_in_a_pool_that_was_changed_the_selected_rows_are_found_by_their_texts(copied, tmp_path):
    before = np.flatnonzero(judged(copied, tmp_path / "before").selected)
    shutil.rmtree(copied / "scored")
    rows = np.random.default_rng(0).permutation(60)
    score(pool().select(rows), copied / "scored")
    found = judged(copied, tmp_path / "now")
    texts, kept = pool(), found.rows.select(np.flatnonzero(found.selected))
    assert sorted(kept["prompt"]) == sorted(texts[row]["prompt"] for row in before.tolist())
    assert not found.notes


def test_selected_rows_that_are_not_in_the_pool_are_counted(copied, tmp_path):
    shutil.rmtree(copied / "scored")
    score(pool().select(range(30)), copied / "scored")
    found = judged(copied, tmp_path)
    missing = 20 - found.selected.sum()
    assert missing > 0
    assert found.notes[-1].startswith(f"{missing} selected rows are not in this pool")


def test_without_a_selection_there_are_predictions_alone(copied, tmp_path):
    shutil.rmtree(copied / "curated")
    found = judged(copied, tmp_path)
    assert found.names == [UNSELECTED] and found.selected is None
    assert np.isfinite(found.log_loss).sum() == 58


def test_without_a_pool_the_selected_rows_are_shown(mined, tmp_path):
    found = judged(mined / "curated", tmp_path)
    assert len(found.rows) == 20 and not found.whole and found.selected.all()
    assert "--pool" in found.notes[0]


def test_where_there_are_neither_texts_nor_this_pool_nothing_is_claimed(mined, tmp_path):
    write_scored({"mtld": [1.0, 2.0], "reward": [1.0, None]}, tmp_path / "scored")
    found = judged(mined / "curated", tmp_path, tmp_path / "scored")
    assert found.names == [UNFOUND] and found.selected is None
    assert "the rows have no texts" in found.notes


def test_a_pool_that_lacks_what_the_rule_reads_is_shown_without_predictions(mined, tmp_path):
    write_scored({"prompt": ["a", None], "completion": ["b", None], "mtld": [1.0, 2.0]}, tmp_path / "scored")
    found = judged(mined / "rule", tmp_path, tmp_path / "scored")
    assert found.log_loss is None and not found.contributions
    assert found.notes == [
        "the rule cannot be applied to these rows: the data has no column 'reward', which the rule needs; score the "
        "data with Reward first"
    ]


def test_columns_that_were_made_otherwise_are_not_predicted_from(copied, tmp_path):
    path = copied / "rule" / "estimator.json"
    rule = type(RULE)(**{**vars(RULE), "provenance": {"mtld": {"indicator": "MTLD", "threshold": 0.5}}})
    shutil.rmtree(copied / "curated")
    rule.save_pretrained(copied / "rule")
    assert json.loads(path.read_text())["provenance"]
    found = judged(copied, tmp_path)
    assert found.log_loss is None and "was made otherwise" in found.notes[0]
