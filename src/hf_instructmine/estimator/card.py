"""The model card of a rule: what it is, what it rests on, and how far it can be trusted."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..outputs.markdown import escape, fenced
from .summary import in_words, number, percent, summarize


if TYPE_CHECKING:
    from .rule import Rule


FIGURE_FOLDER = "figures"


def write_card(rule: "Rule", folder: Path, repo_id: str | None = None) -> None:
    """Writes `README.md`, and the figures of a fitted rule."""
    from huggingface_hub import ModelCard, ModelCardData

    from .figures import CAPTIONS, draw

    figures = draw(rule, folder / FIGURE_FOLDER) if rule.diagnostics is not None else []
    data = ModelCardData(
        library_name="hf-instructmine",
        tags=["instructmining", "data-selection", "instruction-tuning", "regression"],
    )
    sections = [
        f"# {escape(rule.name)}",
        "A rule that predicts the log loss of a finetuned language model from indicators of its instruction data "
        f"([InstructMining](https://arxiv.org/abs/2307.06290)). {escape(rule.origin)}",
        *([_inert(in_words(rule))] if rule.diagnostics is not None else []),
        "## Use",
        _usage(rule, repo_id),
        "## Coefficients",
        _coefficients(rule),
        "## Indicators",
        _indicators(rule),
    ]
    if figures:
        sections += ["## Figures"]
        sections += [f"![{CAPTIONS[f.stem]}]({FIGURE_FOLDER}/{f.name})\n\n{CAPTIONS[f.stem]}" for f in figures]
    sections += ["## Summary", fenced(summarize(rule)), "## Limits", LIMITS]
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n").save(folder / "README.md")


LIMITS = (
    "The coefficients belong to the base model, the recipe, the sources and the evaluation set of the runs, and to "
    "the models that made the indicators. The rule was fitted on means over sets: a single example's prediction ranks "
    "it, and is no forecast of a loss. Intervals take the regressors as given. Whatever the rule chooses, compare it "
    "with a random choice of the same size, with several seeds."
)


def _inert(paragraph: str) -> str:
    """A paragraph as inert Markdown; sentence by sentence, since [`escape`] cuts what is long."""
    return " ".join(escape(sentence) for sentence in re.split(r"(?<=\.) ", paragraph))


def _usage(rule: "Rule", repo_id: str | None) -> str:
    source = repo_id or "path/to/this/folder"
    return fenced(
        "from hf_instructmine import LossEstimator, Selector\n\n"
        f"rule = LossEstimator.from_pretrained({source!r})\n"
        "selection = Selector(rule).select(scored, size=2000)  # a dataset with the columns below"
    ).replace("text\n", "python\n", 1)


def _coefficients(rule: "Rule") -> str:
    if rule.diagnostics is None:
        rows = [f"| {escape(name)} | {value:.6g} |" for name, value in rule.coefficients.items()]
        return "\n".join(["| term | coefficient |", "|---|---|", *rows])
    rows = [
        f"| {escape(c.name)} | {c.estimate:.6g} | {c.low:.4g} … {c.high:.4g} | {number(c.vif, 1)} | "
        f"{percent(c.sign_stability)} |"
        for c in rule.diagnostics.coefficients
    ]
    return "\n".join(["| term | coefficient | 95 % interval | VIF | same sign |", "|---|---|---|---|---|", *rows])


def _indicators(rule: "Rule") -> str:
    rows = []
    for column in rule.indicators:
        made = rule.provenance.get(column)
        how = ", ".join(f"{key}={value!r}" for key, value in sorted(made.items())) if made else "not recorded"
        rows.append(f"| {escape(column)} | {escape(how)} |")
    return "\n".join(["| column | made by |", "|---|---|", *rows])
