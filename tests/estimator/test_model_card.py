"""The card of a rule, fitted or not: whatever names the runs bring along stay text in it."""

import re

import pytest
from datasets import Dataset
from hostile import HOSTILE, acted_on, cells
from huggingface_hub import ModelCard
from simulated_runs import simulated_runs

from hf_instructmine import InstructMineError, LossEstimator
from hf_instructmine.data.provenance import set_provenance
from hf_instructmine.estimator import figures
from hf_instructmine.estimator.card import write_card


def fitted(name: str) -> LossEstimator:
    """A rule fitted on runs of which every name ends alike."""
    runs = simulated_runs(n=40, seed=1)
    runs["base_model"] = name
    runs["mixture_id"] += name
    runs["proportions"] = [{f"{source}{name}": share for source, share in row.items()} for row in runs["proportions"]]
    renamed = {column: f"{column}{name}" for column in ("mtld", "reward", "loss_self_instruct", "loss_mt_bench")}
    made = {renamed["mtld"]: {"indicator": name, "threshold": 0.72}}
    return LossEstimator.fit(
        set_provenance(Dataset.from_pandas(runs.rename(columns=renamed)), made),
        indicators=[renamed["mtld"], renamed["reward"]],
        target=renamed["loss_self_instruct"],
        select="none",
        name=name,
        permutations=0,
        bootstraps=10,
    )


def by_hand(name: str) -> LossEstimator:
    term = f"mtld{name}".replace("(", "[").replace(")", "]")  # a term with parentheses is a logarithm
    return LossEstimator.from_coefficients({"intercept": 1.0, term: -0.25}, name=name, origin=name)


def card_of(rule: LossEstimator, folder) -> tuple[ModelCard, str]:
    """The card, and its text without what is in code blocks."""
    write_card(rule, folder)
    card = ModelCard.load(folder / "README.md")
    return card, re.sub(r"^(```+)\w+\n.*?^\1$", "", card.text, flags=re.DOTALL | re.MULTILINE)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch):
    monkeypatch.setattr(figures, "draw", lambda rule, folder: [folder / f"{name}.png" for name in figures.CAPTIONS])


def test_sections_of_a_fitted_rule(tmp_path):
    card, prose = card_of(fitted("calm"), tmp_path)
    headings = ["Use", "Coefficients", "Indicators", "Figures", "Summary", "Limits"]
    assert re.findall(r"^## (.*)$", prose, flags=re.MULTILINE) == headings
    assert "| mtldcalm | indicator='calm', threshold=0.72 |" in prose
    assert "\n\n\n" not in card.text and card.text.endswith(" with several seeds.\n")


def test_sections_of_a_rule_without_a_fit(tmp_path):
    card, prose = card_of(by_hand("calm"), tmp_path)
    headings = ["Use", "Coefficients", "Indicators", "Summary", "Limits"]
    assert re.findall(r"^## (.*)$", prose, flags=re.MULTILINE) == headings
    assert "| term | coefficient |\n| --- | ---: |\n| intercept | 1 |\n| mtldcalm | -0.25 |\n" in prose
    assert "\n\n\n" not in card.text


@pytest.mark.parametrize("make", [fitted, by_hand])
@pytest.mark.parametrize("hostile", HOSTILE)
def test_what_the_runs_are_called_stays_text(make, hostile, tmp_path):
    calm, calm_prose = card_of(make("calm"), tmp_path)
    card, prose = card_of(make(hostile), tmp_path)
    assert card.data.to_dict() == calm.data.to_dict()
    assert prose.count("\n") == calm_prose.count("\n")
    assert cells(prose) == cells(calm_prose)
    assert acted_on(prose) == []
    assert "\x1b" not in card.content and "\u202e" not in card.content


def test_the_metadata_names_base_model_data_licence_and_how_well_it_predicts(tmp_path):
    rule = fitted("me/model")
    write_card(rule, tmp_path, None, "apache-2.0", ["tatsu-lab/alpaca"])
    data = ModelCard.load(tmp_path / "README.md").data
    assert (data.base_model, data.datasets, data.license) == (["me/model"], ["tatsu-lab/alpaca"], "apache-2.0")
    (result,) = data.eval_results
    assert result.metric_type == "r2" and result.metric_value == round(rule.diagnostics.worth[0], 4)
    assert "- Base model of the finetunes: me/model\n" in (tmp_path / "README.md").read_text("utf-8")


def test_what_is_not_known_is_not_stated(tmp_path):
    card, prose = card_of(by_hand("calm"), tmp_path)
    assert not {"base_model", "datasets", "license", "model-index"} & set(card.data.to_dict())
    assert "- Licence: not stated\n" in prose and "- Data that was finetuned on: not recorded\n" in prose


@pytest.mark.parametrize("given", [{"license": "MIT License"}, {"datasets": ["<b>"]}])
def test_what_the_hub_would_refuse_is_refused(given, tmp_path):
    with pytest.raises(InstructMineError, match="write "):
        by_hand("calm").save_pretrained(tmp_path / "rule", **given)
    assert not (tmp_path / "rule").exists()
