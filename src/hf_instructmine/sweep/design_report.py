"""How far a design can be trusted before a single finetune is paid for."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from datasets import Dataset, Value

from ..data.columns import numeric_column
from ..data.containers import as_dataset
from ..errors import InstructMineError
from ..outputs.markdown import count, printable
from ..outputs.plots import BLUE, GREY, RED, canvas
from ..outputs.shown import Cells, Drawing, Drawn
from ..regression.regressors import leverage, vif
from .scored_pool import ScoredPool, SubsetSize


if TYPE_CHECKING:
    from matplotlib.figure import Figure

RANDOM_SUBSETS = 64  # draws that the sampling noise of mean indicators is estimated from
RANDOM_RULES = 200  # linear rules whose selections tell where selected subsets will lie
WEAK_INDEX = 30  # condition index from which a direction counts as unseen (Belsley, Kuh and Welsch 1980)
WEAK_SPREAD = 3  # spreads below so many times the noise explain little


class Predicts(Protocol):
    """A rule: anything that predicts a log loss for each row of a scored pool."""

    def predict(self, dataset: Any) -> np.ndarray:
        """Predicted log loss of each row, shape `(n,)`."""
        ...


@dataclass
class IndicatorDesign:
    """One mean indicator in a design. Ranges are in the indicator's own unit.

    Attributes:
        vif (`float`): Its variance inflation factor over the runs.
        random_mean (`float`): Of random subsets.
        design_range (`tuple[float, float]`): Over the mixtures.
        selected_range (`tuple[float, float]`): Over the selections that random linear rules make at the same budget.
        covered (`float`): Share of the selected range that the design spans.
        spread_over_noise (`float`): SD between mixtures over that of random subsets of the same budget.
        standard_error (`float`): Of its coefficient, per SD of the pool; in SDs of a run's noise, or in log loss.
    """

    vif: float
    random_mean: float
    design_range: tuple[float, float]
    selected_range: tuple[float, float]
    covered: float
    spread_over_noise: float
    standard_error: float


@dataclass(repr=False)
class DesignReport(Drawn):
    """What [`design_report`] finds; `print` it to read it.

    Attributes:
        num_mixtures (`int`): Different mixtures.
        num_replicates (`int`): Runs of a mixture besides the first.
        budget ([`SubsetSize`]): Of each mixture: rows, or response tokens.
        pool_rows (`int`): Rows that have all indicators.
        excluded_rows (`int`): Rows that lack one.
        drawn_from (`dict[str, int]`): Where a part of a pool of more than a million rows stands in for it: its `rows`,
            taken at random by `seed`, `of` how many. Else empty.
        log_det (`float`): log det(X'X), X = intercept and mean indicators in SDs of the pool, over all runs;
            `-inf` where the runs cannot tell the indicators apart. Comparable between designs of one pool.
        condition_number (`float`): Largest over smallest singular value of the centred indicators, each scaled to unit
            length.
        indicators (`dict[str, IndicatorDesign]`): Each mean indicator by its column.
        unseen (`list[str]`): Directions of indicator space that the design cannot see, in words.
        extrapolation (`float`): Share of the random rules whose selection lies outside the design, that is, has a
            higher leverage than any run.
        pure_error (`float`, *optional*): SD of log loss between replicates, as given.
        spread_to_noise (`float`, *optional*): SD of the given rule's predictions between mixtures, over `pure_error`.
        warnings (`list[str]`): What to mend or to keep in mind.
    """

    num_mixtures: int
    num_replicates: int
    budget: SubsetSize
    pool_rows: int
    excluded_rows: int
    drawn_from: dict[str, int]
    log_det: float
    condition_number: float
    indicators: dict[str, IndicatorDesign]
    unseen: list[str]
    extrapolation: float
    pure_error: float | None
    spread_to_noise: float | None
    warnings: list[str]

    @property
    def max_vif(self) -> float:
        """The largest variance inflation factor of an indicator."""
        return max(indicator.vif for indicator in self.indicators.values())

    def _line(self) -> str:
        names = ", ".join(printable(name, 40) for name in list(self.indicators)[:12])
        return f"{count(self.num_mixtures, 'mixture')} and {count(self.num_replicates, 'replicate')} over {names}"

    def _says(self) -> list[str]:
        seen = [f"Cannot see: {direction}." for direction in self.unseen]
        return [*seen, *(f"Warning: {warning}." for warning in self.warnings)]

    def _tables(self) -> list[Cells]:
        header = ["indicator", "VIF", "random", "design from", "to", "selected from", "to", "covered", "spread", "SE"]
        rows = [
            [name, f"{i.vif:.1f}", *(f"{n:.4g}" for n in (i.random_mean, *i.design_range, *i.selected_range)),
             f"{i.covered:.0%}", f"{i.spread_over_noise:.1f}", f"{i.standard_error:.3g}"]
            for name, i in self.indicators.items()
        ]  # fmt: skip
        caption = (
            f"log det {self.log_det:.2f}, condition number {self.condition_number:.1f}; selections of random linear "
            f"rules that lie outside the design: {self.extrapolation:.0%}"
        )
        return [Cells(caption, header, rows)]

    def _drawings(self) -> dict[str, Drawing]:
        caption = "Mean indicators that the mixtures span, and that selections by random linear rules would reach"
        return {"ranges": Drawing(caption, partial(draw_ranges, self.indicators), partial(ranges, self.indicators))}

    def __str__(self) -> str:
        each = f"{self.budget.rows} rows" if self.budget.rows else f"{self.budget.tokens} response tokens"
        worst = max(self.indicators, key=lambda name: self.indicators[name].vif)
        spreads = {name: indicator.spread_over_noise for name, indicator in self.indicators.items()}
        least = min(spreads, key=spreads.__getitem__)
        unit = "log loss" if self.pure_error else "SDs of a run's noise"
        width = max(map(len, [*self.indicators, "indicator"]))
        lines = [
            f"{count(self.num_mixtures, 'mixture')} and {count(self.num_replicates, 'replicate')} of {each}, from "
            f"{count(self.pool_rows, 'row')} ({count(self.excluded_rows, 'more has', 'more have')} a NaN indicator)",
            f"log det {self.log_det:.2f}, largest VIF {self.max_vif:.1f} ({worst}), condition number "
            f"{self.condition_number:.1f}",
            f"spread between mixtures over that of random subsets: median {np.median([*spreads.values()]):.1f}, least "
            f"{spreads[least]:.1f} ({least})",
            f"selections of random linear rules that lie outside the design: {self.extrapolation:.0%}",
        ]
        if self.spread_to_noise is not None:
            lines.append(f"expected spread of log loss over the pure error: {self.spread_to_noise:.1f}")
        lines += [
            "",
            f"{'indicator':{width}} {'VIF':>6} {'random':>8} {'design':>19} {'selected':>19} {'covered':>7} "
            f"{'spread':>6} {'SE':>8}",
        ]
        for name, row in self.indicators.items():
            ranges = [f"{low:.4g} … {high:.4g}" for low, high in (row.design_range, row.selected_range)]
            lines.append(
                f"{name:{width}} {row.vif:6.1f} {row.random_mean:8.4g} {ranges[0]:>19} {ranges[1]:>19} "
                f"{row.covered:7.0%} {row.spread_over_noise:6.1f} {row.standard_error:8.3g}"
            )
        lines.append(f"SE: of the coefficient, per SD of the pool, in {unit}; spread: over that of random subsets")
        lines += [f"cannot see: {direction}" for direction in self.unseen]
        lines += [f"warning: {warning}" for warning in self.warnings]
        return "\n".join(lines)


def ranges(indicators: Mapping[str, IndicatorDesign]) -> dict[str, list[Any]]:
    """What the figure of a design shows, a line for each mean indicator, in its own unit."""
    rows = indicators.values()
    return {
        "indicator": list(indicators),
        "design_low": [row.design_range[0] for row in rows], "design_high": [row.design_range[1] for row in rows],
        "selected_low": [row.selected_range[0] for row in rows],
        "selected_high": [row.selected_range[1] for row in rows], "random_mean": [row.random_mean for row in rows],
    }  # fmt: skip


def draw_ranges(indicators: Mapping[str, IndicatorDesign]) -> "Figure":
    """Each mean indicator on an axis of its own: the design's range above that of selections."""
    figure, grid = canvas(0.6 + 0.75 * len(indicators), rows=len(indicators))
    for (name, row), axes in zip(indicators.items(), grid[:, 0]):
        axes.plot(row.selected_range, [0, 0], color=GREY, linewidth=6, solid_capstyle="butt", label="selections")
        axes.plot(row.design_range, [1, 1], color=BLUE, linewidth=6, solid_capstyle="butt", label="mixtures")
        axes.axvline(row.random_mean, color=RED, linewidth=1.2, label="random subsets")
        axes.set_yticks([0, 1], ["selected", "design"], fontsize=8)
        axes.set_ylim(-0.7, 1.7)
        axes.tick_params(axis="x", labelsize=8)
        axes.set_title(f"mean {printable(name, 40)}", loc="left", fontsize=9)
    labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(*labels, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


def design_report(
    mixtures: Any,
    scored: Any,
    *,
    source_column: str | None = "source",
    embeddings: np.ndarray | None = None,
    rule: "Predicts | None" = None,
    pure_error: float | None = None,
    seed: int = 0,
) -> DesignReport:
    """Judges a design: collinearity, range against the range of selected subsets, and spread against noise.

    Args:
        mixtures (`Dataset`, or what else [`as_dataset`] takes):
            What [`design_mixtures`] returned, or a sweep's runs. Its indicators are the float columns that `scored`
            has too.
        scored (`Dataset`, or what else [`as_dataset`] takes):
            The pool it was designed on.
        source_column (`str`, *optional*, defaults to `"source"`):
            As given to [`design_mixtures`].
        embeddings (`np.ndarray`, *optional*):
            As given to [`design_mixtures`]; needed where `mixtures` has a set-level `knn_<i>`.
        rule ([`Predicts`], *optional*):
            A rule from earlier runs: tells whether its own selection would lie inside the design and, with
            `pure_error`, how far beyond the noise the losses are expected to spread.
        pure_error (`float`, *optional*):
            SD of log loss between replicates, from earlier runs. Standard errors are then in log loss.
        seed (`int`, *optional*, defaults to 0):
            Decides the random subsets and rules compared with, and which million rows stand in for a larger pool.

    Returns:
        [`DesignReport`]

    Raises:
        [`InstructMineError`]: Where `mixtures` has no mean indicators of `scored`, or embeddings are missing.

    Example:

    ```python
    print(him.design_report(mixtures, scored))
    ```
    """
    mixtures, scored = as_dataset(mixtures, "mixtures"), as_dataset(scored, "scored")
    pool, size = _read_pool(mixtures, scored, source_column, embeddings, seed)
    # What the design is judged by: random subsets of the same size, and what rules in random directions would select.
    rng = np.random.default_rng(seed)
    at_random = [size.take(pool, rng.gumbel(size=len(pool.rows))) for _ in range(RANDOM_SUBSETS)]
    random = _mean_indicators(pool, at_random, rng)
    rows, rules = _in_sds(pool, pool.values), rng.normal(size=(RANDOM_RULES, len(pool.columns)))
    selected = _mean_indicators(pool, [size.take(pool, rows @ weights) for weights in rules], rng)

    # The design itself, its replicates included.
    _, first = np.unique(mixtures["mixture_id"], return_index=True)
    means = np.column_stack([numeric_column(mixtures, name) for name in pool.design_columns])
    if np.isnan(means).any():
        row, column = np.argwhere(np.isnan(means))[0]
        raise InstructMineError(f"mixture {row} has no '{pool.design_columns[column]}': leave it out")
    x = _in_sds(pool, means)
    report = DesignReport(
        num_mixtures=len(first),
        num_replicates=len(mixtures) - len(first),
        budget=size,
        pool_rows=pool.whole,
        excluded_rows=pool.excluded,
        drawn_from=pool.drawn_from,
        log_det=_log_det(x),
        condition_number=_condition_number(x),
        indicators=_indicators(pool, means, first, random, selected, pure_error or 1),
        unseen=_unseen(x, _in_sds(pool, random), pool.design_columns),
        extrapolation=float(_outside(_in_sds(pool, selected), x).mean()),
        pure_error=pure_error,
        spread_to_noise=None,
        warnings=[],
    )
    # What is known of the losses, from earlier runs.
    if rule is not None:
        if pure_error:
            report.spread_to_noise = float(np.std(rule.predict(mixtures.select(first)), ddof=1) / pure_error)
        own = pool.mean_indicators(size.take(pool, np.nan_to_num(-rule.predict(scored)[pool.rows], nan=-np.inf)))
        if _outside(_in_sds(pool, own)[None], x)[0]:
            report.warnings.append("the rule's own selection lies outside the design: its predicted loss extrapolates")
    report.warnings += _warnings(report, pool)
    return report


def _read_pool(
    mixtures: Dataset, scored: Dataset, source_column: str | None, embeddings: np.ndarray | None, seed: int
) -> tuple[ScoredPool, SubsetSize]:
    """The pool with the indicators that the mixtures have, and the size of each mixture."""
    absent = [n for n in ("mixture_id", "subset_size", "proportions") if n not in mixtures.column_names]
    if absent:
        raise InstructMineError(f"the mixtures have no column '{absent[0]}': make them with design_mixtures")
    floats = [n for n, kind in mixtures.features.items() if isinstance(kind, Value) and kind.dtype == "float64"]
    # Of a set-level indicator the mixtures also hold the mean of the pool's column, under another name.
    set_level = [name for name in floats if f"pool_{name}" in floats]
    found = {name.removeprefix("pool_") for name in floats}
    columns = [name for name in scored.column_names if name in found]
    if not columns:
        raise InstructMineError(f"no column of the mixtures, {mixtures.column_names}, is an indicator of the pool")
    if set_level and embeddings is None:
        raise InstructMineError(
            f"{set_level[0]!r} was measured inside the subsets: pass the embeddings it was made from"
        )
    sizes = mixtures["subset_size"]
    size = SubsetSize(sizes[0], None) if len(set(sizes)) == 1 else SubsetSize(None, max(mixtures["subset_tokens"]))
    sources = None if source_column is None else list(mixtures.features["proportions"])
    unit = embeddings if set_level else None
    return ScoredPool.load(scored, source_column, sources, columns, unit, size, seed), size


def _in_sds(pool: ScoredPool, means: np.ndarray) -> np.ndarray:
    """Means of indicators, in SDs of the pool from its own mean."""
    return (means - pool.values.mean(axis=0)) / pool.values.std(axis=0)


def _log_det(x: np.ndarray) -> float:
    design = np.column_stack([np.ones(len(x)), x])
    sign, log_det = np.linalg.slogdet(design.T @ design)
    return float(log_det) if sign and np.linalg.matrix_rank(design) == design.shape[1] else -math.inf


def _condition_number(x: np.ndarray) -> float:
    centred = x - x.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=0)
    singular = np.linalg.svd(centred / np.where(lengths > 0, lengths, 1), compute_uv=False)
    return float(singular[0] / singular[-1]) if singular[-1] > 1e-12 * singular[0] else math.inf


def _indicators(
    pool: ScoredPool, means: np.ndarray, first: np.ndarray, random: np.ndarray, selected: np.ndarray, noise: float
) -> dict[str, IndicatorDesign]:
    """Each mean indicator by name: `means` of all runs, of which `first` are one of each mixture, against those of
    random and of selected subsets. `noise` is the SD of a run's log loss."""
    x, chance = _in_sds(pool, means), _in_sds(pool, random)
    centred = x - x.mean(axis=0)
    vifs = vif(centred)
    with np.errstate(divide="ignore"):
        errors = np.sqrt(vifs / (centred**2).sum(axis=0)) * noise
    spread = x[first].std(axis=0, ddof=min(1, len(first) - 1)) / chance.std(axis=0, ddof=1)
    ranges, wanted = _ranges(means), _ranges(selected)
    covered = [
        max(0.0, min(high, top) - max(low, bottom)) / (top - bottom)
        for (low, high), (bottom, top) in zip(ranges, wanted)
    ]
    each = zip(pool.design_columns, vifs, random.mean(axis=0), ranges, wanted, covered, spread, errors)
    return {name: IndicatorDesign(*row) for name, *row in each}


def _outside(x: np.ndarray, runs: np.ndarray) -> np.ndarray:
    """Whether each row has a higher leverage than any run."""
    return _leverage(x, runs) > _leverage(runs, runs).max() + 1e-9


def _mean_indicators(pool: ScoredPool, subsets: list[np.ndarray], rng: np.random.Generator) -> np.ndarray:
    return np.array([pool.mean_indicators(subset, rng) for subset in subsets])


def _ranges(means: np.ndarray) -> list[tuple[float, float]]:
    return list(zip(means.min(axis=0).tolist(), means.max(axis=0).tolist()))


def _leverage(x: np.ndarray, runs: np.ndarray) -> np.ndarray:
    design = np.column_stack([np.ones(len(runs)), runs])
    x = np.column_stack([np.ones(len(x)), x])
    return leverage(x, np.linalg.pinv(design.T @ design))


def _unseen(x: np.ndarray, random: np.ndarray, columns: list[str]) -> list[str]:
    """The singular directions in which runs barely differ, by Belsley's index or against random subsets."""
    centred, noise = x - x.mean(axis=0), np.cov(random, rowvar=False).reshape(x.shape[1], -1)
    _, lengths, axes = np.linalg.svd(centred, full_matrices=True)
    lengths = np.concatenate([lengths, np.zeros(len(columns) - len(lengths))])
    words = []
    for length, axis in zip(lengths, axes):
        chance = math.sqrt(axis @ noise @ axis)
        ratio = length / math.sqrt(len(centred)) / chance if chance > 0 else 0.0
        if ratio < WEAK_SPREAD or length * WEAK_INDEX < lengths[0]:
            axis = axis * np.sign(axis[np.abs(axis).argmax()])
            parts = [f"{axis[k]:+.2f} {columns[k]}" for k in np.argsort(-np.abs(axis)) if abs(axis[k]) >= 0.2]
            words.append(f"{' '.join(parts)} (spread {ratio:.1f} times that of random subsets)")
    return words


def _warnings(report: DesignReport, pool: ScoredPool) -> list[str]:
    found = []
    if part := report.drawn_from:
        found.append(
            f"judged on {part['rows']:,} of the {part['of']:,} rows, taken at random (seed {part['seed']}): "
            f"selections from all of them reach further"
        )
    needed = len(report.indicators) + 3
    if report.num_mixtures < needed:
        found.append(
            f"{len(report.indicators)} indicators need {needed} mixtures or more: there are {report.num_mixtures}"
        )
    if not report.num_replicates:
        found.append("no replicates: the pure error, and so the lack of fit, will be unknown")
    collinear = [name for name, row in report.indicators.items() if row.vif > 10]
    if collinear:
        found.append(f"VIF above 10: {', '.join(collinear)}; their coefficients share what they explain")
    weak = [name for name, row in report.indicators.items() if row.spread_over_noise < WEAK_SPREAD]
    if weak:
        found.append(f"the mixtures hardly differ more than random subsets do in {', '.join(weak)}")
    short = [f"{name} ({row.covered:.0%})" for name, row in report.indicators.items() if row.covered < 0.8]
    if short:
        found.append(f"extrapolation: selected subsets will leave the design's range of {', '.join(short)}")
    if report.spread_to_noise is not None and report.spread_to_noise < WEAK_SPREAD:
        found.append(f"the losses are expected to spread only {report.spread_to_noise:.1f} times the pure error")
    if "mtld" in pool.columns and "output_length" in pool.columns:
        pair = np.column_stack([pool.values[:, pool.columns.index(name)] for name in ("mtld", "output_length")])
        alike = np.corrcoef(np.log1p(pair.clip(0)), rowvar=False)[0, 1]
        if alike > 0.7:
            found.append(
                f"log mtld and log output_length correlate at {alike:.2f} in this pool: MTLD of short text is length "
                f"in disguise and means something from about 100 words"
            )
    return found
