"""The sections of a report on the rule and the rows, as plain data that the page's template lays out."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from ..data.columns import names_sources, numeric_column, read_sources
from ..estimator.file import rule_digest
from ..estimator.verdict import paragraph
from ..outputs.markdown import count, printable
from ..outputs.privacy import without_paths
from ..selection.decisions import SELECTED
from ..selection.figures import plot_predicted_log_loss
from ..selection.preference import RANDOM, Preference
from ..selection.walk import passed_over
from .contents import ABSENT, Contents
from .fates import NOT_KNOWN, Judged
from .figures import MOST_INDICATORS, Picture, draw_against_indicators, picture
from .rows import RowData


if TYPE_CHECKING:
    from ..comparison.results import StrategyComparison


MOST_SOURCES = 40
UNKNOWN = "not known"


@dataclass(frozen=True)
class Bar:
    """A cell with a share from 0 to 1, drawn as a bar beside its text."""

    share: float
    text: str


@dataclass
class Table:
    """A table of text.

    Attributes:
        caption (`str`): What it holds.
        header (`list[str]`): Names of the columns.
        rows (`list[list[str | Bar]]`): Cells.
        texts (`int`): How many of the first columns are text; the others are numbers, to the right.
    """

    caption: str
    header: list[str]
    rows: list[list[str | Bar]]
    texts: int = 1


@dataclass
class Section:
    """A section of the page.

    Attributes:
        name (`str`): What links to it.
        title (`str`): Its heading.
        told (`list[str]`): Paragraphs at its top.
        pictures (`list[Picture]`): Figures.
        tables (`list[Table]`): Tables.
        lines (`list[str]`): A list below these.
        text (`str`): What is shown as it is, with its lines.
    """

    name: str
    title: str
    told: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    text: str = ""


def verdict(contents: Contents) -> Section:
    """What the rule is worth, and what its choice was measured to be worth."""
    section = Section("verdict", "Verdict")
    rule, selection = contents.rule, contents.selection
    if selection is not None:
        section.told.append(
            f"Selected {count(selection.num_selected, 'row')} of {selection.num_pool:,} "
            f"({selection.num_selected / selection.num_pool:.1%})."
        )
        section.told.append(selection.verdict())
    elif rule is not None:
        section.told.append(paragraph(rule))
    else:
        section.told.append(f"What a choice of rows is worth is not known: {ABSENT['rule']}.")
    measured = comparison_verdict(contents)
    if not measured and selection is not None:
        measured = [_plain(line) for part in selection.sections for line in part.verdict]
    section.lines = measured or [f"Whether this beats a random choice is not known: {ABSENT['comparison']}."]
    return section


def comparison_verdict(contents: Contents) -> list[str]:
    """A sentence for each budget and evaluation set; empty where there is no comparison."""
    comparison, rule, selection = contents.comparison, contents.rule, contents.selection
    if comparison is None:
        return []
    if selection is not None and selection.strategy is not None:
        return _strategy_verdict(comparison, selection.strategy)
    named = comparison.strategies_of(rule_digest(rule)) if rule is not None else None
    lines = [line for name in named or comparison.strategies[:1] for line in comparison.verdict(name)]
    if rule is not None and not named:
        told = (
            "none of its strategies is the rule shown here" if named == [] else "which rules it is of is not recorded"
        )
        lines.append(f"About this comparison: {told}.")
    return lines


def _strategy_verdict(comparison: "StrategyComparison", strategy: "Preference") -> list[str]:
    """The same where a strategy chose the rows; that which is random is what others are compared with."""
    named = [] if strategy.what == RANDOM else comparison.strategies_of(strategy.what) or []
    lines = [line for name in named for line in comparison.verdict(name)]
    return lines or [
        f"About this comparison: none of its strategies is {printable(strategy.called)}, which chose here."
    ]


def _plain(markdown: str) -> str:
    """The text that a line of Markdown of ours shows."""
    return html.unescape(re.sub(r"\\([!-/:-@\[-`{-~])", r"\1", markdown))


def path_of_numbers(contents: Contents, judged: Judged | None, data: RowData | None) -> Section | None:
    """How many rows, and response tokens, each step left."""
    section = Section("path", "From the pool to the selection")
    if judged is not None and data is not None and judged.whole:
        section.tables.append(_steps(judged, data))
    elif contents.selection is not None:
        section.tables.append(_recorded_steps(contents))
    if contents.selection is not None and judged is not None and NOT_KNOWN in judged.names:
        section.lines = [f"Recorded while selecting: {line}" for line in _passed_over(contents)]
    if contents.scores:
        section.tables.append(_scoring(contents))
    return section if section.tables else None


def _steps(judged: Judged, data: RowData) -> Table:
    total = len(judged.rows)
    everything = np.ones(total, dtype=bool)
    usable = everything if data.usable is None else data.usable
    steps = [("in the pool", everything)]
    if data.usable is not None:
        steps.append(("with a response that can be read", usable))
    if judged.log_loss is not None:
        steps.append(("with every indicator of the rule", usable & np.isfinite(judged.log_loss)))
    if judged.selected is not None:
        for code, name in enumerate(judged.names):
            if name != SELECTED and (judged.codes == code).any():
                steps.append((f"left out: {name.removeprefix('not selected: ')}", judged.codes == code))
        steps.append((SELECTED, judged.selected))
    rows: list[list[str | Bar]] = []
    for name, mask in steps:
        tokens = UNKNOWN if data.tokens is None else f"{np.nansum(data.tokens[mask]):,.0f}"
        rows.append([name, f"{mask.sum():,}", tokens, Bar(mask.sum() / total, f"{mask.sum() / total:.1%}")])
    return Table("Rows and response tokens at each step", ["step", "rows", "tokens", "of the pool"], rows)


def _recorded_steps(contents: Contents) -> Table:
    """The same from what a selection recorded, where the pool is not here."""
    selection = contents.selection
    assert selection is not None  # as its caller has looked
    total = selection.total
    left = {
        f"no {selection.lack}": total.unscored,
        "exact duplicate": total.duplicates,
        "no response": total.empty,
        "far from the runs": selection.skipped_far,
        **{passed_over(name, rows, selection.options): rows for name, rows in selection.skipped.items()},
    }
    left["not reached when the selection was full"] = max(0, total.pool - total.selected - sum(left.values()))
    steps = {"in the pool": total.pool, **{f"left out: {name}": rows for name, rows in left.items() if rows}}
    rows: list[list[str | Bar]] = [
        [name, f"{n:,}", UNKNOWN, Bar(n / total.pool, f"{n / total.pool:.1%}")] for name, n in steps.items()
    ]
    tokens = UNKNOWN
    if "output_length" in selection.dataset.column_names:
        tokens = f"{np.nansum(numeric_column(selection.dataset, 'output_length')):,.0f}"
    share = total.selected / total.pool
    rows.append([SELECTED, f"{total.selected:,}", tokens, Bar(share, f"{share:.1%}")])
    return Table("Rows at each step, as the selection recorded them", ["step", "rows", "tokens", "of the pool"], rows)


def _passed_over(contents: Contents) -> list[str]:
    selection = contents.selection
    assert selection is not None  # as its caller has looked
    lines = [
        f"{selection.skipped_unscored:,} without a {selection.lack}, "
        f"{count(selection.skipped_duplicates, 'exact duplicate')}, {selection.skipped_empty:,} without a response."
    ]
    return lines + ([f"of the others, {selection.describe_skipped()}."] if selection.skipped else [])


def _scoring(contents: Contents) -> Table:
    rows: list[list[str | Bar]] = []
    for name, counts in contents.scores.items():
        notes = counts.get("notes")
        told = ", ".join(f"{n} {note}" for note, n in notes.items()) if isinstance(notes, dict) else ""
        rows.append([printable(name, 60), f"{counts['rows']:,}", f"{counts['nan']:,}", printable(told) or "–"])
    return Table("What scoring counted", ["column", "rows", "without a value", "notes"], rows)


def the_rule(contents: Contents, judged: Judged | None) -> Section | None:
    """The rule's terms, and what each adds in selected rows and in the others."""
    rule = contents.rule
    if rule is None:
        return None
    predicts = "log loss" if rule.log_target else "loss"
    section = Section("rule", f"The rule “{printable(rule.name)}”")
    section.told = [
        printable(without_paths(rule.origin), None),
        f"It predicts the {predicts} ({printable(rule.target)}, nats) of a model finetuned on a set, from the set's "
        "mean indicators. Applied to single rows it ranks them: lower is better. A contribution is what a term adds "
        "to a row's prediction, less its mean over the pool: below 0 it speaks for the row.",
    ]
    known = {} if rule.diagnostics is None else {c.name: c for c in rule.diagnostics.coefficients or ()}
    selected = None if judged is None else judged.selected
    rows: list[list[str | Bar]] = []
    for name, value in rule.coefficients.items():
        fitted = known.get(name)
        interval = UNKNOWN if fitted is None else f"{fitted.low:.4g} … {fitted.high:.4g}"
        means = ["", ""]
        if judged is not None and name in judged.contributions and selected is not None:
            parts = judged.contributions[name]
            means = [_mean(parts[selected]), _mean(parts[~selected]) if judged.whole else UNKNOWN]
        rows.append([printable(name), f"{value:.4g}", interval, *means])
    header = ["term", "coefficient", "95 % interval", "mean contribution, selected", "mean contribution, others"]
    section.tables.append(Table("Terms and their coefficients", header, rows))
    return section


def _mean(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    return f"{known.mean():+.4f}" if len(known) else UNKNOWN


def predictions(contents: Contents, judged: Judged | None) -> Section | None:
    """Predicted log loss: its distribution before and after, and against each indicator."""
    if judged is None or judged.log_loss is None or not np.isfinite(judged.log_loss).any():
        return None
    section = Section("predictions", "Predicted log loss")
    selected, finite = judged.selected, judged.log_loss[np.isfinite(judged.log_loss)]
    if selected is not None and judged.whole and np.isfinite(judged.log_loss[selected]).any():
        kept = judged.log_loss[selected & np.isfinite(judged.log_loss)]
        section.pictures.append(
            picture(
                partial(plot_predicted_log_loss, judged.log_loss, kept),
                f"Histograms of the predicted log loss: median of the pool {np.median(finite):.4g}, of the selection "
                f"{np.median(kept):.4g}",
                "Pool above, selection below, on one axis. Lower is better.",
            )
        )
    rule = contents.rule
    assert rule is not None  # which has predicted
    names = judged.indicators(rule)[:MOST_INDICATORS]
    values = {name: numeric_column(judged.rows, name) for name in names}
    values = {name: column for name, column in values.items() if np.isfinite(column).any()}
    if values:
        logged = {term.column for term in rule.terms if term.log}
        section.pictures.append(
            picture(
                partial(draw_against_indicators, judged.log_loss, values, logged, selected if judged.whole else None),
                f"The predicted log loss of rows against {', '.join(map(printable, values))}",
                "A random draw of rows. Triangles were selected, circles were not; the outermost 1 % lies outside of "
                "the view.",
            )
        )
    return section if section.pictures else None


def composition(contents: Contents, judged: Judged | None) -> Section | None:
    """Rows by source, before and after."""
    section = Section("composition", "Sources before and after")
    if judged is not None and judged.whole and judged.selected is not None and names_sources(judged.rows):
        codes, names = read_sources(judged.rows)
        before = np.bincount(codes, minlength=len(names))
        after = np.bincount(codes[judged.selected], minlength=len(names))
    elif contents.selection is not None and contents.selection.sources and (judged is None or not judged.whole):
        sources = contents.selection.sources
        names = [source.name for source in sources]
        before, after = np.array([[source.pool, source.selected] for source in sources]).T
    else:
        return None
    order = np.argsort(-before, kind="stable")[:MOST_SOURCES]
    rows = [_source_row(names[k], int(before[k]), int(after[k]), before.sum(), after.sum()) for k in order]
    header = ["source", "in the pool", "share of the pool", "selected", "share of the selection", "kept"]
    section.tables.append(Table("Rows by source", header, rows))
    if len(names) > MOST_SOURCES:
        section.lines.append(f"The {MOST_SOURCES} largest of {len(names):,} sources are listed.")
    return section


def _source_row(name: str, before: int, after: int, pool: int, selection: int) -> list[str | Bar]:
    shares = before / max(pool, 1), after / max(selection, 1)
    told = printable(name) or "(empty)"
    kept = f"{after / before:.1%}" if before else UNKNOWN
    bars: Sequence[Bar] = [Bar(share, f"{share:.1%}") for share in shares]
    return [told, f"{before:,}", bars[0], f"{after:,}", bars[1], kept]
