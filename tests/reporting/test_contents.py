"""What of a folder is shown, and what is said of the rest."""

import shutil
from pathlib import Path

import pytest

from hf_instructmine import InstructMineError
from hf_instructmine.reporting.contents import ABSENT, find_parts, kind_of, open_contents


def test_each_folder_is_known_by_what_it_holds(mined):
    assert {path.name: kind_of(path) for path in mined.iterdir()} == {
        "scored": "scored", "sweep": "sweep", "rule": "rule", "curated": "curated", "search": "search",
        "comparison": "comparison", "evaluation": "evaluation",
    }  # fmt: skip
    assert kind_of(mined / "evaluation" / "judge") == "judge"
    assert kind_of(mined) is None


def test_a_folder_of_folders_is_opened_whole(mined, tmp_path):
    contents = open_contents(mined, None, tmp_path)
    assert len(contents.scored) == 60 and len(contents.curated) == 20
    assert contents.selection.decisions is not None
    assert contents.rule.name == "<b>mine</b>{{ 7 }}"
    assert contents.size.best_size and len(contents.runs) == 4 and contents.comparison.strategies
    assert contents.evaluation.models == ["<mine>", "base"] and contents.evaluation.baseline == "base"
    assert contents.judged == "<i>mine</i> wins 3 of 4"
    assert contents.scores["mtld"]["rows"] == 60
    assert contents.notes == []


@pytest.mark.parametrize("name", ["scored", "rule", "curated", "sweep", "search", "comparison", "evaluation"])
def test_a_folder_of_one_verb_is_opened_and_the_rest_is_said_to_be_absent(mined, tmp_path, name):
    contents = open_contents(mined / name, None, tmp_path)
    there = {name, *({"rule"} if name == "curated" else ()), *({"judge"} if name == "evaluation" else ())}
    assert contents.notes == [line for kind, line in ABSENT.items() if kind not in there]


def test_a_pool_may_be_elsewhere(mined, tmp_path):
    assert len(open_contents(mined / "curated", mined / "scored", tmp_path).scored) == 60
    with pytest.raises(InstructMineError, match="is no scored pool"):
        open_contents(mined / "curated", mined / "rule", tmp_path)


def test_the_folder_that_is_named_after_what_it_holds_goes_first(copied):
    shutil.copytree(copied / "rule", copied / "an-older-one")
    parts, left_out = find_parts(copied)
    assert parts["rule"].name == "rule"
    assert left_out == ["an-older-one: left out, as rule holds a rule too"]


def test_a_damaged_part_is_left_out_with_its_reason_and_without_the_path(copied, tmp_path):
    (copied / "curated" / "estimator.json").write_text("{")
    (copied / "comparison" / "comparison.json").write_text("[]")
    with pytest.warns(UserWarning, match="the report lacks a part: .*(not JSON|holds no comparison)"):
        contents = open_contents(copied, None, tmp_path / "cache")
    assert contents.curated is None and contents.comparison is None and len(contents.scored) == 60
    told = [line for line in contents.notes if "left out" in line]
    assert len(told) == 2 and not any(str(tmp_path) in line for line in contents.notes)


def _file(folder: Path) -> Path:
    (folder / "rows.jsonl").write_text("{}")
    return folder / "rows.jsonl"


def _empty(folder: Path) -> Path:
    (folder / "empty").mkdir()
    return folder / "empty"


def _damaged(folder: Path) -> Path:
    (folder / "rule").mkdir()
    (folder / "rule" / "estimator.json").write_text('{"format": 1')
    return folder / "rule"


@pytest.mark.parametrize(
    "make, told",
    [
        (lambda folder: folder / "nothing", "is not there: name a folder"),
        (_file, "is a file: name a folder"),
        (_empty, "holds nothing that instructmine wrote"),
        (_damaged, "is not JSON"),
    ],
)
def test_what_cannot_be_reported_is_one_line(tmp_path, make, told):
    with pytest.raises(InstructMineError, match=told) as error:
        open_contents(make(tmp_path), None, tmp_path / "cache")
    assert "\n" not in str(error.value)


def test_a_search_without_a_finished_trial_is_said_to_be_unfinished(copied, tmp_path):
    (copied / "search" / "trials.parquet").unlink()
    with pytest.warns(UserWarning, match="no trial is finished"):
        notes = open_contents(copied, None, tmp_path / "cache").notes
    assert notes == ["search: left out: no trial is finished: run the same instructmine search-size again"]


def test_a_comparison_of_which_nothing_is_finished_yet_is_left_out(copied, tmp_path):
    for path in (copied / "comparison" / "runs").glob("random-*"):
        path.unlink()
    with pytest.warns(UserWarning, match="no finished run"):
        contents = open_contents(copied, None, tmp_path / "cache")
    assert contents.comparison is None
    assert contents.notes == [
        "comparison: left out: 'random' has no finished run at size=8: there is nothing to compare with"
    ]
