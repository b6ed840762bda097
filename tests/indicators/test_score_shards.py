"""Shards of scores that were damaged: each counts as missing, is told in one line, and is scored again."""

import os
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset

from hf_instructmine import MTLD, score
from hf_instructmine.indicators import mtld


def pool() -> Dataset:
    return Dataset.from_dict({"prompt": [f"q{i}" for i in range(300)], "completion": ["one two three"] * 300})


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("finished") / "scored"
    score(pool(), [MTLD()], folder)
    return folder


@pytest.fixture
def scored(finished, tmp_path) -> Path:
    return shutil.copytree(finished, tmp_path / "scored")


@pytest.fixture
def measured(monkeypatch) -> list[int]:
    """How many rows were scored, batch by batch."""
    counts, measure = [], mtld.MTLD.score
    monkeypatch.setattr(mtld.MTLD, "score", lambda self, rows: counts.append(len(rows)) or measure(self, rows))
    return counts


def rewrite(path: Path, change) -> None:
    table = change(pq.read_table(path))
    pq.write_table(table, path)


def others(table: pa.Table) -> pa.Table:
    return table.set_column(0, "mtld", pa.array([0.5] * len(table), pa.float64()))


DAMAGE = {
    "empty": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "one bit": lambda path: path.write_bytes(path.read_bytes()[:100] + b"\x00" + path.read_bytes()[101:]),
    "other numbers": lambda path: rewrite(path, others),
    "other rows": lambda path: rewrite(path, lambda table: table.slice(1)),
    "other columns": lambda path: rewrite(path, lambda table: table.rename_columns(["x", "note"])),
    "another digest": lambda path: path.with_suffix(".digest").write_bytes(b"\xff"),
}
# Which of them are found where an earlier version wrote no digest.
WITHOUT = ("empty", "cut off", "other rows", "other columns")


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_told_and_scored_again_alone(scored, finished, measured, caplog, damage):
    path = next(scored.glob(".columns/mtld-*/000000256.parquet"))
    DAMAGE[damage](path)
    again = score(pool(), [MTLD()], scored)
    assert measured == [44]
    assert [r.getMessage() for r in caplog.records] == [
        f"'{path}' is damaged, or of other rows: its 44 rows are scored again"
    ]
    assert again["mtld"][:] == pq.read_table(next(finished.glob("data/*.parquet")))["mtld"].to_pylist()
    assert path.read_bytes() == (finished / path.relative_to(scored)).read_bytes()


@pytest.mark.parametrize("damage", WITHOUT)
def test_a_shard_without_a_digest_is_looked_at_too(scored, measured, damage):
    for digest in scored.rglob("*.digest"):
        digest.unlink()
    DAMAGE[damage](next(scored.glob(".columns/mtld-*/000000256.parquet")))
    score(pool(), [MTLD()], scored)
    assert measured == [44]


def test_shards_of_an_earlier_version_without_digests_are_gone_on_with(scored, measured):
    for digest in scored.rglob("*.digest"):
        digest.unlink()
    score(pool(), [MTLD()], scored)
    assert measured == []


def test_what_a_killed_process_left_is_removed_and_what_is_not_ours_stays(scored):
    mine = [scored / "data/.notes.1", scored / ".notes.1", scored / "data/.train.1"]
    left = [
        scored / "data/.train-00000-of-00001.parquet.4711",
        scored / ".report.json.4711",
        next(scored.glob(".columns/mtld-*")) / ".000000256.parquet.4711",
    ]
    for path in (*mine, *left):
        path.write_text("half")
    os.utime(left[-1], (0, 0))  # a young one may be of a process that still writes
    score(pool(), [MTLD()], scored)
    assert [path for path in left if path.exists()] == []
    assert all(path.exists() for path in mine)
