"""Figures of a fitted rule, readable at 700 pixels."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from ..outputs.plots import BLUE, GREY, RED, canvas, save
from ..outputs.shown import Drawing


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
    paths = {name: Path(folder, f"{name}.png") for name in drawings(rule)}
    for name, drawing in drawings(rule).items():
        save(drawing.draw, paths[name])
    return list(paths.values())


def drawings(rule: "Rule") -> dict[str, Drawing]:
    """The figures of a rule's diagnostics with their numbers, by name, in the order of [`CAPTIONS`].

    Args:
        rule ([`Rule`]): Any; one that was not fitted has none.
    """
    if rule.diagnostics is None:
        return {}
    rule = cast("Diagnosed", rule)
    d = rule.diagnostics
    known = {"predicted_measured", "residuals"}
    if d.coefficients and d.p:
        known.add("coefficients")
    if d.leverage is not None and d.p:
        known |= {"leverage", "added_variable"}
    if len(d.candidates) > 1:
        known.add("correlation")
    return {
        name: Drawing(caption, partial(_DRAWN[name], rule), partial(_DATA[name], rule))
        for name, caption in CAPTIONS.items()
        if name in known
    }


def _unit(rule: "Rule") -> str:
    return "log loss (nats)" if rule.log_target else "loss (nats)"


def _predicted_measured_data(rule: "Diagnosed") -> dict[str, Any]:
    d = rule.diagnostics
    predicted = np.array(d.held_out)
    reach = np.full(len(predicted), np.nan)
    if d.leverage is not None:
        from scipy.stats import t

        reach = t.ppf(0.975, rule.fitted.df) * np.sqrt(rule.fitted.residual_variance * (1 + np.array(d.leverage)))
    return {
        "run": np.arange(len(predicted)), "predicted": predicted, "low": predicted - reach, "high": predicted + reach,
        "measured": np.array(d.measured),
    }  # fmt: skip


def _predicted_measured(rule: "Diagnosed") -> "Figure":
    d, data = rule.diagnostics, _predicted_measured_data(rule)
    figure, ((axes,),) = canvas(5)
    predicted, measured = data["predicted"], data["measured"]
    if d.leverage is not None:
        axes.hlines(measured, data["low"], data["high"], color=GREY, linewidth=0.6, alpha=0.5)
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


def _coefficients_data(rule: "Diagnosed") -> dict[str, Any]:
    """From the bottom of the figure up: candidates that were left out, then the terms. The interval in standardised
    units is that of the estimate, in proportion."""
    d = rule.diagnostics
    kept = sorted(d.coefficients[1:], key=lambda c: abs(c.standardized or 0.0))
    names = [c.name for c in kept]
    left_out = sorted((n for n in d.chosen_share if n not in names), key=d.chosen_share.__getitem__)
    scales = [(c.standardized or 0.0) / c.estimate if c.estimate else 0.0 for c in kept]
    ends = [sorted([c.low * scale, c.high * scale]) for c, scale in zip(kept, scales)]
    unknown = [np.nan] * len(left_out)
    if d.chosen_share:  # a covariate is in every rule
        share = {"chosen_again": [d.chosen_share.get(name, 1.0) for name in [*left_out, *names]]}
    else:
        share = {"same_sign": [c.sign_stability or 0.0 for c in kept]}
    return {
        "term": [*left_out, *names],
        "standardized": [*unknown, *(np.nan if c.standardized is None else c.standardized for c in kept)],
        "low": [*unknown, *(low for low, _ in ends)], "high": [*unknown, *(high for _, high in ends)],
        **share,
    }  # fmt: skip


def _coefficients(rule: "Diagnosed") -> "Figure":
    d, data = rule.diagnostics, _coefficients_data(rule)
    rows = range(len(data["term"]))
    figure, ((axes, share),) = canvas(1.4 + 0.34 * len(rows), columns=2, sharey=True, width_ratios=[3, 1.2])
    for row in rows:
        if np.isfinite(data["low"][row]):
            axes.plot([data["low"][row], data["high"][row]], [row, row], color=BLUE, linewidth=2)
            axes.plot(data["standardized"][row], row, "o", color=BLUE, markersize=6)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set_yticks(rows, [name[:28] for name in data["term"]])
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_xlabel(f"sd of {'log ' if rule.log_target else ''}loss per sd of the regressor")
    if d.chosen_share:
        colors = [BLUE if name in d.chosen_share else GREY for name in data["term"]]
        share.barh(rows, data["chosen_again"], color=colors, height=0.5)
        share.set_xlabel("share of resamples\nthat choose it")
    else:
        share.barh(rows, data["same_sign"], color=BLUE, height=0.5)
        share.set_xlabel("share of resamples\nwith this sign")
    share.set_xlim(0, 1)
    return figure


def _residuals_data(rule: "Diagnosed") -> dict[str, Any]:
    from scipy.stats import norm

    residuals = np.array(rule.diagnostics.residuals)
    ranks = (np.argsort(np.argsort(residuals)) + 0.625) / (len(residuals) + 0.25)
    return {
        "run": np.arange(len(residuals)), "fitted": np.array(rule.diagnostics.fitted), "residual": residuals,
        "normal_quantile": norm.ppf(ranks), "standardized": residuals / residuals.std(ddof=1),
    }  # fmt: skip


def _residuals(rule: "Diagnosed") -> "Figure":
    from scipy.stats import norm

    data = _residuals_data(rule)
    figure, ((against, normal),) = canvas(3.6, columns=2)
    _dots(against, data["fitted"], data["residual"])
    against.axhline(0, color=RED, linewidth=1)
    against.set_xlabel(f"fitted {_unit(rule)}")
    against.set_ylabel("residual (nats)")
    _dots(normal, data["normal_quantile"], data["standardized"])
    ends = norm.ppf([0.4 / len(data["run"]), 1 - 0.4 / len(data["run"])])
    normal.plot(ends, ends, color=RED, linewidth=1)
    normal.set_xlabel("normal quantile")
    normal.set_ylabel("standardised residual")
    return figure


def _leverage_data(rule: "Diagnosed") -> dict[str, Any]:
    d = rule.diagnostics
    leverage = np.array(d.leverage)
    spread = np.sqrt(rule.fitted.residual_variance * np.maximum(1 - leverage, 1e-12))
    return {
        "run": np.arange(len(leverage)), "leverage": leverage, "studentized": np.array(d.residuals) / spread,
        "cooks_distance": np.array(d.cooks_distance),
    }  # fmt: skip


def _leverage(rule: "Diagnosed") -> "Figure":
    d, data = rule.diagnostics, _leverage_data(rule)
    figure, ((axes,),) = canvas(4.5)
    leverage, studentized = data["leverage"], data["studentized"]
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
    for run in np.argsort(data["cooks_distance"])[-3:]:
        axes.annotate(f"run {run}", (leverage[run], studentized[run]), (5, 3), textcoords="offset points", fontsize=9)
    axes.set_xlabel("leverage")
    axes.set_ylabel("studentised residual")
    axes.legend(frameon=False)
    return figure


def _correlation_data(rule: "Diagnosed") -> dict[str, Any]:
    d = rule.diagnostics
    pairs = [(name, other) for name in d.candidates for other in d.candidates]
    return {
        "indicator": [name for name, _ in pairs], "vif": [d.candidate_vif[name] for name, _ in pairs],
        "other": [other for _, other in pairs], "correlation": np.array(d.correlation).ravel(),
    }  # fmt: skip


def _correlation(rule: "Diagnosed") -> "Figure":
    d = rule.diagnostics
    matrix = _correlation_data(rule)["correlation"].reshape(len(d.candidates), -1)
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


def _added_variable_data(rule: "Diagnosed") -> dict[str, Any]:
    """Of each term and run: the regressor and the target, both less what the other regressors explain."""
    d = rule.diagnostics
    x, y = np.array(d.regressors), np.array(d.measured)
    names = [c.name for c in d.coefficients[1:]]
    parts = []
    for k in range(len(names)):
        others = np.column_stack([np.ones(len(x)), np.delete(x, k, axis=1)])
        both = np.column_stack([x[:, k], y])
        parts.append(both - others @ np.linalg.lstsq(others, both, rcond=None)[0])
    beyond = np.concatenate(parts)
    return {
        "term": np.repeat(names, len(x)), "run": np.tile(np.arange(len(x)), len(names)),
        "regressor": beyond[:, 0], "target": beyond[:, 1],
    }  # fmt: skip


def _added_variable(rule: "Diagnosed") -> "Figure":
    data = _added_variable_data(rule)
    names = [c.name for c in rule.diagnostics.coefficients[1:]]
    parts = np.column_stack([data["regressor"], data["target"]]).reshape(len(names), -1, 2)
    columns = min(len(names), 3)
    rows = -(-len(names) // columns)
    figure, grid = canvas(0.5 + 2.5 * rows, columns=columns, rows=rows, sharey=True)
    for k, axes in enumerate(grid.ravel()):
        if k >= len(names):
            axes.axis("off")
            continue
        both = parts[k]
        _dots(axes, both[:, 0], both[:, 1], 3.5)
        ends = np.array([both[:, 0].min(), both[:, 0].max()])
        axes.plot(ends, ends * (both[:, 0] @ both[:, 1]) / (both[:, 0] @ both[:, 0]), color=RED, linewidth=1)
        axes.set_xlabel(f"{names[k][:24]} | others (sd)")
        if k % columns == 0:
            axes.set_ylabel(f"{'log ' if rule.log_target else ''}loss | others (nats)")
    return figure


def _dots(axes: "Axes", x: "ArrayLike", y: "ArrayLike", size: float = 4.5) -> None:
    axes.plot(x, y, "o", color=BLUE, markersize=size, markeredgecolor="white", markeredgewidth=0.5)


_DRAWN: "dict[str, Callable[[Diagnosed], Figure]]" = {
    "predicted_measured": _predicted_measured, "coefficients": _coefficients, "residuals": _residuals,
    "leverage": _leverage, "correlation": _correlation, "added_variable": _added_variable,
}  # fmt: skip
_DATA: "dict[str, Callable[[Diagnosed], dict[str, Any]]]" = {
    "predicted_measured": _predicted_measured_data, "coefficients": _coefficients_data, "residuals": _residuals_data,
    "leverage": _leverage_data, "correlation": _correlation_data, "added_variable": _added_variable_data,
}  # fmt: skip
