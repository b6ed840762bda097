"""Figures of a fitted rule, readable at 700 pixels."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from ..outputs.plots import BLUE, GREY, RED, canvas, save


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

    from ..regression.diagnostics import Diagnostics
    from ..regression.fit import Fit
    from .rule import Rule

    class Diagnosed(Rule):
        """A rule that was fitted."""

        diagnostics: Diagnostics
        fitted: Fit


CAPTIONS = {
    "predicted_measured": "Held-out prediction against measurement, with 95 % intervals for one finetune",
    "coefficients": "Standardised coefficients with 95 % intervals, and how often each indicator is chosen again",
    "residuals": "Residuals against fitted values, and against the normal distribution",
    "leverage": "Leverage against studentised residual, with Cook's distance",
    "correlation": "Correlation of the candidate indicators, with their variance inflation factors",
    "added_variable": "Added-variable plots: target and regressor, both less what the other regressors explain",
}


def draw(rule: "Rule", folder: str | Path) -> list[Path]:
    """Draws what a rule's diagnostics hold.

    Args:
        rule ([`Rule`]): Fitted, or read from a file of one that was.
        folder (`str` or `Path`): Made where absent.

    Returns:
        `list[Path]`: The PNG files. A rule without regressors has no coefficients, and so fewer figures.
    """
    rule = cast("Diagnosed", rule)
    d = rule.diagnostics
    figures = {"predicted_measured": _predicted_measured, "residuals": _residuals}
    if d.coefficients and d.p:
        figures["coefficients"] = _coefficients
    if d.leverage is not None and d.p:
        figures |= {"leverage": _leverage, "added_variable": _added_variable}
    if len(d.candidates) > 1:
        figures["correlation"] = _correlation
    paths = {name: Path(folder, f"{name}.png") for name in CAPTIONS if name in figures}
    for name, path in paths.items():
        save(partial(figures[name], rule), path)
    return list(paths.values())


def _unit(rule: "Rule") -> str:
    return "log loss (nats)" if rule.log_target else "loss (nats)"


def _predicted_measured(rule: "Diagnosed") -> "Figure":
    d = rule.diagnostics
    figure, ((axes,),) = canvas(5)
    predicted, measured = np.array(d.held_out), np.array(d.measured)
    reach = None
    if d.leverage is not None:
        from scipy.stats import t

        reach = t.ppf(0.975, rule.fitted.df) * np.sqrt(rule.fitted.residual_variance * (1 + np.array(d.leverage)))
    axes.errorbar(predicted, measured, xerr=reach, fmt="none", ecolor=GREY, elinewidth=0.6, alpha=0.5)
    axes.plot(predicted, measured, "o", color=BLUE, markersize=4.5, markeredgecolor="white", markeredgewidth=0.5)
    ends = np.array([min(predicted.min(), measured.min()), max(predicted.max(), measured.max())])
    axes.plot(ends, ends, color=RED, linewidth=1, label="predicted = measured")
    axes.axhline(measured.mean(), color=GREY, linewidth=0.8, linestyle=":", label="mean of the runs")
    ceiling = "not known" if d.noise_ceiling is None else f"{d.noise_ceiling:.2f}"
    beyond = "" if not d.in_every else f", partial {'not known' if d.partial_r2 is None else f'{d.partial_r2:.2f}'}"
    axes.set_title(f"held-out R² {d.nested_cv_r2:.2f}{beyond} (noise ceiling {ceiling}), {d.n} runs")
    axes.set_xlabel(f"predicted {_unit(rule)}, by a rule that had not seen the mixture")
    axes.set_ylabel(f"measured {_unit(rule)}")
    axes.legend(frameon=False)
    return figure


def _coefficients(rule: "Diagnosed") -> "Figure":
    d = rule.diagnostics
    table = sorted(d.coefficients[1:], key=lambda c: abs(c.standardized or 0.0))
    names = [c.name for c in table]
    left_out = sorted((n for n in d.chosen_share if n not in names), key=d.chosen_share.__getitem__)
    rows = [*left_out, *names]
    figure, ((axes, share),) = canvas(1.4 + 0.34 * len(rows), columns=2, sharey=True, width_ratios=[3, 1.2])
    for row, c in enumerate(table, start=len(left_out)):
        # The interval in standardised units is that of the estimate, in proportion.
        scale = (c.standardized or 0.0) / c.estimate if c.estimate else 0.0
        ends = sorted([c.low * scale, c.high * scale])
        axes.plot(ends, [row, row], color=BLUE, linewidth=2)
        axes.plot(c.standardized, row, "o", color=BLUE, markersize=6)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_yticks(range(len(rows)), [name[:28] for name in rows])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(f"sd of {'log ' if rule.log_target else ''}loss per sd of the regressor")
    if d.chosen_share:
        colors = [BLUE if name in d.chosen_share else GREY for name in rows]  # a covariate is in every rule
        share.barh(range(len(rows)), [d.chosen_share.get(name, 1.0) for name in rows], color=colors, height=0.5)
        share.set_xlabel("share of resamples\nthat choose it")
    else:
        share.barh(range(len(rows)), [c.sign_stability or 0.0 for c in table], color=BLUE, height=0.5)
        share.set_xlabel("share of resamples\nwith this sign")
    share.set_xlim(0, 1)
    return figure


def _residuals(rule: "Diagnosed") -> "Figure":
    from scipy.stats import norm

    d = rule.diagnostics
    figure, ((against, normal),) = canvas(3.6, columns=2)
    residuals = np.array(d.residuals)
    _dots(against, d.fitted, residuals)
    against.axhline(0, color=RED, linewidth=1)
    against.set_xlabel(f"fitted {_unit(rule)}")
    against.set_ylabel("residual (nats)")
    ranks = (np.argsort(np.argsort(residuals)) + 0.625) / (len(residuals) + 0.25)
    _dots(normal, norm.ppf(ranks), residuals / residuals.std(ddof=1))
    ends = norm.ppf([0.4 / len(residuals), 1 - 0.4 / len(residuals)])
    normal.plot(ends, ends, color=RED, linewidth=1)
    normal.set_xlabel("normal quantile")
    normal.set_ylabel("standardised residual")
    return figure


def _leverage(rule: "Diagnosed") -> "Figure":
    d = rule.diagnostics
    figure, ((axes,),) = canvas(4.5)
    leverage = np.array(d.leverage)
    spread = np.sqrt(rule.fitted.residual_variance * np.maximum(1 - leverage, 1e-12))
    studentized = np.array(d.residuals) / spread
    _dots(axes, leverage, studentized)
    high = max(np.abs(studentized).max() * 1.15, 2.5)
    grid = np.linspace(max(leverage.min() * 0.8, 1e-4), leverage.max() * 1.1, 200)
    for level, style in ((0.5, ":"), (1.0, "--")):
        curve = np.sqrt(level * (d.p + 1) * (1 - grid) / grid)
        for side in (1, -1):
            label = f"Cook's distance {level:g}" if side == 1 else None
            axes.plot(grid, side * curve, linestyle=style, color=RED, linewidth=1, label=label)
    axes.set_ylim(-high, high)
    axes.axhline(0, color=GREY, linewidth=0.8)
    for run in np.argsort(np.array(d.cooks_distance))[-3:]:
        axes.annotate(f"run {run}", (leverage[run], studentized[run]), (5, 3), textcoords="offset points", fontsize=9)
    axes.set_xlabel("leverage")
    axes.set_ylabel("studentised residual")
    axes.legend(frameon=False)
    return figure


def _correlation(rule: "Diagnosed") -> "Figure":
    d = rule.diagnostics
    matrix = np.array(d.correlation)
    figure, ((axes,),) = canvas(5.6)
    shown = axes.imshow(matrix, cmap="RdBu_r", vmin=-1, vmax=1)
    labels = [name[:24] for name in d.candidates]
    axes.set_xticks(range(len(labels)), labels, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(labels)), [f"{n}  (VIF {d.candidate_vif[c]:.1f})" for n, c in zip(labels, d.candidates)])
    for i in range(len(labels)):
        for j in range(len(labels)):
            color = "white" if abs(matrix[i, j]) > 0.6 else "black"
            axes.text(j, i, f"{matrix[i, j]:.2f}", ha="center", va="center", color=color, fontsize=8)
    figure.colorbar(shown, ax=axes, shrink=0.7, label="correlation between runs")
    return figure


def _added_variable(rule: "Diagnosed") -> "Figure":
    d = rule.diagnostics
    x, y = np.array(d.regressors), np.array(d.measured)
    names = [c.name for c in d.coefficients[1:]]
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure, grid = canvas(0.5 + 2.5 * rows, columns=columns, rows=rows, sharey=True)
    for k, axes in enumerate(grid.ravel()):
        if k >= len(names):
            axes.axis("off")
            continue
        others = np.column_stack([np.ones(len(x)), np.delete(x, k, axis=1)])
        both = np.column_stack([x[:, k], y])
        both -= others @ np.linalg.lstsq(others, both, rcond=None)[0]
        _dots(axes, both[:, 0], both[:, 1], 3.5)
        ends = np.array([both[:, 0].min(), both[:, 0].max()])
        axes.plot(ends, ends * (both[:, 0] @ both[:, 1]) / (both[:, 0] @ both[:, 0]), color=RED, linewidth=1)
        axes.set_xlabel(f"{names[k][:24]} | others (sd)")
        if k % columns == 0:
            axes.set_ylabel(f"{'log ' if rule.log_target else ''}loss | others (nats)")
    return figure


def _dots(axes: "Axes", x: "ArrayLike", y: "ArrayLike", size: float = 4.5) -> None:
    axes.plot(x, y, "o", color=BLUE, markersize=size, markeredgecolor="white", markeredgewidth=0.5)
