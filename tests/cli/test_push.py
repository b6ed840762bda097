"""`instructmine push`: the files of ours in a folder, with a card of the repository, whichever way they came there."""

import json
import shutil
from pathlib import Path

import pytest
from datasets import Dataset, load_dataset

import hf_instructmine as him
from hf_instructmine.cli.main import main


EARLIER = Path(__file__).parents[1] / "written_before"
PARQUET = "data/train-00000-of-00001.parquet"
# What may lie in anybody's folder.
FOREIGN = (".env", ".git/config", ".cache/x", "__pycache__/a.pyc", ".curated.0a1b2c3d.tmp/estimator.json", "notes.txt")


@pytest.fixture
def selection(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pool = {"prompt": list("abcdef"), "completion": list("ghijkl"), "mtld": [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]}
    rule = him.LossEstimator.from_coefficients({"mtld": 1.0})
    return him.Selector(rule).select(Dataset.from_dict(pool), size=4)


def with_foreign_files(folder: str) -> str:
    for name in (*FOREIGN, "data/mine.csv"):
        path = Path(folder, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("SECRET=1")
    return folder


def test_it_sends_what_push_to_hub_sends_and_nothing_else(selection, hub, capsys):
    selection.push_to_hub("me/by-hand")
    selection.save_to_disk("curated")
    assert main(["push", with_foreign_files("curated"), "me/by-verb"]) == 0
    files = hub.dataset("me/by-verb").files
    by_hand = hub.dataset("me/by-hand").files
    card, expected = (text.pop("README.md").partition(b"<!-- /hf-instructmine")[0] for text in (files, by_hand))
    assert card == expected.replace(b"me/by-hand", b"me/by-verb")
    assert files == by_hand
    out = " ".join(capsys.readouterr().out.split())
    assert "Left here, as not written by hf-instructmine: " in out and ".cache, .curated.0a1b2c3d.tmp, .env, " in out
    assert "and 2 more Pushed curated: load_dataset('me/by-verb') opens it" in out


def test_shards_of_an_earlier_dataset_are_not_mixed_in(selection, hub):
    selection.dataset.push_to_hub("me/rows", num_shards=2)
    selection.save_to_disk("curated")
    assert main(["push", "curated", "me/rows"]) == 0
    assert load_dataset("me/rows", split="train").to_list() == selection.dataset.to_list()


def test_what_an_earlier_version_saved_goes_with_a_card_of_the_repository(tmp_path, monkeypatch, hub, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(EARLIER / "curated", "curated")
    rows = Dataset.from_parquet(f"curated/{PARQUET}")
    rows.push_to_hub("me/rows", num_shards=2)
    assert main(["push", with_foreign_files("curated"), "me/rows"]) == 0
    files = hub.dataset("me/rows").files
    card = files["README.md"].decode()
    assert 'load_dataset("me/rows", split="train")' in card and "path/to/this/folder" not in card
    assert 'from_pretrained("me/rows", repo_type="dataset")' in card and f"path: {PARQUET}" in card
    ours = {"README.md", PARQUET, "estimator.json", "indicators.json"}
    assert set(files) == ours | {f"data/train-{index:05d}-of-00002.parquet" for index in range(2)}
    assert load_dataset("me/rows", split="train").to_list() == rows.to_list()
    assert "Left here" in capsys.readouterr().out


def test_a_folder_that_lacks_a_file_is_refused_before_anything_is_made(selection, hub, capsys):
    selection.save_to_disk("curated")
    Path("curated/estimator.json").unlink()
    assert main(["push", "curated", "me/rows"]) == 1
    shutil.copytree(EARLIER / "curated", "earlier")
    Path("earlier/README.md").unlink()
    assert main(["push", "earlier", "me/rows"]) == 1
    err = capsys.readouterr().err
    assert "'curated' holds no selection" in err and "'earlier' has no README.md" in err
    assert hub.repos == {}


def test_a_rule_goes_without_the_files_that_lie_beside_it(selection, hub, capsys):
    selection.estimator.save_pretrained("rule")
    assert main(["push", with_foreign_files("rule"), "me/rule", "--commit-message", "By hand"]) == 0
    assert set(hub.model("me/rule").files) == {"README.md", "estimator.json"}
    assert hub.model("me/rule").commits[-1][1] == "By hand"
    assert "Left here, as not written by hf-instructmine" in capsys.readouterr().out


def test_the_same_again_is_said(selection, hub, capsys):
    selection.save_to_disk("curated")
    for _ in range(2):
        assert main(["push", "curated", "me/rows"]) == 0
    assert "'me/rows' holds all of curated already: no commit was made" in capsys.readouterr().out
    assert hub.commits_made("me/rows") == 1


def test_what_somebody_wrote_into_the_folders_card_is_not_left_out_silently(selection, hub, capsys):
    selection.save_to_disk("curated")
    card = Path("curated/README.md").read_text("utf-8")
    assert main(["push", "curated", "me/rows"]) == 0
    assert "made anew" not in capsys.readouterr().err
    Path("curated/README.md").write_text(card.replace("---\n", "---\nlanguage: en\n", 1) + "\n## Notes\n", "utf-8")
    assert main(["push", "curated", "me/rows"]) == 0
    assert "what curated/README.md has besides (Notes, language): write it into" in capsys.readouterr().err


def test_a_pull_request_is_named_by_its_address(selection, hub, capsys):
    selection.save_to_disk("curated")
    selection.dataset.push_to_hub("me/rows")
    Path("options.yaml").write_text("commit-message: In pieces\nmax-shard-size: 1GB")
    assert main(["push", "curated", "me/rows", "--create-pr", "--config", "options.yaml"]) == 0
    assert f"Opened {hub.url}/datasets/me/rows/discussions/1 with curated" in capsys.readouterr().out
    assert hub.dataset("me/rows").branches["refs/pr/1"][-1][1] == "In pieces"


def test_the_token_stands_in_no_file(selection, hub):
    selection.save_to_disk("curated")
    assert main(["push", "curated", "me/rows"]) == 0
    kept = json.loads(hub.dataset("me/rows").files["selection.json"])
    assert kept["asked"] == {"size": 4}
    assert not any(str(Path.cwd()).encode() in data for data in hub.dataset("me/rows").files.values())
