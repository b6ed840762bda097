"""What a folder's comparison was asked for: its protocol, its strategies, and what their choices cost besides."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, NotRequired, TypedDict

from ..data.evaluation_sets import EvaluationSet
from ..errors import InstructMineError
from ..estimator.estimator import LossEstimator
from ..estimator.file import rule_digest
from ..outputs.records import Records
from ..selection.selector import Selector
from .parts import Choices, Protocol
from .strategies import Strategy


REQUEST = "comparison.json"
# What has to be the same in all calls on a folder; other strategies, amounts, multiples and seeds may join.
_FIXED = ("parts", "budget", "seed")


class _Kept(TypedDict):
    strategies: list[str]
    fitted_on: dict[str, list[str]]
    seed: NotRequired[int]
    chosen_by: NotRequired[dict[str, str]]
    protocol: NotRequired[dict[str, Any]]
    eval_bytes: NotRequired[dict[str, int]]
    pool: NotRequired[dict[str, int]]
    sweeps: NotRequired[dict[str, Any]]


KINDS = {REQUEST: _Kept}


class Request:
    """The request that a folder keeps.

    Args:
        records ([`Records`]): Of the folder.
    """

    def __init__(self, records: Records):
        self.records, self.path = records, records.folder / REQUEST

    def check(self, protocol: Protocol) -> None:
        """Looks whether the folder's comparison can be gone on with.

        Raises:
            [`InstructMineError`]: Where it is of another protocol.
        """
        before = self.records.read(self.path)
        if before is None:
            return
        if "protocol" not in before:
            raise InstructMineError(
                f"'{self.records.folder}' holds a comparison of an earlier version, where each strategy chose once: "
                "choose another output_dir"
            )
        for name in _FIXED:
            was, now = before["protocol"].get(name), getattr(protocol, name)
            if was != now:
                raise InstructMineError(
                    f"'{self.records.folder}' holds a comparison of {name}={was}, not {now}: ask for that, or choose "
                    "another output_dir"
                )

    def keep(
        self,
        strategies: Mapping[str, Strategy],
        protocol: Protocol,
        eval_sets: Mapping[str, EvaluationSet],
        choices: Choices,
    ) -> None:
        """Notes it down, with what earlier calls on the folder asked for, and other processes do meanwhile."""
        with self.records.lock("comparison", patience=-1):
            self._keep(strategies, protocol, eval_sets, choices)

    def _keep(
        self,
        strategies: Mapping[str, Strategy],
        protocol: Protocol,
        eval_sets: Mapping[str, EvaluationSet],
        choices: Choices,
    ) -> None:
        before = self.records.read(self.path) or {"strategies": [], "fitted_on": {}}
        rules = {n: s.chooses_by if isinstance(s, Selector) else s for n, s in strategies.items()}
        fitted = {
            name: [target.removeprefix("loss_") for target in rule.target.split(" + ")]
            for name, rule in rules.items()
            if isinstance(rule, LossEstimator)
        }
        sizes = {name: _bytes(examples) for name, examples in eval_sets.items()}
        request = {
            "strategies": list(dict.fromkeys([*strategies, *before["strategies"]])),
            "fitted_on": {**before["fitted_on"], **fitted},
            "seed": protocol.seed,
            "protocol": asdict(protocol),
            "eval_bytes": sizes,
            "pool": {"rows": len(choices.usable), "tokens": int(choices.lengths[choices.usable].sum())},
            "sweeps": {**before.get("sweeps", {}), **_sweeps(rules)},
            **({"chosen_by": told} if (told := chosen_by(rules, before)) else {}),
        }
        self.records.write(self.path, request)


def chosen_by(rules: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, str]:
    """Which rule each strategy is of, or its words. One that was there before, and not of this rule, is of no one."""
    now = {n: rule_digest(r) if isinstance(r, LossEstimator) else r for n, r in rules.items()}
    now = {n: told for n, told in now.items() if isinstance(told, str)}  # a function tells nothing
    earlier = before.get("chosen_by", {})
    joined = {n for n in now if n in before["strategies"] and earlier.get(n) != now[n]}
    return {n: told for n, told in {**earlier, **now}.items() if n not in joined}


def _sweeps(rules: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The finetunes that each rule was fitted to, and the response tokens of the shortest and the longest of them."""
    return {
        name: {"finetunes": rule.diagnostics.n, "train_tokens": rule.fitted.runs.get("train_tokens")}
        for name, rule in rules.items()
        if isinstance(rule, LossEstimator) and rule.diagnostics is not None and rule.fitted is not None
    }


def _bytes(examples: EvaluationSet) -> int:
    """UTF-8 bytes of the responses that the loss is measured on."""
    return sum(len(turn.response.encode("utf-8", "replace")) for turn in examples.turns)
