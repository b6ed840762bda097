"""A sweep's folder whose files somebody else wrote, or something cut off: each is one line, or counts as missing."""

import shutil
from pathlib import Path

import pytest

from hf_instructmine import InstructMineError, load_comparison, load_runs, sweep_status
from hf_instructmine.outputs.records import Records


BEFORE = Path(__file__).parents[1] / "written_before"
RUN = "mixture-001-seed1"


@pytest.fixture
def sweep(tmp_path) -> Path:
    return shutil.copytree(BEFORE / "sweep", tmp_path / "sweep")


def rewrite(path: Path, **changes) -> None:
    """The same record with other fields and a right checksum."""
    records = Records(path.parents[1])
    content = {**records.read(path), **changes}
    records.write(path, {name: value for name, value in content.items() if value is not ...})


@pytest.mark.parametrize(
    "changes",
    [
        {"result": ...},
        {"result": None},
        {"result": {"losses": {"single": "low"}, "examples": {}, "seconds": 1.0}},
        {"result": {"losses": {}, "examples": {"single": {"nll": 1.0}}, "seconds": 1.0}},
        {"mixture": []},
        {"mixture": {"mixture_id": 1, "seed": 0, "indices": [1]}},
        {"status": 1},
        {"versions": "1.0"},
    ],
)
def test_a_record_with_a_right_checksum_and_no_result_counts_as_missing(sweep, caplog, changes):
    before = load_runs(sweep)
    rewrite(sweep / f"runs/{RUN}.json", **changes)
    runs = load_runs(sweep, examples=True)
    assert len(runs) == len(before) - 1
    assert f"{RUN}.json' is damaged: it counts as missing" in caplog.text
    assert "1 to do" in sweep_status(sweep)


def test_a_record_may_hold_nan_and_other_fields(sweep):
    kept = Records(sweep).read(sweep / f"runs/{RUN}.json")["result"]
    rewrite(sweep / f"runs/{RUN}.json", result={**kept, "losses": {"single": float("nan")}, "more": [1]}, more="x")
    assert len(load_runs(sweep)) == len(load_runs(BEFORE / "sweep"))


@pytest.mark.parametrize("file", ["sweep.json", "planned.json", "base.json"])
@pytest.mark.parametrize("content", [b"", b"[]", b'{"checksum": 1}', b"\xff", b"[" * 70_000])
def test_whatever_is_in_the_other_files_it_is_one_line_or_the_runs_are_there(sweep, caplog, file, content):
    (sweep / file).write_bytes(content)
    assert len(load_runs(sweep)) == len(load_runs(BEFORE / "sweep"))
    assert f"{file}' is damaged" in caplog.text
    if file == "sweep.json":
        with pytest.raises(InstructMineError, match="holds no sweep"):
            sweep_status(sweep)
    else:
        assert "runs done" in sweep_status(sweep)


def test_a_manifest_of_something_else_with_a_right_checksum_is_damaged(sweep):
    Records(sweep).write(sweep / "sweep.json", {"recipe": 5})
    with pytest.raises(InstructMineError, match="holds no sweep"):
        sweep_status(sweep)


@pytest.mark.parametrize("content", [{}, {"strategies": "rule", "fitted_on": {}}, {"strategies": [], "fitted_on": []}])
def test_a_comparison_of_other_content_is_none(tmp_path, content):
    folder = shutil.copytree(BEFORE / "comparison", tmp_path / "comparison")
    assert load_comparison(folder).strategies
    Records(folder).write(folder / "comparison.json", content)
    with pytest.raises(InstructMineError, match="holds no comparison"):
        load_comparison(folder)
