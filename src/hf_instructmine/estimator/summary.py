"""A rule's diagnostics as text: tables in the manner of statsmodels, then the same in plain words."""

from textwrap import fill
from typing import TYPE_CHECKING

from ..regression.diagnostics import Diagnostics


if TYPE_CHECKING:
    from .rule import Rule


WIDTH = 100
SEVERE_CONDITION = 30
SEVERE_VIF = 10
STABLE = 0.95
SIGNIFICANT = 0.05
ORIGIN = {"cv": "10-fold CV", "p-value": "in-sample p-values", "none": "all"}


def summarize(rule: "Rule") -> str:
    """Does the work of [`LossEstimator.summary`]."""
    if rule.diagnostics is None:
        lines = [rule.name, "=" * WIDTH, rule.origin, ""]
        lines += [f"  {name:<32}{value:>14.6g}" for name, value in rule.coefficients.items()]
        words = (
            f"{rule.name} was not fitted here: nothing is known of how well it predicts for your base model, data and "
            "evaluation set. Fit a rule on runs of your own, or compare it on them, before you rely on it."
        )
        return "\n".join([*lines, "", fill(words, WIDTH)])
    d = rule.diagnostics
    sections = [_heading(rule, d), _coefficients(d), _held_out(d), _tests(d), *_left_out(d)]
    if d.notes:
        sections.append("\n".join(fill(f"Note: {note}", WIDTH, subsequent_indent="  ") for note in d.notes))
    return "\n\n".join([*sections, fill(in_words(rule), WIDTH)])


def in_words(rule: "Rule") -> str:
    """The last paragraph of the summary: what carries the rule, whether it predicts, whether to use it."""
    d = rule.diagnostics
    assert d is not None  # it is asked of fitted rules alone
    return " ".join([*_carried_by(rule, d), *_worth(rule, d), *_doubts(rule, d), verdict(d)])


def beats_the_mean(d: Diagnostics) -> bool:
    """Whether the held-out R² is above 0 beyond chance: by the permutation test, or else by its interval."""
    if d.p == 0 or d.nested_cv_r2 <= 0:
        return False
    return d.nested_cv_r2_interval[0] > 0 if d.permutation_p is None else d.permutation_p <= SIGNIFICANT


def verdict(d: Diagnostics) -> str:
    """Whether to use the rule, in a sentence."""
    if not beats_the_mean(d):
        return "Do not select by it: a random choice of the same size is as good a bet."
    failing = [source for source, found in d.leave_one_source_out_r2.items() if found["r2"] < 0]
    if failing or d.nested_cv_r2_interval[0] < 0 or d.nested_cv_r2 < 0.1:
        return "Use it with care: finetune on its choice and on a random one of the same size before you believe it."
    return (
        "It can be used for sets like those of the runs (predict_subset says whether a set is); still compare its "
        "choice with a random one of the same size."
    )


def _heading(rule: "Rule", d: Diagnostics) -> str:
    assert rule.fitted is not None  # as its diagnostics are there
    select = rule.fitted.options.get("select", "")
    how = ORIGIN.get(select, select.upper())
    rows = [
        ("Target", f"{'log ' if rule.log_target else ''}{rule.target}", "R²", d.r2),
        ("Model", f"{rule.model}, {how} of {len(d.candidates)} candidates", "adjusted R²", d.adj_r2),
        ("Runs", f"{d.n} of {d.num_mixtures} mixtures ({d.failed} failed, left out)", "AIC", d.aic),
        ("Regressors", str(d.p), "BIC", d.bic),
        ("Errors", d.covariance_type, "AICc", d.aicc),
        ("Condition number", f"{d.condition_number:.1f}", "leave-one-out R²", d.loo_r2),
    ]
    lines = [rule.name, "=" * WIDTH]
    lines += [f"{a + ':':<18}{b:<50}{c + ':':<18}{number(v):>14}" for a, b, c, v in rows]
    return "\n".join(lines)


def _coefficients(d: Diagnostics) -> str:
    if not d.coefficients:
        return "A non-linear model has no coefficients."
    head = (
        f"{'':<24}{'coef':>12}{'std err':>11}{'P>|t|':>8}{'[0.025':>11}{'0.975]':>11}{'beta':>8}{'VIF':>7}{'sign':>8}"
    )
    lines = [head, "-" * WIDTH]
    for c in d.coefficients:
        lines.append(
            f"{c.name[:23]:<24}{c.estimate:>12.4g}{c.error:>11.3g}{number(c.p, 3):>8}{c.low:>11.4g}{c.high:>11.4g}"
            f"{number(c.standardized, 2):>8}{number(c.vif, 1):>7}{percent(c.sign_stability):>8}"
        )
    lines.append("-" * WIDTH)
    if d.chosen_share:
        shares = sorted(d.chosen_share.items(), key=lambda item: -item[1])
        lines += _wrapped("Chosen again in bootstrap resamples: ", [f"{n} {percent(s)}" for n, s in shares])
        near = [
            f"{d.candidates[i]} ~ {d.candidates[j]} ({d.correlation[i][j]:.2f})"
            for i in range(len(d.candidates))
            for j in range(i)
            if abs(d.correlation[i][j]) > 0.8
        ]
        if near:
            lines += _wrapped("Candidates that move together in these runs: ", near)
        lines.append("Errors, intervals and p take the regressors as given: after a choice they are too good.")
    lines.append(f"beta: standardised; sign: share of {d.bootstraps:,} resamples with the same sign.")
    return "\n".join(lines)


def _held_out(d: Diagnostics) -> str:
    low, high = d.nested_cv_r2_interval
    lines = [
        "Held out (whole mixtures; the choice of regressors is part of what is tested)",
        f"  nested 10-fold CV R²   {d.nested_cv_r2:.3f} ± {d.nested_cv_r2_sd:.3f} over {d.partitions} partitions "
        f"(95 % {low:.3f} … {high:.3f})",
        f"  Spearman               {number(d.spearman_cv)}",
    ]
    if d.permutation_p is not None:
        lines.append(f"  permutation p          {d.permutation_p:.4f} ({d.permutations:,} permutations)")
    if d.noise_ceiling is None or d.noise_ceiling_interval is None:
        lines.append("  noise ceiling          unknown: no mixture was run twice")
    else:
        low, high = d.noise_ceiling_interval
        lines.append(
            f"  noise ceiling          {d.noise_ceiling:.3f} (95 % {low:.3f} … {high:.3f}); sd between replicates "
            f"{d.noise_sd:.4f}"
        )
    return "\n".join(lines)


def _tests(d: Diagnostics) -> str:
    lines = ["Tests of the linear rule (a small p speaks against it)"]
    if d.lack_of_fit is not None:
        f = d.lack_of_fit
        lines.append(f"  lack of fit            F({f['df_lack']}, {f['df_pure']}) = {f['f']:.2f}, p = {f['p']:.3f}")
    if d.reset_p is not None:
        lines.append(f"  curvature (RESET)      p = {d.reset_p:.3f}")
    if d.breusch_pagan is not None:
        lines.append(f"  equal variances (BP)   p = {d.breusch_pagan['p']:.3f}")
    if d.jarque_bera is not None:
        lines.append(f"  normal residuals (JB)  p = {d.jarque_bera['p']:.3f}")
    if (distances := d.cooks_distance) is not None:
        worst = max(range(d.n), key=distances.__getitem__)
        lines.append(f"  largest Cook's distance {distances[worst]:.2f} (finished run {worst})")
    return "\n".join(lines) if len(lines) > 1 else "No tests: they belong to least squares."


def _left_out(d: Diagnostics) -> list[str]:
    sections = []
    if d.leave_one_source_out_r2:
        lines = ["Leaving one source out (fitted on the runs with none or least of it, tested on the others)"]
        for source, found in d.leave_one_source_out_r2.items():
            lines.append(
                f"  {source[:30]:<32}R² {found['r2']:>7.3f}   Spearman {number(found['spearman'], 2):>5}   "
                f"{found['train_runs']} → {found['test_runs']} runs, the first with up to "
                f"{found['largest_training_share']:.0%} of it"
            )
        sections.append("\n".join(lines))
    if d.other_evaluation_sets:
        lines = ["Other evaluation sets (held-out predictions, shifted to the set's mean)"]
        for name, found in d.other_evaluation_sets.items():
            lines.append(f"  {name[:30]:<32}R² {found['r2']:>7.3f}   Spearman {number(found['spearman'], 2):>5}")
        sections.append("\n".join(lines))
    if d.set_effects:
        lines = [
            "Evaluation sets of the joint rule (level about the common one; p that the slopes are the common ones)"
        ]
        for name, effect in d.set_effects.items():
            lines.append(f"  {name[:30]:<32}{effect:>+8.4f}   p = {number(d.set_slopes_p[name])}")
        sections.append("\n".join(lines))
    return sections


def _carried_by(rule: "Rule", d: Diagnostics) -> list[str]:
    if rule.model == "automl":
        return ["This is FLAML's non-linear regressor, for comparison: it cannot be read or kept."]
    if not rule.terms:
        return ["No indicator was worth keeping: the rule is the mean of the runs."]
    table = {c.name: c for c in d.coefficients}
    carried = sorted((table[t.name] for t in rule.terms), key=lambda c: -abs(c.standardized or 0.0))
    parts = [f"{c.name} (loss {'rises' if c.estimate > 0 else 'falls'} with it)" for c in carried]
    words = [f"The rule rests on {_listed(parts)}."]
    for kept, other in d.interchangeable:
        words.append(f"{other} could stand in for {kept}: these runs cannot tell them apart.")
    if d.rivals is not None and d.rivals > 1:
        words.append(f"Of {d.subsets} sets of regressors {d.rivals} do as well as this one.")
    return words


def _worth(rule: "Rule", d: Diagnostics) -> list[str]:
    if d.p == 0:
        return [f"The whole procedure has a held-out R² of {d.nested_cv_r2:.2f}."]
    low, high = d.nested_cv_r2_interval
    share = f"held-out R² {d.nested_cv_r2:.2f}, 95 % {low:.2f} to {high:.2f}"
    chance = "" if d.permutation_p is None else f"; permutation p {d.permutation_p:.3f}"
    does = "It predicts unseen mixtures better" if beats_the_mean(d) else "It does not predict unseen mixtures better"
    words = [f"{does} than their mean does ({share}{chance})."]
    if d.noise_ceiling is None or d.noise_ceiling_interval is None:
        words.append("What is attainable is unknown, since no mixture was run twice.")
    else:
        words.append(
            f"Replicate noise lets a perfect rule reach about {d.noise_ceiling:.2f} "
            f"({d.noise_ceiling_interval[0]:.2f} to {d.noise_ceiling_interval[1]:.2f})."
        )
    if d.r2 - d.nested_cv_r2 > 0.1:
        words.append(f"The in-sample R² of {d.r2:.2f} flatters it.")
    return words


def _doubts(rule: "Rule", d: Diagnostics) -> list[str]:
    words = []
    assert rule.fitted is not None  # as its diagnostics are there
    if rule.fitted.options.get("select") == "p-value":
        words.append("Its regressors were chosen by in-sample p-values, as in the paper: its p-values mean little.")
    terms = {term.name for term in rule.terms}
    stability = {c.name: c.sign_stability for c in d.coefficients if c.name in terms}
    unstable = [name for name, share in stability.items() if share is not None and share < STABLE]
    if unstable:
        words.append(f"The sign of {_listed(unstable)} is not certain.")
    inflated = [name for name, vif in d.vif.items() if vif > SEVERE_VIF]
    if inflated or d.condition_number > SEVERE_CONDITION:
        which = f" ({_listed(inflated)})" if inflated else ""
        words.append(f"Its regressors are collinear{which}: do not read them singly.")
    if d.source_r2 and len(d.source_r2) > 1 and min(d.source_r2.values()) > 0.9:
        words.append("The mix of sources fixes the indicators in these runs: coefficients may stand for sources.")
    if d.lack_of_fit is not None and d.lack_of_fit["p"] < SIGNIFICANT:
        words.append("Replicates show that a linear rule does not fit: try squared=[...].")
    elif d.reset_p is not None and d.reset_p < SIGNIFICANT:
        words.append("There are signs of curvature: try squared=[...].")
    failing = [source for source, found in d.leave_one_source_out_r2.items() if found["r2"] < 0]
    if failing:
        words.append(f"It does not carry over to runs with more of {_listed(failing)} than it was fitted on.")
    lost = [name for name, found in d.other_evaluation_sets.items() if found["r2"] <= 0 < d.nested_cv_r2]
    if lost:
        words.append(f"It says nothing of {_listed(lost)}.")
    different = [name for name, p in d.set_slopes_p.items() if p is not None and p * len(d.set_slopes_p) < SIGNIFICANT]
    if different:
        words.append(f"The slopes of {_listed(different)} are their own: fit a rule for each.")
    return words


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def _wrapped(opening: str, parts: list[str]) -> list[str]:
    lines = [opening]
    for part in parts:
        if len(lines[-1]) + len(part) > WIDTH:
            lines.append("  ")
        lines[-1] += part + "; "
    return [line.rstrip("; ") for line in lines]


def number(value: float | None, digits: int = 3) -> str:
    """A number, or a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}"


def percent(share: float | None) -> str:
    """A share in whole percent, or a dash where there is none."""
    return "–" if share is None else f"{share:.0%}"
