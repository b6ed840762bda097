"""InstructMining: choose the instruction examples worth finetuning on, and measure whether the choice beats random."""

from importlib import import_module
from typing import Any


__version__ = "0.1.0.dev0"

# Public names and the module each lives in. They are imported on first use, so that `import hf_instructmine` and
# `instructmine --help` do not wait for torch.
_PUBLIC = {
    "InputLength": "indicators.lengths",
    "OutputLength": "indicators.lengths",
    "Reward": "indicators.reward",
    "Perplexity": "indicators.perplexity",
    "MTLD": "indicators.mtld",
    "NeighborDistance": "indicators.neighbor_distance",
    "UniEval": "indicators.unieval",
    "score": "scoring",
    "design_mixtures": "mixtures",
    "design_report": "design_report",
    "run_sweep": "sweep",
    "load_runs": "sweep_table",
    "sweep_status": "sweep_table",
    "push_runs": "publishing.runs",
    "LossEstimator": "estimator",
    "compare": "estimator",
    "Selector": "selection",
    "find_contaminated": "decontamination",
    "compare_strategies": "comparison",
    "StrategyComparison": "comparison",
    "load_comparison": "comparison",
    "usual_strategies": "strategies",
    "search_size": "size_search",
    "size_report": "size_report",
    "InstructMineError": "errors",
    "to_prompt_completion": "conversation",
    "get_provenance": "provenance",
}

__all__ = ["__version__", *_PUBLIC]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f".{_PUBLIC[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
