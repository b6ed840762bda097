"""Which configuration made a column: recorded with the data, wherever the data go, and compared before use."""

import pickle

import pyarrow as pa
import pytest
from datasets import Dataset, Features, Value, concatenate_datasets, load_dataset, load_from_disk

from hf_instructmine import MTLD, InstructMineError, get_provenance, score
from hf_instructmine.data.provenance import check_provenance, set_provenance


RECORD = {"indicator": "MTLD", "threshold": 0.72, "turns": "last"}


@pytest.fixture
def scored() -> Dataset:
    pool = Dataset.from_dict({"prompt": list("abc"), "completion": ["one two", "", "two"]})
    return score(pool, [MTLD()])


def test_what_made_a_column_is_recorded_and_other_columns_have_no_record(scored):
    assert get_provenance(scored) == {"mtld": RECORD} == {"mtld": MTLD().provenance()}


@pytest.mark.parametrize(
    "through",
    [
        lambda data, path: data.select([2, 0]),
        lambda data, path: data.filter(lambda row: row["prompt"] != "a"),
        lambda data, path: data.map(lambda row: {"length": len(row["prompt"])}),
        lambda data, path: data.shuffle(seed=0).sort("prompt"),
        lambda data, path: data.with_format("numpy"),
        lambda data, path: data.rename_column("prompt", "instruction"),
        lambda data, path: data.add_column("further", [1] * len(data)),
        lambda data, path: concatenate_datasets([data, data]),
        lambda data, path: pickle.loads(pickle.dumps(data)),
        lambda data, path: (data.save_to_disk(path / "d"), load_from_disk(path / "d"))[1],
        lambda data, path: (data.to_parquet(path / "d.parquet"), Dataset.from_parquet(str(path / "d.parquet")))[1],
        lambda data, path: (
            data.to_parquet(path / "d.parquet"),
            load_dataset("parquet", data_files=str(path / "d.parquet"), split="train"),
        )[1],
    ],
    ids=[
        "select",
        "filter",
        "map",
        "sort",
        "format",
        "rename",
        "add",
        "join",
        "pickle",
        "disk",
        "parquet",
        "load_dataset",
    ],
)
def test_the_record_travels_with_the_data(scored, tmp_path, through):
    assert get_provenance(through(scored, tmp_path)) == {"mtld": RECORD}


def test_the_record_survives_the_hub(scored, hub):
    scored.push_to_hub("me/scored")
    assert get_provenance(load_dataset("me/scored", split="train")) == {"mtld": RECORD}


def test_recording_changes_no_value_and_keeps_the_format(scored):
    again = set_provenance(scored.with_format("numpy"), {"mtld": {"indicator": "another"}})
    assert again.format["type"] == "numpy"
    assert str(again.with_format(None).to_dict()) == str(scored.to_dict())
    assert get_provenance(again) == {"mtld": {"indicator": "another"}}
    assert get_provenance(scored) == {"mtld": RECORD}


def addresses(dataset: Dataset) -> list[int]:
    """Where in memory the values lie."""
    chunks = [chunk for column in dataset.data.table.columns for chunk in column.chunks]
    return [buffer.address for chunk in chunks for buffer in chunk.buffers() if buffer is not None]


@pytest.mark.parametrize("rows", [None, [2, 0]], ids=["all rows", "some rows"])
def test_recording_reads_and_copies_no_byte_of_a_pool_on_disk(scored, tmp_path, rows):
    scored.save_to_disk(tmp_path / "scored")
    pool = load_from_disk(tmp_path / "scored")
    pool = pool if rows is None else pool.select(rows)
    again = set_provenance(pool, {"mtld": {"indicator": "another"}})
    assert addresses(again) == addresses(pool)
    assert again.cache_files == pool.cache_files
    assert [file.name for file in (tmp_path / "scored").glob("*.arrow")] == ["data-00000-of-00001.arrow"]
    assert again["prompt"][:] == pool["prompt"][:]
    for through in (pickle.loads(pickle.dumps(again)), again.flatten_indices(), again.select([0]), again.shuffle()):
        assert get_provenance(through) == {"mtld": {"indicator": "another"}}


def test_the_fingerprint_says_what_is_recorded(scored):
    def fingerprint(threshold):
        return set_provenance(scored, {"mtld": {"threshold": threshold}})._fingerprint

    assert fingerprint(0.5) == fingerprint(0.5)
    assert len({fingerprint(0.5), fingerprint(0.7), scored._fingerprint}) == 3


def test_a_column_that_joins_a_formatted_pool_later_is_shown(scored):
    again = set_provenance(scored.with_format("numpy"), {"mtld": RECORD})
    assert again.add_column("further", [1, 2, 3]).with_format("numpy")[0].keys() == {*scored.column_names, "further"}
    few = set_provenance(scored.with_format("numpy", columns=["mtld"]), {"mtld": RECORD})
    assert few[0].keys() == {"mtld"}


def test_the_ids_of_others_are_no_record():
    table = Dataset(pa.table({"number": [1.0]}))
    table.features["number"].id = "somebody's id"
    assert get_provenance(table) == {}


def test_pools_scored_otherwise_do_not_join(scored):
    other = score(scored.remove_columns("mtld"), [MTLD(0.5)])
    with pytest.raises(ValueError, match="mtld"):
        concatenate_datasets([scored, other])


def test_equal_records_are_accepted_and_absent_ones_are_named():
    assert check_provenance({"mtld": RECORD}, {"mtld": dict(RECORD)}, ["mtld"]) == []
    assert check_provenance({"mtld": RECORD}, {}, ["mtld", "reward"]) == ["mtld", "reward"]


def test_unequal_records_are_refused_with_both_sides_named():
    with pytest.raises(InstructMineError) as error:
        check_provenance({"mtld": RECORD}, {"mtld": {**RECORD, "threshold": 0.5, "extra": 1}}, ["mtld"])
    message = str(error.value)
    assert "column 'mtld'" in message
    assert "the rule has extra=None, threshold=0.72, the data has extra=1, threshold=0.5" in message
    assert "indicator=" not in message
    assert "\n" not in message


def test_columns_that_the_rule_does_not_use_are_not_compared():
    assert check_provenance({"mtld": RECORD}, {"mtld": {}}, []) == []


def test_what_a_downloaded_column_carries_in_its_place_is_one_line():
    pool = Dataset.from_dict({"mtld": [1.0]})
    deep = '{"a": ' * 70 + "1" + "}" * 70
    for text, what in (("{no JSON", "is not JSON"), ('{"a": ' * 70_000, "deep"), (deep, "deep")):
        marked = pool.cast(Features({"mtld": Value("float64", id=text)}))
        with pytest.raises(InstructMineError, match=f"^the configuration of the column 'mtld' .*{what}") as error:
            get_provenance(marked)
        assert "\n" not in str(error.value)
