"""The model card of a rule: what it is, what it rests on, and how far it can be trusted."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..outputs.markdown import escape, fenced, table
from ..outputs.metadata import check_license, check_repository, is_repository
from .summary import in_words, number, percent, summarize


if TYPE_CHECKING:
    from huggingface_hub import EvalResult

    from .rule import Rule


FIGURE_FOLDER = "figures"
TEMPLATE = Path(__file__).with_name("model_card.md")


def write_card(
    rule: "Rule",
    folder: Path,
    repo_id: str | None = None,
    license: str | None = None,
    datasets: Sequence[str] = (),
) -> None:
    """Writes `README.md`, and the figures of a fitted rule.

    Args:
        rule ([`Rule`]): What the card describes.
        folder (`Path`): Gets the files.
        repo_id (`str`, *optional*): The repository it goes to, for the examples; without it they name a folder.
        license (`str`, *optional*): Of the rule, as the Hub writes it.
        datasets (`Sequence[str]`): Ids on the Hub of what was finetuned on.

    Raises:
        [`InstructMineError`]: Where the licence or an id is written otherwise than on the Hub.
    """
    from huggingface_hub import ModelCard, ModelCardData

    from .figures import CAPTIONS, draw

    figures = draw(rule, folder / FIGURE_FOLDER) if rule.diagnostics is not None else []
    models = _models(rule)
    data = ModelCardData(
        library_name="hf-instructmine",
        license=None if license is None else check_license(license),
        base_model=[name for name in models if is_repository(name)] or None,
        datasets=[check_repository(name) for name in datasets] or None,
        pipeline_tag="tabular-regression",
        model_name=repo_id or "rule",
        eval_results=_results(rule),
        tags=["instructmining", "data-selection", "instruction-tuning", "regression"],
    )
    card = ModelCard.from_template(
        data,
        template_path=str(TEMPLATE),
        name=escape(rule.name),
        origin=escape(rule.origin),
        words=_inert(in_words(rule)) if rule.diagnostics is not None else None,
        models=", ".join(escape(name) for name in models) or "not recorded",
        datasets=", ".join(f"[{escape(name)}](https://huggingface.co/datasets/{name})" for name in datasets)
        or "not recorded",
        license=license or "not stated",
        how_to_use=_how_to_use(repo_id),
        coefficients=_coefficients(rule),
        indicators=_indicators(rule),
        figures=[(CAPTIONS[figure.stem], f"{FIGURE_FOLDER}/{figure.name}") for figure in figures],
        summary=fenced(summarize(rule)),
    )
    card.save(folder / "README.md")


def _models(rule: "Rule") -> list[str]:
    """The base models of the runs that the rule was fitted to."""
    runs = rule.fitted.runs if rule.fitted is not None else {}
    return [str(name) for name in runs.get("base_model") or ()]


def _results(rule: "Rule") -> "list[EvalResult] | None":
    """How well the rule predicts mixtures that it had not seen, for the Hub; None where that is not known."""
    from huggingface_hub import EvalResult

    d = rule.diagnostics
    if d is None or d.worth is None:
        return None
    r2, (low, high) = d.worth
    partial = " of the indicators, beyond what is in every rule" if d.in_every else ""
    return [
        EvalResult(
            task_type="tabular-regression",
            task_name="prediction of a finetune's loss",
            dataset_type="runs",
            dataset_name="mixtures of the sweep that the rule had not seen",
            metric_type="r2",
            metric_name=f"held-out R²{partial} (95 % {low:.2f} to {high:.2f})",
            metric_value=round(r2, 4),
        )
    ]


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
