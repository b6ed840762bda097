"""FLAML's BlendSearch, asked and told: what to try next, given all that was tried (Wang et al., ICLR 2021)."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from ..versions import check_versions


check_versions("flaml")

logger = logging.getLogger(__name__)

# So many suggestions in a row that are not new: whoever waits for a new one may wait for ever.
_PATIENCE = 100


@dataclass(frozen=True)
class TrialOutcome:
    """What a trial gave.

    Attributes:
        loss (`float`, *optional*): To be made small; None for a trial that failed.
        cost (`float`): In any unit; above 0.
    """

    loss: float | None
    cost: float


def blend_search(
    evaluate: Callable[[list[dict[str, Any]]], Sequence[TrialOutcome]],
    space: Mapping[str, tuple | list],
    num_trials: int,
    *,
    known: Sequence[tuple[Mapping[str, Any], TrialOutcome]] = (),
    points: Sequence[Mapping[str, Any]] = (),
    low_cost: Mapping[str, Any] | None = None,
    concurrency: int = 1,
    enough: Callable[[], bool] = lambda: False,
    seed: int = 0,
) -> list[tuple[dict[str, Any], TrialOutcome]]:
    """Searches for the configuration of least loss. The same outcomes give the same suggestions, on any machine: a
    search whose outcomes were recorded goes on where it stopped by being told them again.

    Args:
        evaluate (`Callable`): Takes as many configurations as `concurrency` allows and returns the outcome of each.
        space (`Mapping[str, tuple | list]`): By name, `(low, high)`, both inclusive and logarithmic where `low` is
            above 0, whole numbers where both are; or a list to choose from.
        num_trials (`int`): At most so many are evaluated; fewer where nothing new is left to try.
        known (`Sequence`): Configurations whose outcome is known; they are told first.
        points (`Sequence[Mapping]`): Evaluated next, before the search has its own way.
        low_cost (`Mapping[str, Any]`, *optional*): Where to stay near at first, because it is cheap. What is found may
            then be no more than where it was begun.
        concurrency (`int`, defaults to 1): How many are suggested before their outcomes are told.
        enough (`Callable`): Asked before each batch; True ends the search.
        seed (`int`, defaults to 0): Of the search, 0 to 2**32 - 1.

    Returns:
        `list[tuple[dict, TrialOutcome]]`: What was evaluated, in order.
    """
    trials: list[tuple[dict[str, Any], TrialOutcome]] = []
    with _quiet():
        searcher = _searcher(space, [*(config for config, _ in known), *points], low_cost, seed)
        for number, (_, outcome) in enumerate(known):
            name = f"known-{number}"
            config = searcher.suggest(name)
            if config is not None:  # not the same as an earlier one
                _tell(searcher, name, config, outcome)
        names = (f"trial-{number}" for number in range(2**31))
        while len(trials) < num_trials and not enough():
            asked = _ask(searcher, names, min(concurrency, num_trials - len(trials)))
            if not asked:
                logger.warning("the search ends after %d trials: it finds nothing new to try", len(trials))
                break
            configs = [_plain(config) for _, config in asked]
            for (name, config), plain, outcome in zip(asked, configs, evaluate(configs)):
                _tell(searcher, name, config, outcome)
                trials.append((plain, outcome))
    return trials


def _ask(searcher: Any, names: Iterator[str], count: int) -> list[tuple[str, dict[str, Any]]]:
    asked: list[tuple[str, dict[str, Any]]] = []
    skipped = 0
    while len(asked) < count and skipped < _PATIENCE:
        name = next(names)
        config = searcher.suggest(name)  # None: it has just been tried, or a local search has come to its end
        skipped = skipped + 1 if config is None else 0
        if config is not None:
            asked.append((name, config))
    return asked


def _tell(searcher: Any, name: str, config: dict[str, Any], outcome: TrialOutcome) -> None:
    if outcome.loss is None:
        searcher.on_trial_complete(name, error=True)
    else:
        searcher.on_trial_complete(name, {"loss": outcome.loss, "cost": outcome.cost, "config": config})


def _searcher(
    space: Mapping[str, tuple | list],
    points: Sequence[Mapping[str, Any]],
    low_cost: Mapping[str, Any] | None,
    seed: int,
) -> Any:
    from flaml.tune.searcher.blendsearch import BlendSearch
    from flaml.tune.searcher.suggestion import OptunaSearch
    from flaml.tune.space import define_by_run_func

    domains = {name: _domain(values) for name, values in space.items()}
    # What BlendSearch would make itself, unless Ray were installed: then it would take Ray's.
    sampler = OptunaSearch(
        partial(define_by_run_func, space=domains), metric="loss", mode="min", seed=(seed - 10) % 2**32
    )
    sampler.space = domains  # type: ignore[attr-defined]  # BlendSearch reads it, and FLAML's class does not declare it
    return BlendSearch(
        metric="loss",
        mode="min",
        space=domains,
        low_cost_partial_config=None if low_cost is None else dict(low_cost),
        points_to_evaluate=[dict(point) for point in points],
        global_search_alg=sampler,
        cost_attr="cost",  # "auto" would be None
        seed=seed,
    )


def _domain(values: tuple | list) -> Any:
    from flaml import tune

    if isinstance(values, list):
        return tune.choice(values)
    low, high = values
    if isinstance(low, int) and isinstance(high, int):  # FLAML's upper bound is exclusive for these
        return tune.lograndint(low, high + 1) if low > 0 else tune.randint(low, high + 1)
    return tune.loguniform(low, high) if low > 0 else tune.uniform(low, high)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Python's own numbers; of floats six digits, so that 0.001 is what the search calls 0.0009999999999999998."""
    import numpy as np

    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in config.items()}
    return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in plain.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what FLAML and Optuna say of each study, and FLAML of an extra that is not needed here."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="flaml.automl is not available")
        import flaml.tune.searcher.blendsearch  # noqa: F401  (which sets levels when it is imported)
    import optuna

    level, flaml_logger = optuna.logging.get_verbosity(), logging.getLogger("flaml.tune")
    flaml_level = flaml_logger.level
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    flaml_logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)
        flaml_logger.setLevel(flaml_level)
