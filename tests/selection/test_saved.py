"""A saved selection is opened again, whole or not at all."""

import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, load_dataset
from hostile import HOSTILE

from hf_instructmine import InstructMineError, LossEstimator, Selection, Selector
from hf_instructmine.data.provenance import get_provenance, set_provenance
from hf_instructmine.outputs.digests import digest
from hf_instructmine.outputs.markdown import CardSection
from hf_instructmine.selection.record import SelectionRecord
from hf_instructmine.selection.saved import LATER, PLAIN


def selection(source: str = "web", eval_set: str = "mmlu") -> Selection:
    """One with every option, a row without a prediction, and a section with a figure."""
    scored = Dataset.from_dict(
        {
            "prompt": ["zero", "one", "two", "three", "four"],
            "completion": ["a", "b", "c", "d", "e"],
            "source": [source, source, "b", "b", "b"],
            "mtld": [3.0, 0.1, 2.0, 1.0 / 3.0, None],
            "output_length": [5, 6, 7, 8, 9],
            "rejected": ["<b>", "", "", "", ""],
        }
    )
    selector = Selector(
        LossEstimator.from_coefficients({"intercept": 0.1, "mtld": 1.0}),
        embeddings=np.eye(5),
        max_similarity=0.9,
        quotas={source: (None, 0.5)},
        max_response_tokens=700,
        eval_sets={eval_set: Dataset.from_dict({"prompt": ["One!", "four"], "completion": ["x", "y"]})},
    )
    made = selector.select(set_provenance(scored, {"mtld": {"indicator": "MTLD", "threshold": 0.72}}), size=2)
    made.license, made.source_datasets = "cc-by-4.0", ["tatsu-lab/alpaca"]
    made.sections.append(CardSection("Evi*dence", "As **Markdown**.", {"evidence.png": b"\x89PNG"}, ["better"]))
    return made


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def saved(tmp_path) -> Path:
    selection().save_to_disk(tmp_path / "curated")
    return tmp_path / "curated"


def test_it_comes_back_whole(saved):
    before, after = selection(), Selection.load(saved)
    assert str(after) == str(before) and str(after.card) == str(before.card)
    assert after.estimator == before.estimator and after.request == before.request
    assert after.indices.tolist() == before.indices.tolist() == [3, 2]
    np.testing.assert_array_equal(after.pool_log_loss, before.pool_log_loss)
    assert list(after.dataset) == list(before.dataset) and after.dataset.features == before.dataset.features
    assert get_provenance(after.dataset) == get_provenance(before.dataset)
    assert after.sections == before.sections and after.contaminated == {"mmlu": 2} and after.unread == ["rejected"]


def test_every_field_of_a_selection_is_kept():
    tables_rule_and_counts = {
        "dataset",
        "estimator",
        "indices",
        "pool_log_loss",
        "total",
        "sources",
        "sections",
        "decisions",
        "strategy",
    }
    assert {field.name for field in fields(SelectionRecord)} == {*PLAIN, *tables_rule_and_counts}


def test_saved_again_it_is_the_same_byte_for_byte(saved, tmp_path):
    Selection.load(saved).save_to_disk(tmp_path / "again")
    assert contents(tmp_path / "again") == contents(saved)
    Selection.load(saved).save_to_disk(saved, overwrite=True)
    assert contents(saved) == contents(tmp_path / "again")


def test_so_is_one_of_many_rows_that_was_cut_from_a_larger_pool(tmp_path):
    rows = {"text": [f"{'word ' * (i % 50)}{i}" for i in range(5000)], "mtld": np.random.default_rng(0).random(5000)}
    made = Selector(LossEstimator.from_coefficients({"mtld": 1.0})).select(
        Dataset.from_dict(rows), size=2500, drop_duplicates=False
    )
    made.save_to_disk(tmp_path / "one")
    Selection.load(tmp_path / "one").save_to_disk(tmp_path / "two")
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    # Where groups of rows end must not depend on how large the rows of the pool were guessed to be.
    assert pq.ParquetFile(tmp_path / "one/data/train-00000-of-00001.parquet").num_row_groups == 3


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_names_come_back_as_they_were(hostile, tmp_path):
    made = selection(hostile, hostile)
    made.save_to_disk(tmp_path / "one")
    again = Selection.load(tmp_path / "one")
    assert again.options["quotas"] == {hostile: (None, 0.5)} and again.contaminated == {hostile: 2}
    assert str(again.card) == str(made.card)
    assert not {"\x1b", "\u202e"} & set(str(again))


def test_the_rows_are_still_all_that_load_dataset_finds(saved):
    assert load_dataset(str(saved), split="train")["prompt"][:] == ["three", "two"]


def test_a_second_selection_in_the_same_folder_is_what_load_dataset_finds_then(tmp_path):
    """Of as many rows and bytes, saved at once: by its cache it would give the first ones again."""
    scored = Dataset.from_dict({"prompt": list("abcd"), "completion": list("wxyz"), "mtld": [0.0, 1.0, 2.0, 3.0]})
    scored = set_provenance(scored, {"mtld": {"indicator": "MTLD", "threshold": 0.72}})
    cache = {"split": "train", "cache_dir": tmp_path / "cache"}
    for sign, prompts in ((1.0, ["a", "b"]), (-1.0, ["d", "c"]), (1.0, ["a", "b"])):
        made = Selector(LossEstimator.from_coefficients({"mtld": sign})).select(scored, size=2)
        made.save_to_disk(tmp_path / "curated", overwrite=True)
        found = load_dataset(str(tmp_path / "curated"), **cache)
        assert found["prompt"][:] == prompts
        assert get_provenance(found) == {"mtld": {"indicator": "MTLD", "threshold": 0.72}}


def test_one_that_states_no_examples_as_before_still_opens(saved):
    content = json.loads((saved / "selection.json").read_text())
    for name in ("checksum", *LATER):
        content.pop(name)
    (saved / "selection.json").write_text(json.dumps({**content, "checksum": digest(content)}))
    (saved / "decisions.npz").unlink()
    again = Selection.load(saved)
    assert again.examples == [] and again.decisions is None and again.license == "cc-by-4.0"
    assert "Rows that were kept" not in again.card.text and "assert" not in again.card.text


def test_a_folder_that_is_none(tmp_path):
    LossEstimator.from_coefficients({"mtld": 1.0}).save_pretrained(tmp_path / "rule")
    for folder in (tmp_path, tmp_path / "rule", tmp_path / "absent"):
        with pytest.raises(InstructMineError, match="holds no selection: give a folder that `instructmine select`"):
            Selection.load(folder)


def test_one_of_an_earlier_version():
    earlier = Path(__file__).parents[1] / "written_before/curated"
    with pytest.raises(InstructMineError, match=r"was saved by an earlier version, which kept no selection\.json"):
        Selection.load(earlier)


def test_one_of_a_newer_version(saved):
    edit(saved, lambda content: content.update(schema_version=2))
    with pytest.raises(InstructMineError, match="has schema version 2; this hf-instructmine reads 1: upgrade it"):
        Selection.load(saved)


def edit(folder: Path, change) -> None:
    """Changes the record, its checksum with it, as somebody would who means harm."""
    path = folder / "selection.json"
    content = json.loads(path.read_text("utf-8"))
    content.pop("checksum")
    change(content)
    path.write_text(json.dumps({**content, "checksum": digest(content)}), "utf-8")


def cut(name: str):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:40])


def by_hand(folder: Path) -> None:
    """Another licence, and the checksum of before."""
    path = folder / "selection.json"
    path.write_text(path.read_text("utf-8").replace("cc-by-4.0", "mit"), "utf-8")


def another(folder: Path) -> None:
    """The rows of another selection in the place of these."""
    Dataset.from_dict({"predicted_log_loss": [0.0, 1.0]}).to_parquet(folder / "data/train-00000-of-00001.parquet")


@pytest.mark.parametrize(
    "damage, message",
    [
        (cut("selection.json"), "selection.json' is damaged or was changed by hand"),
        (lambda f: (f / "selection.json").write_text("[]"), "selection.json' is damaged or was changed by hand"),
        (lambda f: (f / "selection.json").write_text("[" * 70_000), "selection.json' is damaged or was changed by"),
        (lambda f: (f / "selection.json").write_text("{}", "utf-16"), "selection.json' is damaged or was changed by"),
        (lambda f: (f / "estimator.json").write_text("{}", "utf-16"), "estimator.json' is not UTF-8 text"),
        (by_hand, "selection.json' is damaged or was changed by hand"),
        (cut("estimator.json"), "estimator.json' is not JSON"),
        (cut("predictions.parquet"), "the selection in '.*' is damaged "),
        (cut("data/train-00000-of-00001.parquet"), "the selection in '.*' is damaged "),
        (lambda f: (f / "predictions.parquet").unlink(), "is damaged .*predictions.parquet"),
        (lambda f: (f / "evidence.png").unlink(), "is damaged .*evidence.png"),
        (another, "train-00000-of-00001.parquet and predictions.parquet do not belong together"),
        (lambda f: edit(f, lambda c: c.pop("asked")), "is damaged .*asked"),
        (lambda f: edit(f, lambda c: c.update(total=1)), "is damaged"),
        (lambda f: edit(f, lambda c: c["sections"][0].update(figures=["../../secret.png"])), "is no name of a figure"),
        (lambda f: edit(f, lambda c: c["sections"][0].update(figures=["/etc/x.png"])), "is no name of a figure"),
    ],
)  # fmt: skip
def test_a_damaged_one_is_told_in_one_line(saved, damage, message):
    damage(saved)
    with pytest.raises(InstructMineError, match=message) as told:
        Selection.load(saved)
    assert "\n" not in str(told.value)


def test_no_path_of_the_machine_is_in_the_record(saved, tmp_path):
    moved = shutil.move(saved, tmp_path / "moved")
    assert Selection.load(moved).num_selected == 2
    assert not [name for name, content in contents(Path(moved)).items() if str(tmp_path).encode() in content]
