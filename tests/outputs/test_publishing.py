"""One way to the Hub, for sets of any size: what goes there, what is kept of what is there, what is refused before."""

import re
from dataclasses import replace

import pytest
from datasets import Dataset, load_dataset
from hub_stub import TOKEN
from huggingface_hub import HfApi

from hf_instructmine.errors import InstructMineError
from hf_instructmine.outputs.publishing import Content, publish


DATA = "data/train-00000-of-00001.parquet"


def content(rows: dict | None = None, license: str = "mit", **files: str) -> Content:
    def write(folder, repo_id):
        for name, text in files.items():
            (folder / f"{name}.json").write_text(text)
        (folder / "README.md").write_text(f"---\nlicense: {license}\n---\n# {repo_id}\n")

    return Content("dataset", "Add rows", write, None if rows is None else Dataset.from_dict(rows))


def users_files(repo_id: str, **files: bytes) -> None:
    HfApi().create_repo(repo_id, repo_type="dataset", exist_ok=True)
    for name, data in files.items():
        HfApi().upload_file(
            path_or_fileobj=data, path_in_repo=name.replace("__", "/"), repo_id=repo_id, repo_type="dataset"
        )


def test_a_large_table_goes_up_in_shards_of_which_one_at_a_time_is_on_the_disk(hub, monkeypatch):
    from hf_instructmine.outputs import publishing

    rows = {"number": list(range(5000)), "text": [f"{number} " * 20 for number in range(5000)]}
    on_disk = []
    upload = publishing._Push.upload

    def noted(self, folder, paths):
        paths = list(paths)
        on_disk.append(sorted(path.name for path in folder.rglob("*.parquet")))
        upload(self, folder, paths)

    monkeypatch.setattr(publishing._Push, "upload", noted)
    publish(content(rows), "me/rows", max_shard_size="250KB")
    names = sorted(name for name in hub.dataset("me/rows").files if name.startswith("data/"))
    assert len(names) == 3 and names[-1] == "data/train-00002-of-00003.parquet"
    assert max(map(len, on_disk)) == 1
    assert hub.commits_made("me/rows") == 1
    assert load_dataset("me/rows", split="train").to_dict() == rows


def test_shards_of_ours_that_are_no_longer_part_go_in_the_same_commit_and_the_users_stay(hub):
    rows = {"number": list(range(3000))}
    users_files("me/rows", data__test=b"1", data__mine=b"2", notes=b"3")
    users_files("me/rows", **{"data__train-00000-of-00009.parquet": b"not ours"})
    publish(content(rows, selection="{}", decisions="{}"), "me/rows", max_shard_size=9000)
    assert sum("-of-00003.parquet" in name for name in hub.dataset("me/rows").files) == 3
    publish(content({"number": [1, 2]}, selection="{}"), "me/rows")
    assert set(hub.dataset("me/rows").files) == {
        "README.md", DATA, "selection.json", "data/test", "data/mine", "notes", "data/train-00000-of-00009.parquet",
    }  # fmt: skip
    assert load_dataset("me/rows", split="train")["number"][:] == [1, 2]


def test_a_card_cannot_name_the_users_files_as_ours(hub):
    publish(content({"number": [1]}, selection="{}"), "me/rows")
    card = hub.dataset("me/rows").files["README.md"].decode()
    named = card.replace('"selection.json"', '"selection.json","*","notes.txt","data/test-*-of-00001.parquet"')
    assert named != card
    users_files("me/rows", **{"README.md": named.encode(), "notes.txt": b"", "data__test-00000-of-00001.parquet": b""})
    publish(content({"number": [2]}, selection="{}"), "me/rows")
    assert {"notes.txt", "data/test-00000-of-00001.parquet"} <= set(hub.dataset("me/rows").files)


def test_the_same_again_makes_no_commit_and_uploads_nothing(hub):
    assert publish(content({"number": [1]}, selection="{}"), "me/rows").changed
    hub.requests.clear()
    again = publish(content({"number": [1]}, selection="{}"), "me/rows")
    assert again == "me/rows" and not again.changed
    assert not [path for method, path in hub.requests if "commit" in path or "preupload" in path or method == "PUT"]


def test_what_has_not_changed_is_not_sent_again(hub):
    publish(content({"number": [1]}, selection="{}", rule="{}"), "me/rows")
    hub.requests.clear()
    publish(content({"number": [1]}, selection="{ }", rule="{}"), "me/rows")
    assert not [path for method, path in hub.requests if method == "PUT"]
    assert hub.dataset("me/rows").files["selection.json"] == b"{ }"


def test_a_branch_and_a_pull_request_leave_main_as_it_is(hub):
    publish(content({"number": [1]}), "me/rows")
    HfApi().create_branch("me/rows", branch="next", repo_type="dataset")
    publish(content({"number": [1, 2]}), "me/rows", revision="next", commit_message="Two rows")
    asked = publish(content({"number": [1, 2, 3]}), "me/rows", create_pr=True)
    assert asked == "me/rows" and asked.pull_request == f"{hub.url}/datasets/me/rows/discussions/1"
    assert hub.dataset("me/rows").branches["next"][-1][1] == "Two rows"
    read = {name: len(load_dataset("me/rows", split="train", revision=name)) for name in ("main", "next", "refs/pr/1")}
    assert read == {"main": 1, "next": 2, "refs/pr/1": 3}


@pytest.mark.parametrize(
    "options, said",
    [
        ({"license": "my own"}, r'does not accept the card\'s metadata \("license" must be one of'),
        ({"repo_id": "me/a b"}, "is no repository id"),
        ({"token": "hf_wrong"}, "status 401.*hf auth login"),
        ({"revision": "next"}, "there is no 'me/rows' yet to have a branch 'next': push without, first"),
        ({"create_pr": True}, "there is no 'me/rows' yet to have a pull request"),
        ({"commit_message": "  "}, "commit_message is empty"),
        ({"max_shard_size": "many"}, "max_shard_size='many' is no size: write '500MB'"),
        ({"max_shard_size": 0}, "is no size"),
    ],
)
def test_what_can_be_refused_is_refused_before_a_repository_is_made(hub, options, said):
    options = {"repo_id": "me/rows", "license": "mit", **options}
    with pytest.raises(InstructMineError, match=said) as refusal:
        publish(content({"number": [1]}, license=options.pop("license")), **options)
    assert hub.repos == {} and "\n" not in str(refusal.value)


def test_what_cannot_be_written_is_refused_before_a_repository_is_made(hub):
    def write(folder, repo_id):
        raise OSError(28, "No space left on device")

    with pytest.raises(InstructMineError, match=r"No space left on device\); nothing was pushed$"):
        publish(replace(content({"number": [1]}), write=write), "me/rows")
    assert hub.repos == {}


def test_a_repository_that_is_hidden_from_a_token_that_is_valid_is_made(hub):
    hub.faults["repo_info"] = [(401, {"X_Error_Code": "RepoNotFound"})]
    assert publish(content({"number": [1]}), "me/rows") == "me/rows"
    assert ("GET", "/api/whoami-v2") in hub.requests


def test_a_branch_that_is_not_there_is_one_line(hub):
    publish(content({"number": [1]}), "me/rows")
    with pytest.raises(InstructMineError, match="'me/rows' has no such branch: make it with `hf repos branch create`"):
        publish(content({"number": [2]}), "me/rows", revision="nowhere")


def test_private_is_asked_of_what_is_public(hub):
    publish(content({"number": [1]}), "me/rows")
    with pytest.raises(InstructMineError, match="exists and is public, so private=True cannot be kept"):
        publish(content({"number": [2]}), "me/rows", private=True)
    assert len(load_dataset("me/rows", split="train")) == 1


def test_a_name_without_an_owner_is_ones_own(hub):
    assert publish(content({"number": [1]}), "rows") == "me/rows"
    assert "# me/rows" in hub.dataset("me/rows").files["README.md"].decode()


def test_no_token_is_in_what_is_said(hub, capfd):
    with pytest.raises(InstructMineError) as refusal:
        hub.faults["commit"] = [403]
        publish(content({"number": [1]}), "me/rows", token=TOKEN)
    assert not re.search(TOKEN, str(refusal.value) + "".join(capfd.readouterr()))
