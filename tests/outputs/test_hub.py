"""Pushing is one commit over real HTTP, read back with the usual tools; a token never leaves the headers."""

import json
import logging

import pytest
from datasets import Dataset, load_dataset
from hostile import HOSTILE
from hub_stub import TOKEN
from huggingface_hub import DatasetCard, HfApi, snapshot_download

from hf_instructmine import LossEstimator, Selection, Selector
from hf_instructmine.data.provenance import get_provenance, set_provenance
from hf_instructmine.errors import InstructMineError
from hf_instructmine.outputs import hub as publishing_hub


def select(rows: int, size: int):
    scored = Dataset.from_dict(
        {
            "prompt": [f"question {i}" for i in range(rows)],
            "completion": [f"answer {i}" for i in range(rows)],
            "mtld": [float(i) for i in range(rows)],
        }
    )
    scored = set_provenance(scored, {"mtld": {"indicator": "MTLD", "threshold": 0.72}})
    return Selector(LossEstimator.from_coefficients({"mtld": 1.0})).select(scored, size=size)


@pytest.fixture
def selection():
    return select(10, 4)


@pytest.fixture
def no_waiting(monkeypatch):
    monkeypatch.setattr(publishing_hub, "RETRY_DELAYS", (0, 0))


def test_one_commit_brings_all_files_and_they_load(hub, selection, tmp_path):
    assert selection.push_to_hub("curated") == "me/curated"
    selection.save_to_disk(tmp_path / "local")
    local = {file.relative_to(tmp_path / "local").as_posix() for file in (tmp_path / "local").rglob("*.*")}
    assert set(hub.dataset("me/curated").files) == local
    assert hub.commits_made("me/curated") == 1
    assert not hub.dataset("me/curated").private

    again = load_dataset("me/curated", split="train")
    assert again.to_list() == selection.dataset.to_list()
    assert get_provenance(again) == {"mtld": {"indicator": "MTLD", "threshold": 0.72}}
    rule = LossEstimator.from_pretrained("me/curated", repo_type="dataset")
    assert rule.predict(again).tolist() == again["predicted_log_loss"][:]
    card = hub.dataset("me/curated").files["README.md"].decode()
    assert 'load_dataset("me/curated", split="train")' in card


def test_pushing_again_replaces_what_load_dataset_gives(hub, selection):
    selection.push_to_hub("me/curated")
    assert len(load_dataset("me/curated", split="train")) == 4
    select(10, 7).push_to_hub("me/curated")
    assert len(load_dataset("me/curated", split="train")) == 7


def test_shards_of_an_earlier_dataset_are_not_mixed_in(hub, selection):
    selection.dataset.push_to_hub("me/curated", num_shards=2)
    selection.push_to_hub("me/curated")
    assert len(load_dataset("me/curated", split="train")) == 4


# What breaks lines, files, tables, comments and terminals.
TEXTS = [
    *filter(None, HOSTILE),
    *map(chr, range(32)),
    "\x7f",
    "\x85",
    "\u2028",
    "\ufeffa",
    "\u202bنامه\u200cها",
    "-->",
]
TEXTS += ["数据", "e\u0301", "\U0001f469\u200d\U0001f467", "<!-- /hf-instructmine {} -->"]


def test_hostile_rows_and_names_come_back_unchanged_and_the_card_stays_one(hub):
    rows = {"prompt": TEXTS, "completion": TEXTS[::-1], "source": TEXTS, "mtld": [float(i) for i in range(len(TEXTS))]}
    rule = LossEstimator.from_coefficients({"mtld": 1.0}, name=HOSTILE[0], origin=HOSTILE[7])
    scored = Dataset.from_dict(rows)
    for size in (len(TEXTS), len(TEXTS) - 1):
        selection = Selector(rule).select(scored, size=size, drop_duplicates=False)
        selection.source_datasets = TEXTS[:5]
        selection.push_to_hub("me/curated")
        again = load_dataset("me/curated", split="train", download_mode="force_redownload")
        assert again.to_list() == selection.dataset.to_list()
        card = DatasetCard(hub.dataset("me/curated").files["README.md"].decode())
        assert card.data.source_datasets == TEXTS[:5] and "<script>" not in card.text
        assert card.text.count("<!--") == 2 == card.text.count("-->")
    assert LossEstimator.from_pretrained("me/curated", repo_type="dataset").name == HOSTILE[0]


def test_a_large_selection_goes_up_in_shards_and_is_opened_again_from_its_repository(hub):
    selection = select(5000, 3500)
    selection.push_to_hub("me/curated", max_shard_size="20KB")
    assert sum(name.startswith("data/") for name in hub.dataset("me/curated").files) == 4
    again = Selection.load(snapshot_download("me/curated", repo_type="dataset"))
    assert again.dataset.to_list() == selection.dataset.to_list()
    again.push_to_hub("me/curated")
    assert sum(name.startswith("data/") for name in hub.dataset("me/curated").files) == 1


def test_private_is_private_from_its_creation(hub, selection):
    selection.push_to_hub("me/curated", private=True)
    assert hub.dataset("me/curated").private
    assert len(load_dataset("me/curated", split="train")) == 4


def test_private_data_never_goes_to_a_public_repository(hub, selection):
    HfApi().create_repo("me/curated", repo_type="dataset")
    with pytest.raises(InstructMineError, match="exists and is public"):
        selection.push_to_hub("me/curated", private=True)
    assert hub.dataset("me/curated").files == {}


@pytest.mark.parametrize("action", ["create", "commit"])
def test_a_passing_failure_is_tried_again(hub, selection, no_waiting, action):
    hub.failures[action] = 2
    selection.push_to_hub("me/curated")
    assert len(load_dataset("me/curated", split="train")) == 4
    assert len(hub.dataset("me/curated").commits) == 2, "the first, which creates the repository, and ours"


def test_a_lasting_failure_ends_in_one_line(hub, selection, no_waiting):
    hub.failures["commit"] = 99
    with pytest.raises(InstructMineError, match=r"refused to push to 'me/curated'.*503") as refusal:
        selection.push_to_hub("me/curated")
    assert "\n" not in str(refusal.value)
    assert hub.commits_made("me/curated") == 3


def test_without_a_token_nothing_is_begun(hub, selection, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(type(selection), "_write", lambda *_: pytest.fail("work before the token was looked for"))
    with pytest.raises(InstructMineError, match="no Hugging Face token: run `hf auth login`, set HF_TOKEN, or pass"):
        selection.push_to_hub("me/curated")
    assert hub.requests == []


def test_a_token_can_be_passed(hub, selection, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    selection.push_to_hub("me/curated", token=TOKEN + "\n")
    assert hub.commits_made("me/curated") == 1


@pytest.mark.parametrize("token", ["hf_wrongsecret", "hf_wrong\nsecret", "hf_wrongsecret\u2026"])
def test_a_wrong_token_is_refused_and_not_repeated(hub, selection, token):
    with pytest.raises(InstructMineError) as refusal:
        selection.push_to_hub("me/curated", token=token)
    assert "\n" not in str(refusal.value)
    error = refusal.value
    while error is not None:
        assert "secret" not in str(error)
        error = error.__cause__ or error.__context__


def test_the_token_is_in_no_file_and_no_log(hub, selection, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    selection.push_to_hub("me/curated", token=TOKEN)
    assert not any(TOKEN.encode() in data for data in hub.dataset("me/curated").files.values())
    written = capfd.readouterr()
    assert TOKEN not in caplog.text + written.out + written.err


def test_an_impossible_name_is_refused_before_any_request(hub, selection):
    with pytest.raises(InstructMineError, match="no repository id") as refusal:
        selection.push_to_hub("me/cur ated/x")
    assert "\n" not in str(refusal.value)
    assert hub.requests == []


def test_no_network_is_one_line(hub, selection, no_waiting):
    hub.shutdown()
    hub.server_close()
    with pytest.raises(InstructMineError, match="cannot be reached") as refusal:
        selection.push_to_hub("me/curated")
    assert "\n" not in str(refusal.value)


def test_offline_mode_is_one_line(hub, selection, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(InstructMineError, match="unset HF_HUB_OFFLINE"):
        selection.push_to_hub("me/curated")


def test_what_is_pushed_says_how_each_number_was_made(hub, selection):
    selection.push_to_hub("me/curated")
    recorded = json.loads(hub.dataset("me/curated").files["indicators.json"])
    assert recorded == {"mtld": {"indicator": "MTLD", "threshold": 0.72}}
