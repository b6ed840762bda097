"""A rule's diagnostics as text: tables in the manner of statsmodels, then the same in plain words."""

from textwrap import fill
from typing import TYPE_CHECKING, Any

from ..outputs.shown import Cells
from ..regression.diagnostics import Diagnostics


if TYPE_CHECKING:
    from .rule import Rule


WIDTH = 100
SEVERE_CONDITION = 30
SEVERE_VIF = 10
STABLE = 0.95
SIGNIFICANT = 0.05
# Two indicators that act together look like a curve, and no square mends that.
CURVES = (
    "A square (squared=[...]) or a logarithm (logged=[...]) may help or harm, and neither is the product of two "
    "indicators: keep one only where the nested R² rises."
)
ORIGIN = {"cv": "10-fold CV", "p-value": "in-sample p-values", "none": "all"}


def summarize(rule: "Rule") -> str:
    """Does the work of [`LossEstimator.summary`]."""
    if rule.diagnostics is None:
        lines = [rule.name, "=" * WIDTH, rule.origin, ""]
        lines += [f"  {name:<32}{value:>14.6g}" for name, value in rule.coefficients.items()]
        return "\n".join([*lines, "", fill(not_fitted_here(rule), WIDTH)])
    d = rule.diagnostics
    sections = [_heading(rule, d), _coefficients(d), _held_out(d), _tests(d), *_left_out(d)]
    if d.notes:
        sections.append("\n".join(fill(f"Note: {note}", WIDTH, subsequent_indent="  ") for note in d.notes))
    return "\n\n".join([*sections, fill(in_words(rule), WIDTH)])


def not_fitted_here(rule: "Rule") -> str:
    """What is known of a rule that was published or set by hand: nothing."""
    return (
        f"{rule.name} was not fitted here: nothing is known of how well it predicts for your base model, data and "
        "evaluation set. Fit a rule on runs of your own, or compare it on them, before you rely on it."
    )


def tables(rule: "Rule") -> list[Cells]:
    """The coefficients, and what the rule explains, as tables for a notebook."""
    d = rule.diagnostics
    if d is None:
        return [
            Cells("Coefficients", ["term", "coefficient"], [[n, f"{v:.6g}"] for n, v in rule.coefficients.items()])
        ]
    header = ["term", "coefficient", "standard error", "p", "95 % from", "to", "standardised", "VIF", "same sign"]
    rows = [
        [c.name, f"{c.estimate:.4g}", f"{c.error:.3g}", number(c.p), f"{c.low:.4g}", f"{c.high:.4g}",
         number(c.standardized, 2), number(c.vif, 1), percent(c.sign_stability)]
        for c in d.coefficients
    ]  # fmt: skip
    low, high = d.nested_cv_r2_interval
    explained = [["R² in sample", f"{d.r2:.3f}"], ["R² held out", f"{d.nested_cv_r2:.3f} ({low:.3f} … {high:.3f})"]]
    if d.partial_r2 is not None:
        explained.append(["partial R² held out", f"{d.partial_r2:.3f}"])
    explained += [
        ["permutation p", number(d.permutation_p, 4)],
        ["noise ceiling", "not known" if d.noise_ceiling is None else f"{d.noise_ceiling:.3f}"],
        ["runs, mixtures, failed", f"{d.n}, {d.num_mixtures}, {d.failed}"],
    ]
    return [
        *([Cells("Coefficients", header, rows)] if rows else []),
        Cells("What the rule explains (95 % in brackets)", ["measure", "value"], explained),
    ]


def in_words(rule: "Rule") -> str:
    """The last paragraph of the summary: what carries the rule, whether it predicts, whether to use it."""
    d = rule.diagnostics
    assert d is not None  # it is asked of fitted rules alone
    return " ".join([*_carried_by(rule, d), *_worth(rule, d), *_doubts(rule, d), verdict(d)])


def beats_the_mean(d: Diagnostics) -> bool:
    """Whether the indicators predict held-out runs beyond chance: by the permutation test, or else by the interval.

    Where covariates or groups are in the rule, it is what the indicators add to them that counts. Where that is not
    known, the permutation test decides alone: its targets keep what the covariates explain.
    """
    if not any(name in d.vif for name in d.candidates):
        return False
    if d.worth is None:
        return d.permutation_p is None or d.permutation_p <= SIGNIFICANT
    r2, interval = d.worth
    if r2 <= 0:
        return False
    return interval[0] > 0 if d.permutation_p is None else d.permutation_p <= SIGNIFICANT


def failing_sources(d: Diagnostics) -> list[str]:
    """The sources that the rule does not carry over to.

    Its skill is negative there, and random splits of the same sizes do as badly in at most 5 % of cases, by Bonferroni
    over the sources. Where nothing was compared, a negative skill is enough.
    """
    found = d.leave_one_source_out_r2
    return [
        source
        for source, f in found.items()
        if f.get("skill", f["r2"]) < 0 and (f.get("as_bad") is None or f["as_bad"] * len(found) <= SIGNIFICANT)
    ]


def verdict(d: Diagnostics) -> str:
    """Whether to use the rule, in a sentence."""
    if not beats_the_mean(d):
        return "Do not select by it: a random choice of the same size is as good a bet."
    if d.worth is None:
        return (
            f"Use it with care: how much its indicators add to {_in_every(d)} is not known, since an earlier "
            "version saved it; fit it again."
        )
    r2, interval = d.worth
    if failing_sources(d) or interval[0] < 0 or r2 < 0.1:
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
        if d.subsets > 1:
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
    if d.in_every:
        added = "not known: saved by an earlier version"
        if d.partial_r2 is not None and d.partial_r2_interval is not None:
            low, high = d.partial_r2_interval
            added = f"{d.partial_r2:.3f} (95 % {low:.3f} … {high:.3f})"
        lines.append(f"  partial R²             {added}: what the indicators add to {_in_every(d)}"[:WIDTH])
    if d.permutation_p is not None:
        lines.append(f"  permutation p          {d.permutation_p:.4f} ({d.permutations:,} permutations)")
    return "\n".join([*lines, *_noise(d)])


def _noise(d: Diagnostics) -> list[str]:
    """What the repeated mixtures say of the noise, and which of them say it."""
    if d.noise_ceiling is None or d.noise_ceiling_interval is None or not d.noise_sd:
        return [f"  noise ceiling          not known: {_why_unknown(d)}"]
    low, high = d.noise_ceiling_interval
    lines = [
        f"  noise ceiling          {d.noise_ceiling:.3f} (95 % {low:.3f} … {high:.3f}); sd between replicates "
        f"{d.noise_sd:.4f}"
    ]
    if d.replicates:
        lines.append("                         (if all mixtures are equally noisy)")
        lines += _wrapped("Spread between the runs of each repeated mixture: ", [_pair(pair) for pair in d.replicates])
    if dominated(d):
        lines.append(
            f"  The first of them is noisier than the others (p = {d.unequal_noise_p:.3f}): the ceiling and the F do "
            "not hold."
        )
    return lines


def _why_unknown(d: Diagnostics) -> str:
    if d.n == d.num_mixtures:
        return "no mixture was run twice"
    return "the runs of each repeated mixture are equal (was their seed the same?)"


def _pair(pair: dict[str, Any]) -> str:
    runs = " and ".join(map(str, pair["runs"]))
    return f"runs {runs} sd {pair['sd']:.4f} ({pair['share']:.0%})"


def dominated(d: Diagnostics) -> bool:
    """Whether one repeated mixture is noisier than the others beyond chance."""
    return d.unequal_noise_p is not None and d.unequal_noise_p < SIGNIFICANT


def does_not_fit(d: Diagnostics) -> bool:
    """Whether the replicates contradict the rule: under equal noise and under each mixture's own."""
    f = d.lack_of_fit
    return f is not None and all(p is not None and p < SIGNIFICANT for p in (f["p"], f.get("own_noise_p")))


def _tests(d: Diagnostics) -> str:
    lines = ["Tests of the linear rule (a small p speaks against it)"]
    if d.lack_of_fit is not None:
        f = d.lack_of_fit
        lines.append(
            f"  lack of fit            F({f['df_lack']}, {f['df_pure']}) = {f['f']:.2f}, p = {f['p']:.3f} if all "
            "mixtures are equally noisy"
        )
        own = "not known" if f.get("own_noise_p") is None else f"p = {f['own_noise_p']:.3f}"
        lines.append(f"                         {own} by the own noise of each repeated mixture")
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
        lines = [
            "Leaving one source out (fitted on the runs with none or least of it, tested on the others; R² over the",
            "training runs' mean; beside it the share of random splits of the same sizes that do as badly)",
        ]
        for source, found in d.leave_one_source_out_r2.items():
            share = found.get("as_bad")
            lines.append(
                f"  {source[:24]:<26}R² {found.get('skill', found['r2']):>7.3f}  "
                f"{'not known' if share is None else f'{share:.1%}':>9}  Spearman {number(found['spearman'], 2):>5}  "
                f"{found['train_runs']} → {found['test_runs']} runs, the first with ≤ "
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
    predicts, words = beats_the_mean(d), []
    if d.worth is None:
        words.append(
            f"Its held-out R² of {d.nested_cv_r2:.2f} counts what {_in_every(d)} explain: what the indicators "
            "add to that is not known."
        )
    else:
        r2, (low, high) = d.worth
        chance = "" if d.permutation_p is None else f"; permutation p {d.permutation_p:.3f}"
        does = "It predicts unseen mixtures better" if predicts else "It does not predict unseen mixtures better"
        if d.in_every:
            words.append(
                f"{does} than {_in_every(d)} alone (held-out partial R² {r2:.2f}, 95 % {low:.2f} to {high:.2f}"
                f"{chance})."
            )
            words.append(f"The held-out R² of {d.nested_cv_r2:.2f} counts what {_in_every(d)} explain too.")
        else:
            words.append(f"{does} than their mean does (held-out R² {r2:.2f}, 95 % {low:.2f} to {high:.2f}{chance}).")
    words.append(_attainable(d))
    if d.r2 - d.nested_cv_r2 > 0.1:
        words.append(f"The in-sample R² of {d.r2:.2f} flatters it.")
    return words


def _attainable(d: Diagnostics) -> str:
    if d.noise_ceiling is None or d.noise_ceiling_interval is None or not d.noise_sd:
        return f"What is attainable is not known, since {_why_unknown(d)}."
    if dominated(d):
        widest = d.replicates[0]
        return (
            f"What is attainable is not known: {widest['share']:.0%} of the replicates' noise is that of runs "
            f"{_listed([str(run) for run in widest['runs']])}."
        )
    low, high = d.noise_ceiling_interval
    return (
        f"Replicate noise lets a perfect rule reach about {d.noise_ceiling:.2f} ({low:.2f} to {high:.2f}), if all "
        "mixtures are equally noisy."
    )


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
    if does_not_fit(d):
        words.append(f"Replicates show that a linear rule does not fit. {CURVES}")
    elif d.reset_p is not None and d.reset_p < SIGNIFICANT:
        words.append(f"There are signs of curvature. {CURVES}")
    if failing := failing_sources(d):
        words.append(f"It does not carry over to runs with more of {_listed(failing)} than it was fitted on.")
    lost = [name for name, found in d.other_evaluation_sets.items() if found["r2"] <= 0 < d.nested_cv_r2]
    if lost:
        words.append(f"It says nothing of {_listed(lost)}.")
    different = [name for name, p in d.set_slopes_p.items() if p is not None and p * len(d.set_slopes_p) < SIGNIFICANT]
    if different:
        words.append(f"The slopes of {_listed(different)} are their own: fit a rule for each.")
    return words


def _in_every(d: Diagnostics) -> str:
    names = d.in_every
    return _listed(names) if len(names) <= 3 else f"its {len(names)} covariates and groups"


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
