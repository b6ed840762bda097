"""What is written on the command line as text: indicators, mappings, rules."""

from typing import TYPE_CHECKING, Any

from ..errors import InstructMineError


if TYPE_CHECKING:
    from ..estimator.estimator import LossEstimator


INDICATORS = ("InputLength", "OutputLength", "Reward", "Perplexity", "MTLD", "NeighborDistance", "UniEval")


def build_indicator(text: str | dict, columns: dict[str, str] | None) -> Any:
    """Builds an indicator from `NAME[,KEY=VALUE…]`, or from a YAML mapping `{NAME: {KEY: VALUE}}`.

    Raises:
        [`InstructMineError`]: Where the name or an argument is not known.
    """
    import hf_instructmine

    from ..data.inputs import parse_mapping

    if isinstance(text, str):
        name, _, arguments = text.partition(",")
        kwargs = parse_mapping(arguments)
    elif isinstance(text, dict) and len(text) == 1:
        ((name, kwargs),) = text.items()
    else:
        raise InstructMineError(f"{text!r:.60} is no indicator: write NAME,KEY=VALUE,… or {{NAME: {{KEY: VALUE}}}}")
    if name not in INDICATORS:
        raise InstructMineError(f"there is no indicator '{name}': known are {', '.join(INDICATORS)}")
    try:
        return getattr(hf_instructmine, name)(**(kwargs or {}), **({} if columns is None else {"columns": columns}))
    except TypeError as error:
        raise InstructMineError(f"{name}: {str(error).split('() ')[-1]}; see its documentation") from error


def load_rule(name: str) -> "LossEstimator":
    """A published rule by its name, else a rule by its folder or Hub id."""
    from ..estimator.estimator import LossEstimator

    published = name.startswith("instructmining-")
    return LossEstimator.from_published(name) if published else LossEstimator.from_pretrained(name)
