"""What a rule is worth, in plain words: the paragraph that stands wherever a rule is used."""

from typing import TYPE_CHECKING, Any

from ..outputs.markdown import count, printable
from ..regression.diagnostics import Diagnostics
from .estimator import PUBLISHED
from .summary import beats_the_mean, verdict


if TYPE_CHECKING:
    from .rule import Rule


# What of the runs tells how much each finetune trained on, and its unit.
BUDGETS = {"subset_size": "row", "train_tokens": "response token", "steps": "optimiser step"}


def paragraph(rule: "Rule", leverage: float | None = None) -> str:
    """Whether a rule may be used, how well it predicts unseen mixtures, and what it was fitted on.

    Args:
        rule ([`Rule`]): Fitted, published or set by hand.
        leverage (`float`, *optional*): Of a selection by it: whether that lies beyond the runs is said too.

    Returns:
        `str`: One line of plain text; names in it are made [`printable`].
    """
    name = printable(rule.name)
    if rule.diagnostics is None:
        kind = (
            "published with the paper, not fitted here: nothing is known of how well it predicts for other models and "
            "data"
            if rule.name in PUBLISHED
            else "hand-set: nothing is known of how well it predicts"
        )
        return (
            f"The rule {name} is {kind}. Compare its choice with a random one of the same size before you rely on it."
        )
    sentences = [verdict(rule.diagnostics), _held_out(rule, rule.diagnostics), _reach(rule, leverage)]
    return " ".join(filter(None, [f"The rule {name}:", *sentences, _fitted_on(rule, rule.diagnostics)]))


def in_a_title(rule: "Rule") -> str:
    """How well a rule predicts, as a line for a figure of its predictions."""
    d = rule.diagnostics
    if d is None or d.worth is None:
        return "How well this rule predicts is not known: no difference in its predictions is a finding."
    r2, (low, high) = d.worth
    told = f"The rule's held-out {'partial ' if d.in_every else ''}R² is {r2:.2f} (95 % {low:.2f} to {high:.2f})"
    return f"{told}: no difference in its predictions is a finding." if advises_against(rule) else f"{told}."


def advises_against(rule: "Rule") -> bool:
    """Whether the rule's own diagnostics say that it is not to be selected by."""
    return rule.diagnostics is not None and not beats_the_mean(rule.diagnostics)


def _held_out(rule: "Rule", d: Diagnostics) -> str:
    beyond = f" beyond {', '.join(map(printable, d.in_every))}" if d.in_every else ""
    if d.worth is None:
        return f"How much it explains{beyond} is not known."
    r2, (low, high) = d.worth
    name, baseline = ("held-out partial R²", "these alone do") if beyond else ("held-out R²", "their mean does")
    return (
        f"Its {name} is {r2:.2f} (95 % {low:.2f} to {high:.2f}): the share of the variance in "
        f"{'log ' if rule.log_target else ''}loss between unseen mixtures that it explains{beyond}, below 0 where "
        f"{baseline} better."
    )


def _reach(rule: "Rule", leverage: float | None) -> str:
    most = rule.max_leverage
    if most is None:
        return "Whether a selection lies beyond the runs is not known of such a rule."
    if leverage is None:
        return ""
    numbers = f"leverage {leverage:.3g}, theirs at most {most:.3g}"
    if leverage > most:
        return f"The selection lies beyond the runs ({numbers}): the rule extrapolates."
    return f"The selection lies within the runs ({numbers})."


def _fitted_on(rule: "Rule", d: Diagnostics) -> str:
    runs: dict[str, Any] = rule.fitted.runs if rule.fitted is not None else {}
    models = ", ".join(map(printable, runs.get("base_model") or ["a model that is not recorded"]))
    sets = ", ".join(printable(name.removeprefix("loss_")) for name in rule.target.split(" + "))
    budgets = [_amount(runs[name][0], runs[name][1], unit) for name, unit in BUDGETS.items() if name in runs]
    amount = f"on {' and '.join(budgets)} each" if budgets else "on amounts that are not recorded"
    return (
        f"It was fitted to {count(d.n, 'finetune')} of {models} ({count(d.num_mixtures, 'mixture')}), {amount}, "
        f"measured on {sets}."
    )


def _amount(least: float, most: float, unit: str) -> str:
    return count(round(most), unit) if least == most else f"{least:,.0f} to {count(round(most), unit)}"
