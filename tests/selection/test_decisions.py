"""What became of every row is kept beside the selection, and read again."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from datasets import Dataset, concatenate_datasets, load_dataset

from hf_instructmine import InstructMineError, LossEstimator, Selection, Selector
from hf_instructmine.selection.decisions import DECISIONS_FILE, Decisions, digest_of_pool


RULE = LossEstimator.from_coefficients({"mtld": 1.0})


def pool() -> Dataset:
    return Dataset.from_dict(
        {
            "prompt": ["a", "a", "b", "c", "d", "e", "f"],
            "completion": ["x", "x", "", "x", "x", "x", "x"],
            "source": ["web"] * 4 + ["book"] * 3,
            "mtld": [0.0, 1.0, 2.0, None, 3.0, 4.0, 5.0],
            "output_length": [1, 1, 1, 1, 900, 1, 1],
        }
    )


def told(selection: Selection) -> list[str]:
    return [selection.decisions.names[code] for code in selection.decisions.codes]


def test_every_row_has_a_fate():
    selection = Selector(RULE, max_response_tokens=800).select(pool(), size=2)
    assert told(selection) == [
        "selected", "exact duplicate", "no response", "no prediction", "response too long", "selected",
        "beyond the size",
    ]  # fmt: skip
    assert selection.decisions.of("selected").tolist() == [0, 5]
    assert selection.decisions.counts()["selected"] == 2 and "too similar" not in selection.decisions.counts()
    assert selection.decisions.codes.dtype == np.uint8


def test_what_options_keep_out_is_told_by_option():
    embeddings = np.eye(7)
    embeddings[5] = embeddings[4]
    selection = Selector(
        RULE,
        embeddings=embeddings,
        max_similarity=0.9,
        quotas={"web": (None, 0.5)},
        eval_sets={"mine": Dataset.from_dict({"prompt": ["f"], "completion": ["x"]})},
    ).select(pool().select([0, 3, 4, 5, 6, 2, 1]).add_column("n", range(7)), size=2, drop_duplicates=False)
    assert told(selection) == [
        "selected", "no prediction", "selected", "beyond the size", "holds an evaluation prompt", "over quota",
        "over quota",
    ]  # fmt: skip
    selection = Selector(RULE, embeddings=np.ones((7, 2)), max_similarity=0.9).select(pool(), size=1)
    assert told(selection)[1:3] == ["beyond the size"] * 2


def test_rows_far_from_the_runs_are_told(tmp_path):
    from simulated_runs import simulated_runs

    rule = LossEstimator.fit(
        simulated_runs(n=40, seed=1), indicators=["reward", "mtld"], select="none", permutations=20, bootstraps=10
    )
    rng = np.random.default_rng(0)
    scored = Dataset.from_dict({"reward": rng.normal(1, 2.0, 400), "mtld": rng.normal(60, 40, 400)})
    selection = Selector(rule).select(scored, size=20, max_leverage=rule.max_leverage)
    assert len(selection.decisions.of("far from the runs")) == selection.skipped_far > 0


def test_they_are_saved_and_read_again(tmp_path):
    selection = Selector(RULE).select(pool(), size=2)
    selection.save_to_disk(tmp_path / "curated")
    again = Selection.load(tmp_path / "curated").decisions
    assert again.names == selection.decisions.names and again.pool_digest == selection.decisions.pool_digest
    assert again.codes.tolist() == selection.decisions.codes.tolist()
    assert load_dataset(str(tmp_path / "curated"), split="train").num_rows == 2
    assert (tmp_path / "curated" / DECISIONS_FILE).stat().st_size < 2000


def test_a_folder_without_them_still_opens(tmp_path):
    Selector(RULE).select(pool(), size=2).save_to_disk(tmp_path / "curated")
    (tmp_path / "curated" / DECISIONS_FILE).unlink()
    assert Decisions.load(tmp_path / "curated") is None
    assert Selection.load(tmp_path / "curated").decisions is None


def pickled(path):
    np.savez(path, codes=np.array([object()]), names=np.array(["a"]), pool_digest=np.array("x"))


def of_too_many_codes(path):
    np.savez(path, codes=np.array([3], np.uint8), names=np.array(["a"]), pool_digest=np.array("x"))


@pytest.mark.parametrize(
    "damage",
    [lambda p: p.write_bytes(p.read_bytes()[:-200]), lambda p: p.write_bytes(b"{}"), pickled, of_too_many_codes],
)
def test_a_damaged_file_is_one_line_that_names_it(damage, tmp_path):
    Selector(RULE).select(pool(), size=2).save_to_disk(tmp_path / "curated")
    damage(tmp_path / "curated" / DECISIONS_FILE)
    with pytest.raises(InstructMineError, match=r"decisions\.npz' is damaged \(.*\): select again, or remove it") as e:
        Selection.load(tmp_path / "curated")
    assert "\n" not in str(e.value)


def test_those_of_another_selection_are_refused(tmp_path):
    Selector(RULE).select(pool(), size=2).save_to_disk(tmp_path / "curated")
    Selector(RULE).select(pool(), size=3).decisions.save(tmp_path / "curated")
    with pytest.raises(InstructMineError, match=r"decisions\.npz and predictions\.parquet do not belong together"):
        Selection.load(tmp_path / "curated")


def test_the_digest_is_of_the_values_and_not_of_how_arrow_holds_them(monkeypatch):
    rows = {
        "prompt": ["ab", None, "", "é"],
        "completion": ["c", "d", None, "f"],
        "n": [1, None, 3, 4],
        "m": [[1], [], None, [2]],
    }
    whole, wider = Dataset.from_dict(rows), pa.large_string()
    digest = digest_of_pool(whole)
    in_pieces = concatenate_datasets([whole.select([0]), whole.select([1, 2]), whole.select([3])])
    turned = whole.select([3, 2, 1, 0]).select([3, 2, 1, 0])
    wide = Dataset(whole.data.table.set_column(0, "prompt", whole.data.table["prompt"].cast(wider)))
    assert {digest_of_pool(same) for same in (in_pieces, turned, wide)} == {digest}
    changes = {"prompt": ["a", None, "", "é"], "completion": ["bc", "d", None, "f"]}, {"prompt": ["ab", "", None, "é"]}
    changes += {"n": [1, 2, 3, 4]}, {"m": [[1], None, [], [2]]}
    changed = [digest_of_pool(Dataset.from_dict(rows | change)) for change in changes]
    assert len({digest, *changed}) == 5


def test_a_digest_of_an_earlier_version_still_knows_its_pool():
    decisions = Selector(RULE).select(pool(), size=2).decisions
    earlier = replace(decisions, pool_digest="xxh64:d673fc5da596f03d")
    assert earlier.is_of(pool()) and not earlier.is_of(pool().select([2, 1, 0, 3, 4, 5, 6]))


def test_the_pool_is_known_again_whatever_its_scores():
    decisions = Selector(RULE).select(pool(), size=2).decisions
    rescored = pool().remove_columns("mtld").add_column("mtld", [9.0] * 7)
    assert decisions.is_of(pool()) and decisions.is_of(rescored)
    assert digest_of_pool(pool().select([2, 1, 0, 3, 4, 5, 6])) != decisions.pool_digest
    assert not decisions.is_of(pool().select(range(6)))
    assert not decisions.is_of(pool().remove_columns("prompt").add_column("prompt", list("zabcdef")))
    assert digest_of_pool(pool().select_columns(["mtld"])) != digest_of_pool(
        pool().select_columns(["mtld"]).select([0])
    )
