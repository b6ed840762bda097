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
    "score": "indicators.scoring",
    "metric_path": "indicators.measurement",
    "design_mixtures": "sweep.mixtures",
    "design_report": "sweep.design_report",
    "run_sweep": "sweep.session",
    "load_runs": "sweep.runs",
    "sweep_status": "sweep.runs",
    "push_runs": "sweep.card",
    "LossEstimator": "estimator.estimator",
    "compare": "comparison.rules",
    "Selector": "selection.selector",
    "Selection": "selection.curated",
    "find_contaminated": "data.decontamination",
    "compare_strategies": "comparison.compare",
    "StrategyComparison": "comparison.results",
    "load_comparison": "comparison.compare",
    "power": "comparison.power",
    "Noise": "comparison.power",
    "usual_strategies": "comparison.strategies",
    "evaluate_models": "evaluation.models",
    "judge": "evaluation.judge",
    "Judgement": "evaluation.judgement",
    "search_size": "search.search",
    "size_report": "search.report",
    "report": "reporting.report",
    "mine": "mining.pipeline",
    "InstructMineError": "errors",
    "to_prompt_completion": "data.conversions",
    "get_provenance": "data.provenance",
    "load_eval_sets": "data.evaluation_sets",
    "load_sample_pool": "data.sample_pool",
    "load_sample_evaluation": "data.sample_pool",
    "load_sample_runs": "data.sample_pool",
    "smollm2_135m": "models.packaged",
    "minilm_l6": "models.packaged",
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
