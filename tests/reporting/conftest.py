"""A folder as `instructmine mine` leaves one."""

import shutil
from pathlib import Path

import pytest
from report_folders import RULE, WRITTEN_BEFORE, pool, score, write_evaluation

import hf_instructmine as him


@pytest.fixture(scope="session")
def mined(tmp_path_factory) -> Path:
    """`scored/`, `rule/`, `curated/`, `sweep/`, `search/`, `comparison/`, `evaluation/` with a judge's."""
    folder = tmp_path_factory.mktemp("mined")
    scored = score(pool(), folder / "scored")
    RULE.save_pretrained(folder / "rule")
    him.Selector(RULE).select(scored, size=20).save_to_disk(folder / "curated")
    for name in ("sweep", "search", "comparison"):
        shutil.copytree(WRITTEN_BEFORE / name, folder / name)
    write_evaluation(folder / "evaluation")
    return folder


@pytest.fixture
def copied(mined, tmp_path) -> Path:
    """The folder once more, to do things to."""
    return shutil.copytree(mined, tmp_path / "mined")
