"""The sections of a report on what was measured: sizes, strategies, runs, models."""

import math
from collections.abc import Sequence

from datasets import Dataset

from ..comparison.outcomes import Outcome
from ..comparison.results import StrategyComparison
from ..evaluation.table import Evaluation, Line
from ..outputs.markdown import count, printable
from ..outputs.privacy import without_paths
from ..search.report import SizeReport
from .contents import Contents
from .figures import picture
from .rows import shown_text
from .sections import UNKNOWN, Bar, Section, Table, comparison_verdict


MOST_RUNS = 500
_MARKS = {"better": "▼ better", "worse": "▲ worse", "no different": "– not shown to differ"}


def evidence(contents: Contents) -> list[Section]:
    """All sections that there is something for."""
    found: list[Section] = []
    if contents.size is not None:
        found.append(_size(contents.size))
    if contents.comparison is not None:
        found.append(_comparison(contents.comparison, contents))
    if contents.runs is not None:
        found.append(_runs(contents.runs))
    if contents.evaluation is not None:
        found.append(_evaluation(contents.evaluation))
    if contents.judged is not None:
        found.append(Section("judge", "What a judge said", text=shown_text(contents.judged, None)))
    return found


def _size(size: SizeReport) -> Section:
    section = Section("size", "How many rows", told=size.words().splitlines())
    section.pictures.append(
        picture(
            size.save_figure,
            f"Loss against the number of rows trained on; the fitted curve is lowest at {size.best_size:,} rows",
            f"{printable(size.target)} in nats: lower is better. Sizes in the shaded range cannot be told apart from "
            "the best.",
        )
    )
    rows: list[list[str | Bar]] = [
        [
            f"{c.size:,}", f"{c.selected:.4f}", f"{c.random:.4f}", f"{c.difference:+.4f}", f"{c.standard_error:.4f}",
            c.verdict,
        ]
        for c in size.comparisons
    ]  # fmt: skip
    if rows:
        header = ["rows", "selected", "random", "selected less random", "SE", "verdict"]
        section.tables.append(Table("Loss on selected and on random rows (nats)", header, rows, texts=0))
    return section


def _comparison(comparison: StrategyComparison, contents: Contents) -> Section:
    section = Section("comparison", "Does it beat a random choice?", lines=comparison_verdict(contents))
    model = ", ".join(sorted({printable(without_paths(name)) for name in comparison.runs["base_model"]}))
    section.told.append(
        f"{count(len(comparison.runs), 'finetune')} of {model} on what each strategy chooses. Differences in loss "
        "(nats per response token) are to a random choice of the same amount: below 0 is better than random. p is by "
        "Holm's correction over the strategies of a table."
    )
    tables = [
        _strategies(comparison.outcomes(amount, name), amount, name)
        for amount in comparison.amounts
        for name in comparison.eval_sets
    ]
    section.pictures.append(
        picture(
            comparison.plot,
            "The difference in loss of each strategy to a random choice, with its 95 % interval; the tables below "
            "hold the numbers",
            "Left of 0 is better than random. An interval that crosses 0 shows no difference.",
        )
    )
    section.tables = tables
    if comparison.charged:
        section.told.append(comparison.charged)
    section.lines += [f"failed, and in no figure: {printable(without_paths(line), 400)}" for line in comparison.failed]
    return section


def _strategies(outcomes: Sequence[Outcome], amount: str, eval_set: str) -> Table:
    header = [
        "strategy", "verdict", "finetunes", "rows", "tokens", "steps", "loss", "to random", "95 % interval", "p",
        "worth in random tokens", "loss, of the whole pool",
    ]  # fmt: skip
    rows: list[list[str | Bar]] = []
    for o in outcomes:
        d = o.difference
        rows.append(
            [
                printable(o.strategy), "" if o.p is None else _MARKS[o.verdict], str(o.runs), _number(o.rows, ",.0f"),
                _number(o.tokens, ",.0f"), _number(o.steps, ",.0f"), f"{o.loss:.4f}",
                "" if d is None else f"{d.estimate:+.4f}", "" if d is None else _interval(d.low, d.high),
                _number(o.p, ".3g"), "" if o.worth is None else o.worth.short, _number(o.whole, ".4f"),
            ]
        )  # fmt: skip
    return _without_empty(Table(f"{printable(eval_set)}, {printable(amount)}", header, rows, texts=2))


def _without_empty(table: Table) -> Table:
    """Leaves out the columns that no row has a value in."""
    held = [k for k in range(len(table.header)) if any(row[k] != "" for row in table.rows)]
    rows = [[row[k] for k in held] for row in table.rows]
    return Table(table.caption, [table.header[k] for k in held], rows, table.texts)


def _runs(runs: Dataset) -> Section:
    section = Section("runs", "Runs of the sweep")
    losses = [name for name in runs.column_names if name.startswith("loss_")]
    kept = ["mixture_id", "seed", "status", "subset_size", *losses, "train_tokens", "steps", "seconds", "reason"]
    kept = [name for name in kept if name in runs.column_names]
    shown = runs.select_columns(kept)
    failed = sum(status != "done" for status in runs["status"])
    seconds = sum(value or 0 for value in runs["seconds"])
    model = ", ".join(sorted({printable(without_paths(name)) for name in runs["base_model"]}))
    section.told.append(
        f"{count(len(runs), 'finetune')} of {model}, {failed} failed; {seconds:,.0f} seconds in all. Losses are "
        "Σ NLL / Σ response tokens, in nats."
    )
    untrained = [name for name in runs.column_names if name.startswith("base_loss_")]
    for name in untrained:
        value = next((value for value in runs[name] if value is not None), None)
        if value is not None:
            section.told.append(f"Untrained, on {printable(name.removeprefix('base_loss_'))}: {value:.4f}.")
    names = {"mixture_id": "mixture", "subset_size": "rows", "train_tokens": "tokens trained on"}
    header = [names.get(name, printable(name.replace("loss_", "loss on "))) for name in kept]
    header[-1] = "why it failed"
    # Those that failed first: they are looked for.
    order = sorted(range(len(runs)), key=lambda number: shown[number]["status"] == "done")[:MOST_RUNS]
    rows: list[list[str | Bar]] = [[_cell(value) for value in shown[number].values()] for number in order]
    section.tables.append(_without_empty(Table("One line for each run", header, rows)))
    if len(runs) > MOST_RUNS:
        section.lines.append(f"{MOST_RUNS} of {len(runs):,} runs are listed.")
    return section


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return UNKNOWN if math.isnan(value) else f"{value:,.4f}" if value < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else printable(without_paths(value))


def _evaluation(evaluation: Evaluation) -> Section:
    section = Section("evaluation", "Evaluation of models", told=[evaluation.unit])
    baseline = printable(evaluation.baseline)
    header = ["measure", "model", "n", "value", "95 % interval", "bits/byte", f"to {baseline}", "95 % of it", "p"]
    section.tables.append(
        _without_empty(Table("Losses and benchmarks", header, [_line(line) for line in evaluation.lines()], texts=2))
    )
    section.lines = [printable(without_paths(line), None) for line in (*evaluation.verdict(), *evaluation.notes())]
    return section


def _line(line: Line) -> list[str | Bar]:
    d = line.difference
    told = ["", "", ""]
    if d is not None:
        p = d.p if d.mcnemar is None else d.mcnemar
        told = [f"{d.estimate:+.4f}", _interval(d.low, d.high), f"{p:.3g}"]
    own = "" if line.low is None else f"{line.low:.4f} … {line.high:.4f}"
    measure = f"{printable(line.measure)} ({line.unit}, {'lower' if line.lower_is_better else 'higher'} is better)"
    return [
        measure, printable(line.model), str(line.examples), f"{line.value:.4f}", own, _number(line.bits, ".4f"), *told,
    ]  # fmt: skip


def _interval(low: float, high: float) -> str:
    return f"{low:+.4f} … {high:+.4f}" if math.isfinite(low) and math.isfinite(high) else UNKNOWN


def _number(value: float | None, form: str) -> str:
    return "" if value is None or math.isnan(value) else format(value, form)
