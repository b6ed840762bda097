"""The dataset card of a selection: what was chosen, by which rule, from which numbers, and how to do it again.

Names of sources, columns and rules come from data that others wrote. In the card they are text and nothing else:
[`escape`] takes from them what Markdown, HTML, YAML or a template engine would act on.
"""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.columns import indicator_names
from ..data.provenance import get_provenance
from ..outputs.markdown import PARQUET_FILE, CardSection, count, escape, printable, size_category, table
from . import sections
from .decisions import digest_of_rows
from .near_copies import PERMUTATIONS, SEED
from .record import MAX_SOURCES
from .reproduce import how_to_load, how_to_reproduce


if TYPE_CHECKING:
    from huggingface_hub import DatasetCard

    from .record import SelectionRecord


FIGURE_FILE, FIGURE_WITHOUT_RULE = "predicted_log_loss.png", "chosen_by.png"
TEMPLATE = Path(__file__).with_name("dataset_card.md")


def build_card(selection: "SelectionRecord", repo_id: str | None = None) -> "DatasetCard":
    """Builds the dataset card of a selection.

    Args:
        selection ([`SelectionRecord`]): What the card describes.
        repo_id (`str`, *optional*): The repository it goes to, for the examples; without it they name a folder.

    Returns:
        `DatasetCard`: With metadata that the Hub accepts.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    title = f"Curated instruction data: {selection.num_selected:,} of {count(selection.num_pool, 'example')}"
    data = DatasetCardData(
        pretty_name=printable(selection.pretty_name or title),
        license=selection.license,
        language=selection.languages or None,
        task_categories=["text-generation"],
        size_categories=[size_category(selection.num_selected)],
        source_datasets=selection.source_datasets or None,
        tags=["instructmining", "instruction-tuning", "data-selection", "hf-instructmine"],
        dataset_info=_info(selection),
        configs=_configs(selection),
    )
    return DatasetCard.from_template(
        data,
        template_path=str(TEMPLATE),
        title=escape(selection.pretty_name or title),
        verdict=_verdict(selection),
        opening=_opening(selection),
        figure=figure_file(selection),
        ranking=sections.ranking(selection),
        glance=sections.glance(selection),
        how_to_load=how_to_load(repo_id),
        columns=sections.columns(selection),
        choice=_choice(selection),
        counts=_counts(selection),
        examples=sections.examples(selection),
        rule=_rule(selection),
        drawn=selection.strategy is not None and selection.strategy.is_random,
        indicators=_indicators(selection),
        sections=[CardSection(escape(s.title), s.markdown) for s in selection.sections],
        licence=sections.licence(selection),
        use=sections.use(selection),
        steps=sections.steps(selection),
        how_to_reproduce=how_to_reproduce(selection, repo_id),
        versions=_versions(),
        source_datasets=sections.linked(selection.source_datasets),
    )


def figure_file(selection: "SelectionRecord") -> str | None:
    """The figure of what decided; None where rows were drawn, or by a rule that keeps no indicator."""
    if not selection.deciding:
        return None
    return FIGURE_FILE if selection.strategy is None else FIGURE_WITHOUT_RULE


def _rule(selection: "SelectionRecord") -> str | None:
    """The rule and its coefficients; None where there is none."""
    if selection.estimator is None:
        return None
    rule = selection.estimator
    coefficients = [[escape(term), f"{value:.6g}"] for term, value in rule.coefficients.items()]
    named = f"**{escape(rule.name)}**, for the target {escape(rule.target)}: {escape(rule.origin)}"
    return f"{named}\n\n{table(['term', 'coefficient'], coefficients)}"


def _info(selection: "SelectionRecord") -> dict[str, Any]:
    """`dataset_info` as `datasets` writes it, what made each indicator included."""
    train: dict[str, Any] = {"name": "train", "num_examples": selection.num_selected}
    size = {} if selection.num_bytes is None else {"dataset_size": selection.num_bytes}
    if size:
        train["num_bytes"] = selection.num_bytes
    return {"features": selection.dataset.features._to_yaml_list(), "splits": [train], **size}


def _configs(selection: "SelectionRecord") -> list[dict[str, Any]]:
    """Which file holds the rows: shards of an earlier data set may lie beside it.

    `load_dataset` finds what it has in its cache by the folder's name and these lines, so the rows are known from
    them: another selection in the same folder is read anew.
    """
    return [
        {
            "config_name": "default",
            "data_files": [{"split": "train", "path": PARQUET_FILE}],
            "description": f"rows {digest_of_rows(selection.dataset, selection.dataset.column_names)}",
        }
    ]


def _verdict(selection: "SelectionRecord") -> list[str]:
    """What stands before all else: what the rule is worth, and what its choice was measured to be worth."""
    measured = [line for section in selection.sections for line in section.verdict]
    return [escape(selection.verdict(), None), *(measured or sections.not_measured(selection))]


def _opening(selection: "SelectionRecord") -> str:
    share = selection.num_selected / selection.num_pool
    pool = ", ".join(escape(name) for name in selection.source_datasets)
    rows = (
        f"The {count(selection.num_selected, 'row')} ({share:.2%}) of a pool of "
        f"{count(selection.num_pool, 'instruction example')}{f' ({pool})' if pool else ''} "
    )
    if selection.strategy is not None:
        return f"{rows}that the strategy {escape(selection.strategy.called)} takes. Chosen with hf-instructmine."
    return (
        f"{rows}for which the rule {escape(selection.chooser)} predicts the lowest "
        "log loss of a model finetuned on them ([InstructMining](https://arxiv.org/abs/2307.06290)). "
        "Chosen with hf-instructmine."
    )


def _choice(selection: "SelectionRecord") -> str:
    if selection.duplicates_checked:
        duplicates = (
            f"{count(selection.skipped_duplicates, 'exact duplicate')} of an already selected prompt and response and "
            f"{count(selection.skipped_empty, 'row')} without a response were passed over on the way."
        )
    else:
        duplicates = "Duplicates were not looked for."
    sentences = [
        f"Asked for: {', '.join(escape(f'{name}={value!r}') for name, value in selection.request.items())}.",
        _order(selection),
        f"{count(selection.skipped_unscored, 'row has', 'rows have')} no {selection.lack}, for want of an indicator, "
        "and could not be selected.",
        duplicates,
        f"Of the others, {selection.describe_skipped()}." if selection.skipped else "",
        _near_copies(selection) if "near_duplicates" in selection.options else "",
        _contamination(selection) if selection.contaminated else "",
        f"{selection.describe_leverage()}." if selection.leverage is not None else "",
        _unread(selection) if selection.unread else "",
    ]
    return " ".join(filter(None, sentences))


def _contamination(selection: "SelectionRecord") -> str:
    told = ", ".join(f"{escape(name)} in {found:,}" for name, found in selection.contaminated.items())
    return (
        "The rows of the pool were searched for prompts of evaluation sets by 8-grams, as Tülu 3 does "
        f"([arXiv 2411.15124](https://arxiv.org/abs/2411.15124)), and those that hold one were left out: {told}."
    )


def _near_copies(selection: "SelectionRecord") -> str:
    return (
        "Near copies are rows whose prompts and responses share triples of words, by a Jaccard similarity of at least "
        f"{selection.options['near_duplicates']:g} as MinHash estimates it ({PERMUTATIONS} permutations, seed {SEED})."
    )


def _unread(selection: "SelectionRecord") -> str:
    names = ", ".join(escape(name) for name in selection.unread)
    return f"**Not read,** though they may carry text or meaning, were the pool's columns {names}."


def _order(selection: "SelectionRecord") -> str:
    if selection.strategy is not None:
        return f"Taken were {escape(selection.strategy.told())}, one after another while they fit."
    if "set_level" in selection.options:
        order = (
            "Rows were taken one after another, the lowest predicted log loss first, each predicted with its distance "
            "to the rows taken before it."
        )
    else:
        order = "Rows were taken from the lowest predicted log loss upwards."
    if "tokens" in selection.asked:
        order += (
            " As the budget is of tokens, they competed by how far they lower or raise the set's mean prediction per "
            "response token."
        )
    return order


def _counts(selection: "SelectionRecord") -> str:
    def row(source: Any, name: str) -> list[str]:
        skipped = (source.unscored, source.duplicates, source.empty)
        return [name, f"{source.pool:,}", f"{source.selected:,}", f"{source.selected / source.pool:.1%}"] + [
            f"{number:,}" for number in skipped
        ]

    named = sorted(selection.sources, key=lambda source: (-source.pool, source.name))
    rows = [row(source, escape(source.name) or "(empty)") for source in named[:MAX_SOURCES]]
    text = table(
        ["source", "in", "out", "kept", f"without {selection.lack}", "duplicates", "without response"],
        [*rows, row(selection.total, "**all**")],
    )
    if len(named) > MAX_SOURCES:
        text += f"\n\nThe {MAX_SOURCES} largest of {len(named):,} sources are listed."
    return text


def _indicators(selection: "SelectionRecord") -> str:
    provenance = get_provenance(selection.dataset)
    columns = list(dict.fromkeys([*selection.deciding, *indicator_names(selection.dataset)]))
    rows = []
    for column in columns:
        found = dict(provenance.get(column, {}))
        kind = found.pop("indicator", None)
        model = found.pop("model", None) or found.get("tokenizer")
        made_by = ", ".join(str(part) for part in (kind, model) if part) or "not recorded"
        details = ", ".join(f"{key}={value}" for key, value in found.items()) or "–"
        rows.append(
            [escape(column), "yes" if column in selection.deciding else "no", escape(made_by), escape(details)]
        )
    decides = "in the rule" if selection.strategy is None else "decides"
    made = table(["column", decides, "made by", "configuration"], rows, text_columns=4)
    expected = {} if selection.estimator is None else selection.estimator.provenance
    warnings = [_mismatch(column, expected.get(column, {}), provenance.get(column)) for column in columns]
    return "\n\n".join([made, *filter(None, warnings)])


def _mismatch(column: str, expected: dict[str, Any], found: dict[str, Any] | None) -> str | None:
    """A warning where the rule was fitted on other numbers than it was applied to (`allow_mismatch=True`)."""
    if found is None or all(found.get(key) == value for key, value in expected.items()):
        return None
    then = ", ".join(f"{key}={value}" for key, value in expected.items() if found.get(key) != value)
    return f"**Mismatch:** the rule was fitted on {escape(column)} made with {escape(then)}."


def _versions() -> str:
    from .. import __version__

    others = ", ".join(f"{name} {version(name)}" for name in ("datasets", "transformers", "torch", "numpy"))
    return f"hf-instructmine {__version__}, {others} and Python {platform.python_version()}"
