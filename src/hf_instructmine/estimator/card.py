"""The model card of a rule: what it is, what it rests on, and how far it can be trusted."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

from ..outputs.markdown import escape, fenced, table
from .summary import in_words, number, percent, summarize


if TYPE_CHECKING:
    from .rule import Rule


FIGURE_FOLDER = "figures"
TEMPLATE = Path(__file__).with_name("model_card.md")


def write_card(rule: "Rule", folder: Path, repo_id: str | None = None) -> None:
    """Writes `README.md`, and the figures of a fitted rule."""
    from huggingface_hub import ModelCard, ModelCardData

    from .figures import CAPTIONS, draw

    figures = draw(rule, folder / FIGURE_FOLDER) if rule.diagnostics is not None else []
    data = ModelCardData(
        library_name="hf-instructmine",
        tags=["instructmining", "data-selection", "instruction-tuning", "regression"],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=escape(rule.name),
        origin=escape(rule.origin),
        words=_inert(in_words(rule)) if rule.diagnostics is not None else None,
        how_to_use=_how_to_use(repo_id),
        coefficients=_coefficients(rule),
        indicators=_indicators(rule),
        figures=[(CAPTIONS[figure.stem], f"{FIGURE_FOLDER}/{figure.name}") for figure in figures],
        summary=fenced(summarize(rule)),
    )
    card.save(folder / "README.md")


def _inert(paragraph: str) -> str:
    """A paragraph as inert Markdown; sentence by sentence, since [`escape`] cuts what is long."""
    return " ".join(escape(sentence) for sentence in re.split(r"(?<=\.) ", paragraph))


def _how_to_use(repo_id: str | None) -> str:
    return (
        "from hf_instructmine import LossEstimator, Selector\n\n"
        f"rule = LossEstimator.from_pretrained({repo_id or 'path/to/this/folder'!r})\n"
        "selection = Selector(rule).select(scored, size=2000)  # a dataset with the columns below"
    )


def _coefficients(rule: "Rule") -> str:
    if rule.diagnostics is None:
        return table(
            ["term", "coefficient"], [[escape(name), f"{value:.6g}"] for name, value in rule.coefficients.items()]
        )
    rows = []
    for c in rule.diagnostics.coefficients:
        interval = f"{c.low:.4g} … {c.high:.4g}"
        rows.append([escape(c.name), f"{c.estimate:.6g}", interval, number(c.vif, 1), percent(c.sign_stability)])
    return table(["term", "coefficient", "95 % interval", "VIF", "same sign"], rows)


def _indicators(rule: "Rule") -> str:
    rows = []
    for column in rule.indicators:
        made = rule.provenance.get(column)
        how = ", ".join(f"{key}={value!r}" for key, value in sorted(made.items())) if made else "not recorded"
        rows.append([escape(column), escape(how)])
    return table(["column", "made by"], rows, text_columns=2)
