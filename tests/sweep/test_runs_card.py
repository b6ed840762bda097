"""The card of a sweep's runs says what they are, and whatever names the data brings along stay text in it."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from datasets import Dataset, load_dataset
from hostile import HOSTILE, acted_on, cells
from huggingface_hub import DatasetCard

from hf_instructmine.data.provenance import set_provenance
from hf_instructmine.outputs.records import Records
from hf_instructmine.sweep.card import MAX_RUNS, build_runs_card, push_runs
from hf_instructmine.sweep.runs import load_runs


EARLIER = Path(__file__).parents[1] / "written_before"


def card_of(name: str, runs: int = 2) -> DatasetCard:
    """The card of runs of which every name is the same, and the last failed."""
    done, failed = runs - 1, 1
    table = {
        "mixture_id": [name] * runs,
        "seed": list(range(runs)),
        "status": ["done"] * done + ["failed"],
        "reason": [None] * done + [name],
        "base_model": [name] * runs,
        "versions": [json.dumps({f"torch {name}": f"2 {name}"})] * runs,
        f"base_loss_{name}": [2.5] * runs,
        f"loss_{name}": [1.5] * done + [None] * failed,
        "train_tokens": [1200] * done + [None] * failed,
        "seconds": [3.0] * runs,
        f"mtld {name}": [70.0] * runs,
    }
    made = {f"mtld {name}": {"indicator": "MTLD", name: name}}
    manifest = {
        "evaluation_sets": {name: f"3 examples, {name}"},
        "pool": f"24 rows, {name}",
        "recipe": {"learning_rate": 1e-3, "chat_template_path": name},
    }
    return build_runs_card(set_provenance(Dataset.from_dict(table), made), manifest)


def test_it_says_what_the_runs_are():
    card = card_of("calm", 3)
    assert yaml.safe_load(card.content.split("---\n")[1]) == {
        "pretty_name": "3 finetunes of a sweep",
        "task_categories": ["tabular-regression"],
        "size_categories": ["n<1K"],
        "tags": ["instructmining", "instruction-tuning", "data-selection", "hf-instructmine"],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "data/train-00000-of-00001.parquet"}],
            }
        ],
    }
    assert "# 3 finetunes of calm\n\nEach row is one finetune of calm on a subset" in card.text
    assert "an instruction pool (24 rows, calm)" in card.text
    assert "2 runs are done, 1 failed (`reason` says why)" in card.text
    assert "| learning\\_rate | 0.001 |" in card.text
    assert "| calm | 3 examples, calm | 2.5000 | – | 0.00000 |" in card.text
    assert "| calm | 0 | done | 1.5000 | 1,200 | 3.0 |\n" in card.text
    assert "| calm | 2 | failed: calm | – | – | 3.0 |\n" in card.text
    assert '| mtld calm | \\{"calm": "calm", "indicator": "MTLD"\\} |\n' in card.text
    assert card.content.endswith("\n\n## Versions\n\ntorch calm 2 calm\n")


def test_one_run_is_counted_as_one():
    assert "1 run is done, 1 failed" in card_of("calm").text
    assert "# 1 finetune of calm\n" in card_of("calm", 1).text


def test_runs_without_indicators_have_no_table_of_them():
    runs = Dataset.from_dict(
        {"mixture_id": ["m"], "seed": [0], "status": ["failed"], "reason": ["full"], "base_model": ["b"]}
        | {"versions": ["{}"], "train_tokens": [None], "seconds": [1.0]}
    )
    text = build_runs_card(runs, {"evaluation_sets": {}, "pool": "1 row", "recipe": {}}).text
    assert "## Indicators" not in text and "failed: full | – | 1.0 |\n\n## Versions\n" in text


def test_many_runs_are_cut():
    text = card_of("calm", MAX_RUNS + 1).text
    assert f"\n\nThe first {MAX_RUNS} of {MAX_RUNS + 1} are listed.\n\n## Indicators" in text
    assert f"| calm | {MAX_RUNS} |" not in text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_the_data_is_called_stays_text(hostile):
    calm, card = card_of("calm"), card_of(hostile)
    assert card.data.to_dict() == calm.data.to_dict()
    assert card.content.count("\n") == calm.content.count("\n")
    assert cells(card.text) == cells(calm.text)
    assert acted_on(card.text) == []


@pytest.fixture
def sweep(tmp_path) -> Path:
    return Path(shutil.copytree(EARLIER / "sweep", tmp_path / "sweep"))


def test_no_text_of_a_run_names_a_folder_of_the_user_or_a_token(sweep, hub, monkeypatch):
    monkeypatch.setattr(Path, "home", lambda: Path("/home/alice"))
    records = Records(sweep)
    path = records.path_of("mixture-001-seed1")
    record = records.read(path)
    token = "hf_" + "secret" * 5
    record["reason"] = rf"file:///home/alice/x.bin and C:\Users\alice\y.bin and ~alice/z: {token} in /home/alice"
    record["status"] = "failed"
    record["base_model"] = "/home/alice/models/tiny"
    record["mixture"] |= {"note": "/home/alice", "nested": [{"at": "/home/alice/a", "key": "sk-" + "secret" * 5}]}
    record["versions"] |= {"torch": "2.1 of /home/alice/torch"}
    records.write(path, record)
    push_runs(sweep, "me/runs")
    runs = load_dataset("me/runs", split="train")
    row = next(row for row in runs if row["mixture_id"] == "mixture-001")
    assert row["reason"] == "x.bin and y.bin and z: … in ~"
    assert row["base_model"] == "tiny" and row["note"] == "~" and row["nested"] == [{"at": "a", "key": "…"}]
    assert json.loads(row["versions"])["torch"] == "2.1 of torch"
    assert not any(word in data for data in hub.dataset("me/runs").files.values() for word in (b"alice", b"secret"))


def test_what_no_path_and_no_token_is_in_is_pushed_as_it_is(sweep, hub):
    push_runs(sweep, "me/runs", commit_message="All of them")
    assert load_dataset("me/runs", split="train").to_list() == load_runs(sweep, examples=True).to_list()
    assert hub.dataset("me/runs").commits[-1][1] == "All of them"
    assert not push_runs(sweep, "me/runs").changed
