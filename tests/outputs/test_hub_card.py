"""A card in a repository may be a user's: what is theirs stays, word for word; where it cannot, nothing is touched."""

import pytest
import yaml
from datasets import Dataset, load_dataset
from hostile import HOSTILE
from huggingface_hub import DatasetCard, HfApi, metadata_load

from hf_instructmine.errors import InstructMineError
from hf_instructmine.outputs.hub_card import BEGIN, files_of, merge_card
from hf_instructmine.outputs.publishing import Content, publish


DATA = "data/train-00000-of-00001.parquet"
OURS = """---
size_categories:
- n<1K
source_datasets:
- me/pool
tags:
- hf-instructmine
---

# Curated

Two rows.

## How to load

```python
## no heading
```

## Citation

Cao et al.
"""
THEIRS = """---
language:
- no
license: cc-by-4.0
pretty_name: Mine
tags:
- mine
configs:
- config_name: de
  data_files: de.parquet
date: 2026-01-01
---

# My data

Collected by me.
"""


def merged(earlier: str | bytes | None, ours: str = OURS, overwrite: bool = False, files=(DATA,)) -> DatasetCard:
    return DatasetCard(merge_card(earlier, ours, ["selection.json", *files], "me/rows", overwrite))


def test_a_new_card_names_the_file_of_the_rows_and_marks_our_part():
    card = merged(None)
    files = [{"split": "train", "path": DATA}]
    assert card.data.to_dict()["configs"] == [{"config_name": "default", "data_files": files}]
    assert card.text.startswith(f"\n{BEGIN}\n\n# Curated\n\nTwo rows.")
    assert files_of(card.content) == ["selection.json", DATA]
    assert merged(card.content).content == card.content


def test_a_users_card_keeps_metadata_configurations_and_text():
    card = merged(THEIRS)
    data = yaml.safe_load(card.content.split("---\n")[1])
    assert data["language"] == ["no"] and data["license"] == "cc-by-4.0" and data["pretty_name"] == "Mine"
    assert str(data["date"]) == "2026-01-01"
    assert data["tags"] == ["mine", "hf-instructmine"]
    assert [config["config_name"] for config in data["configs"]] == ["default", "de"]
    assert "# My data\n\nCollected by me.\n" in card.content and "# Curated" in card.content
    assert merged(card.content).content == card.content


def test_what_a_user_wrote_around_and_between_our_sections_stays():
    first = merged(None).content
    text = first.replace(BEGIN, f"Read me first.\n\n{BEGIN}")
    text = text.replace("## Citation", "## Notes\n\nOf mine.\n\n## Citation") + "\n## Contact\n\nMe.\n"
    again = merged(text, OURS.replace("Two rows", "Three rows")).content
    assert "Three rows" in again and "Two rows" not in again
    order = [
        again.index(part) for part in ("Read me first.", BEGIN, "## Citation", "## Notes\n\nOf mine.", "## Contact")
    ]
    assert order == sorted(order)
    assert again.count("## Citation") == again.count("## Notes") == again.count(BEGIN) == 1
    assert merged(again, OURS.replace("Two rows", "Three rows")).content == again


def test_metadata_that_we_wrote_are_made_anew_and_what_a_user_added_stays():
    text = (
        merged(None).content.replace("- me/pool", "- me/pool\n- theirs/pool").replace("- n<1K", "- n<1K\nlicense: mit")
    )
    data = merged(text, OURS.replace("me/pool", "me/other").replace("n<1K", "1K<n<10K")).data.to_dict()
    assert data["source_datasets"] == ["theirs/pool", "me/other"]
    assert data["size_categories"] == ["1K<n<10K"] and data["license"] == "mit"


def test_features_stand_beside_those_of_other_configurations():
    info = {"features": [{"name": "text", "dtype": "string"}]}
    ours = OURS.replace("tags:", f"dataset_info: {info}\ntags:")
    alone = merged(None, ours)
    assert merged(alone.content, ours).content == alone.content
    further = {"config_name": "de", "features": []}
    card = merged(f"---\ndataset_info:\n- {further}\n- {{features: []}}\n---\n", ours)
    assert card.data.to_dict()["dataset_info"] == [{"config_name": "default", **info}, further]
    assert merged(card.content, ours).content == card.content


def test_a_licence_that_we_wrote_is_not_taken_away():
    text = merged(None, OURS.replace("tags:", "license: mit\ntags:")).content
    assert merged(text).data.license == "mit"
    assert merged(text, OURS.replace("tags:", "license: other\ntags:")).data.license == "other"


@pytest.mark.parametrize(
    "damage, said",
    [
        (lambda card: card.replace("Two rows", "Two good rows"), "was changed by hand: move what you wrote below"),
        (lambda card: card.replace(BEGIN, ""), "one is missing or there twice"),
        (lambda card: card + card[card.index(BEGIN) :], "one is missing or there twice"),
        (lambda card: card.replace('"headings"', '"heading"'), "the closing mark of hf-instructmine was changed"),
        (lambda card: card.replace("tags:", "tags: [", 1), "metadata are no YAML"),
        (
            lambda card: card.replace("tags:", "license: mit\ntags:", 1),
            "license: mit, and what is pushed says license: x",
        ),
        (lambda card: card.replace("configs:", "configs: 1\nx:", 1), "configs are no list"),
    ],
)
def test_a_card_that_cannot_be_merged_is_refused_unless_it_may_be_replaced(damage, said):
    card = damage(merged(None).content)
    ours = OURS.replace("tags:", "license: x\ntags:")
    with pytest.raises(InstructMineError, match=f"the card of 'me/rows' would be damaged: .*{said}"):
        merged(card, ours)
    assert merged(card, ours, overwrite=True).content == merged(None, ours).content


@pytest.mark.parametrize(
    "configs, said",
    [
        ([{"config_name": "default", "data_files": [{"split": "test", "path": "t.parquet"}]}], "has the split 'test'"),
        (
            [{"config_name": "de", "data_files": "d.parquet", "default": True}],
            "'de' is the one that load_dataset opens",
        ),
    ],
)
def test_a_configuration_that_could_not_be_opened_any_more_is_not_replaced(configs, said):
    card = f"---\n{yaml.safe_dump({'configs': configs})}---\n"
    with pytest.raises(InstructMineError, match=said):
        merged(card)
    assert len(merged(card, overwrite=True).data.to_dict()["configs"]) == 1


def test_a_card_in_bytes_keeps_each_of_its_letters():
    assert "Grüße" in merged("---\r\nlanguage: de\r\n---\r\n# Grüße\r\n".encode("utf-8-sig")).text
    with pytest.raises(InstructMineError, match="it is not in UTF-8"):
        merged("# Grüße".encode("latin-1"))


def test_a_card_of_an_earlier_version_is_made_anew_but_for_the_users_sections():
    earlier = OURS + "\n## Does it beat a random choice?\n\nOld.\n\n## Notes\n\nOf mine.\n"
    card = merged(earlier.replace("tags:", "license: mit\ntags:"), OURS.replace("Two", "Three"))
    assert "Two rows" not in card.text and "Old." not in card.text and card.data.license == "mit"
    assert card.text.rstrip().endswith("## Notes\n\nOf mine.")
    assert files_of(earlier) == [DATA]


@pytest.mark.parametrize("hostile", [*HOSTILE, "--><script>", "<!-- /hf-instructmine {} -->"])
def test_names_from_data_cannot_end_our_part_or_its_mark(hostile):
    head = yaml.safe_dump({"tags": ["hf-instructmine"], "source_datasets": [hostile]})
    body = f"# Curated\n\n## How to load\n\n````text\n{hostile[:80]}\n````\n".replace("\n---\n", "\n")
    card = merged(None, f"---\n{head}---\n\n{body}")
    again = merged(card.content, f"---\n{head}---\n\n{body}".replace("Curated", "Curated anew"))
    assert again.data.to_dict()["source_datasets"] == [hostile]
    assert again.text.count("# Curated anew") == 1 == again.text.count("# Curated")
    comment = again.text[again.text.index("<!-- /hf-instructmine {") :]
    assert comment.count("-->") == 1 and comment.rstrip().endswith("-->") and "<" not in comment[1:]


def test_features_of_an_earlier_dataset_are_not_said_of_ours(hub):
    Dataset.from_dict({"number": [1]}).push_to_hub("me/rows")
    Dataset.from_dict({"other": [2.0]}).push_to_hub("me/rows", "further")

    def write(folder, repo_id):
        (folder / "README.md").write_text(OURS)

    publish(Content("dataset", "Add rows", write, Dataset.from_dict({"word": ["yes"]})), "me/rows")
    assert load_dataset("me/rows", split="train").to_dict() == {"word": ["yes"]}
    assert load_dataset("me/rows", "further", split="train").to_dict() == {"other": [2.0]}


def test_both_configurations_open_after_a_push(hub, tmp_path):
    Dataset.from_dict({"wort": ["ja"]}).to_parquet(tmp_path / "de.parquet")
    HfApi().create_repo("me/rows", repo_type="dataset")
    for name, file in (("de.parquet", tmp_path / "de.parquet"), ("README.md", THEIRS.encode())):
        HfApi().upload_file(path_or_fileobj=file, path_in_repo=name, repo_id="me/rows", repo_type="dataset")

    def write(folder, repo_id):
        (folder / "README.md").write_text(OURS)

    publish(Content("dataset", "Add rows", write, Dataset.from_dict({"word": ["yes"]})), "me/rows")
    assert load_dataset("me/rows", split="train")["word"][:] == ["yes"]
    assert load_dataset("me/rows", "de", split="train")["wort"][:] == ["ja"]
    (tmp_path / "README.md").write_bytes(hub.dataset("me/rows").files["README.md"])
    assert metadata_load(tmp_path / "README.md")["license"] == "cc-by-4.0"
