"""The indicators as measurements of the `evaluate` library: what the modules in `metrics/` have in common."""

import inspect
import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, cast

import evaluate
import numpy as np
from datasets import Dataset

import hf_instructmine

from ..errors import InstructMineError
from ..outputs.files import shipped
from . import INDICATORS
from .base import Indicator
from .scoring import describe_counts


logger = logging.getLogger(__name__)

# How the columns of a dataset are read is no question here: rows come as lists, one response each.
_OF_DATASETS = ("columns", "turns", "overwrite")


def metric_path(name: str) -> str:
    """The folder of a measurement: `evaluate.load(metric_path("mtld"))`.

    Args:
        name (`str`): `"input_length"`, `"output_length"`, `"reward"`, `"perplexity"`, `"mtld"`,
            `"neighbor_distance"` or `"unieval"`.

    Raises:
        [`InstructMineError`]: Names the measurements, where `name` is none.

    Example:

    ```python
    evaluate.load(him.metric_path("mtld")).compute(predictions=["The cat sat on the mat."])
    ```
    """
    known = sorted(path.parent.name for path in shipped("metrics").glob("*/app.py"))
    if name not in known:
        raise InstructMineError(f"no measurement '{name}': there are {', '.join(known)}")
    return str(shipped("metrics") / name)


class IndicatorMeasurement(evaluate.Measurement, ABC):
    """An indicator as a measurement of `evaluate`. Subclasses name their `indicator` and implement `_info`.

    Whatever the indicator's constructor takes can be passed to [`compute`], or as a default to `evaluate.load`, so
    that two modules that need two models can be combined. What `evaluate.load` takes itself (`revision`, `cache_dir`)
    it does not pass on.
    """

    indicator: type[Indicator]

    def __init__(self, *args: Any, **kwargs: Any):
        of_evaluate = inspect.signature(evaluate.EvaluationModule).parameters
        super().__init__(*args, **{name: value for name, value in kwargs.items() if name in of_evaluate})
        self._defaults = self._own_arguments({n: v for n, v in kwargs.items() if n not in of_evaluate})
        self._arguments: dict[str, Any] = {}
        self._indicator: Indicator | None = None

    @abstractmethod
    def _info(self) -> evaluate.MeasurementInfo:
        """Describes the measurement; its features are `predictions` and, where it reads them, `prompts`."""

    def compute(
        self, *, predictions: Any = None, references: Any = None, prompts: Any = None, **kwargs: Any
    ) -> dict[str, Any] | None:
        """Scores responses. All is checked before a model is loaded; calls with the same arguments share the model.

        Args:
            predictions (`list[str]`, *optional*): Responses; None where they were added before.
            references (*optional*): Not read, nor are `prompts` where they are not needed: modules that are combined
                all get the same.
            prompts (`list[str]`, *optional*): The instruction that each response answers.
            **kwargs: Arguments of the indicator. Those that only other indicators of the package have are not read.

        Returns:
            `dict`: For each column `<name>` its values (`list[float]`; NaN where a row cannot be scored),
            `mean_<name>` over the scored rows (`float`) and `num_unscored_<name>` (`int`). None where this is not the
            main process.

        Raises:
            `ValueError`: Says in one line what is wrong with the rows or the arguments.
        """
        arguments = {**self._defaults, **self._own_arguments(kwargs)}
        for name, parameter in self._parameters().items():
            if parameter.default is parameter.empty and arguments.get(name) is None:
                raise InstructMineError(f"{self.name} needs {name}=…: pass it to compute, or to evaluate.load")
        rows = {"predictions": predictions, "prompts": prompts}
        if predictions is not None or prompts is not None:
            if prompts is None and arguments.get("given") is False:
                rows["prompts"] = [""] * len(self._checked_column("predictions", predictions))
            rows = self._checked_rows(rows)
        elif self.writer is None:
            raise InstructMineError(f"{self.name} has nothing to score: pass predictions=[…], or add rows before")
        if self._indicator is None or arguments != self._arguments:
            self._indicator, self._arguments = self.indicator(**arguments), arguments
        return super().compute(**{name: rows[name] for name in self._feature_names()})

    def add_batch(
        self, *, predictions: Any = None, references: Any = None, prompts: Any = None, **kwargs: Any
    ) -> None:
        """Adds responses and, where they are needed, their prompts, for a later `compute` to score.

        Raises:
            `ValueError`: Says in one line what is wrong with the rows.
        """
        super().add_batch(**self._checked_rows({"predictions": predictions, "prompts": prompts}), **kwargs)

    def add(
        self,
        *,
        prediction: Any = None,
        reference: Any = None,
        prompts: Any = None,
        predictions: Any = None,
        **kwargs: Any,
    ) -> None:
        """Adds one response and, where it is needed, its prompt (as `prompts`), for a later `compute` to score.

        Raises:
            `ValueError`: Says in one line what is wrong with the row.
        """
        row = {"predictions": prediction if predictions is None else predictions, "prompts": prompts}
        rows = self._checked_rows({name: None if text is None else [text] for name, text in row.items()})
        # Not the library's `add`: before datasets 5 a single row comes after all batches, wherever it was added.
        super().add_batch(**rows, **kwargs)

    def _compute(self, predictions: list[str], prompts: list[str] | None = None) -> dict[str, Any]:
        batch = {"prompt": [""] * len(predictions) if prompts is None else prompts, "completion": predictions}
        indicator = cast(Indicator, self._indicator)  # `compute` has made it
        indicator.fit(Dataset.from_dict(batch))
        columns, notes = indicator.annotate(batch)
        results: dict[str, Any] = {}
        for name, values in columns.items():
            unscored = int(np.isnan(values).sum())
            results[name] = values
            results[f"mean_{name}"] = float(np.nanmean(values)) if unscored < len(values) else float("nan")
            results[f"num_unscored_{name}"] = unscored
            kinds = Counter(note for note in notes if note)
            if kinds:
                logger.warning("%s", describe_counts(name, {"rows": len(values), "nan": unscored, "notes": kinds}))
        return results

    def _parameters(self) -> dict[str, inspect.Parameter]:
        parameters = inspect.signature(self.indicator).parameters
        return {name: parameter for name, parameter in parameters.items() if name not in _OF_DATASETS}

    def _own_arguments(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Those of the indicator's constructor; others must at least be known to another indicator."""
        own = self._parameters()
        foreign = [name for name in arguments if name not in own]
        if foreign:
            others = [inspect.signature(getattr(hf_instructmine, name)).parameters for name in INDICATORS]
            unknown = [n for n in foreign if n in _OF_DATASETS or not any(n in parameters for parameters in others)]
            if unknown:
                raise InstructMineError(
                    f"{self.name} does not know the argument {', '.join(map(repr, unknown))}; "
                    f"it knows {', '.join([*self._feature_names(), *own])}"
                )
        return {name: value for name, value in arguments.items() if name in own}

    def _checked_rows(self, rows: Mapping[str, Any]) -> dict[str, list[str]]:
        checked = {name: self._checked_column(name, rows[name]) for name in self._feature_names()}
        if len({len(column) for column in checked.values()}) > 1:
            sizes = " and ".join(f"{len(column)} {name}" for name, column in checked.items())
            raise InstructMineError(f"{self.name} got {sizes}: each prediction needs its own prompt")
        return checked

    def _checked_column(self, name: str, values: Any) -> list[str]:
        if values is None:
            raise InstructMineError(f"{self.name} needs {name}=[…], a list of strings")
        if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
            raise InstructMineError(f"{name} must be a list of strings, not {type(values).__name__} {values!r:.60}")
        column = list(values)
        if not column:
            raise InstructMineError(f"{name} is empty: there is nothing to score")
        for i, text in enumerate(column):
            if not isinstance(text, str):
                raise InstructMineError(
                    f"{name}[{i}] must be a string, not {type(text).__name__} {text!r:.60}: mend or drop the row"
                )
            try:
                text.encode()
            except UnicodeEncodeError as error:
                raise InstructMineError(
                    f"{name}[{i}] holds half of a surrogate pair, which is no text: mend the row"
                ) from error
        return column
