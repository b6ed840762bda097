"""Licences, languages and sources are those that the user states, or that the inputs' cards do; conflicts are said."""

import pytest
import yaml
from datasets import Dataset
from hostile import NAMES

from hf_instructmine import InstructMineError, LossEstimator, Selection, Selector
from hf_instructmine.outputs.metadata import LICENSE
from hf_instructmine.selection.origin import read_origin


def folder(path, **metadata) -> str:
    """An input with a card."""
    path.mkdir()
    (path / "README.md").write_text(f"---\n{yaml.safe_dump(metadata)}---\n\n# Pool\n")
    return str(path)


def selection(sources=("web", "web", "book", "book"), size: int = 3) -> Selection:
    scored = Dataset.from_dict({"mtld": [float(i) for i in range(len(sources))], "source": list(sources)})
    return Selector(LossEstimator.from_coefficients({"mtld": 1.0})).select(scored, size=size)


def test_an_input_with_a_card_passes_on_what_it_states(tmp_path):
    given = folder(tmp_path / "pool", license="mit", language=["en", "de"], source_datasets=["tatsu-lab/alpaca"])
    made = selection()
    made.describe(inputs=[f"{given}:train"])
    assert (made.license, made.languages, made.source_datasets) == ("mit", ["en", "de"], ["tatsu-lab/alpaca"])
    metadata = yaml.safe_load(made.card.content.split("---\n")[1])
    assert (metadata["license"], metadata["language"]) == ("mit", ["en", "de"])
    assert "From [tatsu-lab/alpaca](https://huggingface.co/datasets/tatsu-lab/alpaca)." in made.card.text


def test_a_user_goes_before_the_cards(tmp_path):
    made = selection()
    made.describe(
        license="cc0-1.0", language=["fr"], pretty_name="Mine *own*", inputs=[folder(tmp_path / "a", license="mit")]
    )
    assert (made.license, made.languages) == ("cc0-1.0", ["fr"])
    assert made.card.data.pretty_name == "Mine *own*" and r"# Mine \*own\*" in made.card.text


def test_a_dataset_on_the_hub_is_a_source_with_its_card(tmp_path, monkeypatch):
    from pathlib import Path

    card = Path(folder(tmp_path / "a", license="cc-by-4.0"), "README.md")
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *given, **options: str(card))
    found = read_origin(["me/pool:train"])
    assert (found.license, found.source_datasets) == ("cc-by-4.0", ["me/pool"])


def test_inputs_of_several_licences_have_none_together_and_a_warning_says_so(tmp_path):
    inputs = [folder(tmp_path / "a", license="mit"), folder(tmp_path / "b", license="cc-by-nc-4.0")]
    made = selection()
    with pytest.warns(UserWarning, match=r"the licences of the inputs differ \(a: mit, b: cc-by-nc-4.0\)"):
        made.describe(inputs=inputs)
    assert made.license is None and "**the licences of the inputs differ" in made.card.text
    made.describe(inputs=inputs, license="other")  # the user knows
    assert made.license == "other" and made.notes == []


def test_an_input_without_a_licence_is_a_conflict_too(tmp_path):
    made = selection()
    with pytest.warns(UserWarning, match="b: not known"):
        made.describe(inputs=[folder(tmp_path / "a", license="mit"), folder(tmp_path / "b")])
    assert made.license is None


def test_sources_may_have_licences_of_their_own():
    made = selection()
    with pytest.warns(UserWarning, match=r"of several licences \(mit, not known\): none holds for the whole"):
        made.describe(source_license=["web=mit"])
    assert "| book | not known | 1 |" in made.card.text and "| web | mit | 2 |" in made.card.text
    made.describe(source_license={"web": "mit", "book": "mit"})
    assert made.license == "mit" and made.notes == []


def test_without_any_the_card_says_that_it_is_not_known():
    made = selection()
    made.describe()
    assert "**The licence of these rows is not known.**" in made.card.text and made.card.data.license is None


@pytest.mark.parametrize(
    "given, message",
    [
        (
            {"license": "MIT License"},
            "'MIT License' is no id of a licence: write it as the Hub does, such as apache-2.0",
        ),
        ({"language": ["English!"]}, "is no code of a language"),
        ({"source_license": ["mit"]}, "the licence 'mit' is not of the form SOURCE=LICENSE, such as web=mit"),
        ({"source_license": {"web": "<b>"}}, "'<b>' is no id of a licence"),
        ({"source_license": {"abroad": "mit"}}, "the pool has no source 'abroad' to have a licence"),
    ],
)
def test_what_the_hub_would_refuse_is_refused(given, message):
    with pytest.raises(InstructMineError, match=message):
        selection().describe(**given)


@pytest.mark.parametrize("hostile", NAMES)
def test_a_hostile_card_states_nothing(hostile, tmp_path):
    given = folder(tmp_path / "pool", license=hostile, language=[hostile], source_datasets=[hostile])
    found = read_origin([given])
    if not LICENSE.fullmatch(hostile):
        assert found.license is None
    assert found.source_datasets == [] and not set("<>[](){}`|\n") & set("".join(found.languages))


@pytest.mark.parametrize(
    "text", ["", "---\n{{{\n---\n", "---\n- a\n---\n", "\x00\xff", "---\n" + "[" * 5000 + "\n---\n"]
)
def test_a_damaged_card_states_nothing(text, tmp_path):
    (tmp_path / "pool").mkdir()
    (tmp_path / "pool" / "README.md").write_bytes(text.encode("latin-1"))
    assert read_origin([str(tmp_path / "pool")]).license is None


def test_it_is_saved_and_read_again(tmp_path):
    made = selection()
    made.describe(license="mit", language=["en"], source_license=["web=mit"], pretty_name="Mine")
    made.save_to_disk(tmp_path / "curated")
    assert str(Selection.load(tmp_path / "curated").card) == str(made.card)
