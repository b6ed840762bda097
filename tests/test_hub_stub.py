"""The stub is only worth something if the real libraries cannot tell it from the Hub."""

import subprocess
import sys
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset
from huggingface_hub import HfApi, create_repo, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError


def test_a_dataset_comes_back_as_it_went(hub):
    rows = {"text": ["Grüße", "a\x00b", ""], "score": [0.5, float("nan"), -1.0]}
    Dataset.from_dict(rows).push_to_hub("me/pool")
    again = load_dataset("me/pool", split="train")
    assert again["text"] == rows["text"]
    assert again["score"][0] == 0.5


def test_a_model_repository_takes_files_in_one_commit_and_gives_them_back(hub, tmp_path):
    (tmp_path / "source").mkdir()
    (tmp_path / "source/config.json").write_text("{}")
    (tmp_path / "source/weights.bin").write_bytes(bytes(range(256)))
    create_repo("me/model")
    HfApi().upload_folder(repo_id="me/model", folder_path=tmp_path / "source")
    assert hub.commits_made("me/model") == 1
    assert set(hub.model("me/model").files) == {"config.json", "weights.bin"}
    folder = snapshot_download("me/model")
    assert Path(f"{folder}/weights.bin").read_bytes() == bytes(range(256))
    assert Path(hf_hub_download("me/model", "config.json")).read_text() == "{}"


def test_an_older_revision_stays_readable(hub):
    api = HfApi()
    api.create_repo("me/model")
    first = api.upload_file(path_or_fileobj=b"1", path_in_repo="n.txt", repo_id="me/model")
    api.upload_file(path_or_fileobj=b"2", path_in_repo="n.txt", repo_id="me/model")
    assert Path(hf_hub_download("me/model", "n.txt")).read_text() == "2"
    assert Path(hf_hub_download("me/model", "n.txt", revision=first.oid)).read_text() == "1"


def test_a_private_repository_does_not_exist_for_a_stranger(hub):
    HfApi().create_repo("me/secret", private=True)
    assert HfApi().repo_info("me/secret").private
    with pytest.raises(RepositoryNotFoundError):
        HfApi(token=False).repo_info("me/secret")


def test_a_failure_can_be_ordered(hub):
    HfApi().create_repo("me/model")
    hub.failures["commit"] = 1
    with pytest.raises(HfHubHTTPError):
        HfApi().upload_file(path_or_fileobj=b"1", path_in_repo="n.txt", repo_id="me/model")
    HfApi().upload_file(path_or_fileobj=b"1", path_in_repo="n.txt", repo_id="me/model")
    assert hub.commits_made("me/model") == 2


def test_a_subprocess_reaches_it_through_the_environment(hub):
    HfApi().create_repo("me/model")
    code = "from huggingface_hub import HfApi; print(HfApi().repo_info('me/model').id)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "me/model"
