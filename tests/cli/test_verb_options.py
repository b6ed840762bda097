"""What a function behind a verb can be told, the verb can be told; or it says why not."""

import inspect
import re
import sys
from unittest.mock import create_autospec

import pytest
import yaml
from datasets import Dataset

import hf_instructmine as him
from hf_instructmine import InstructMineError
from hf_instructmine.cli.demo import run_demo
from hf_instructmine.cli.main import main, parsers
from hf_instructmine.cli.options import pick
from hf_instructmine.finetuning.launching import launch
from hf_instructmine.selection.curated import Selection


BEHIND = {
    "mine": [him.mine],
    "score": [him.score],
    "finetune": [launch],
    "sweep": [him.design_mixtures, him.run_sweep],
    "fit": [him.LossEstimator.fit, him.LossEstimator.save_pretrained],
    "select": [him.Selector, him.Selector.select, Selection.describe, Selection.save_to_disk],
    "search-size": [him.search_size, him.size_report],
    "compare": [him.compare_strategies, him.usual_strategies],
    "evaluate": [him.evaluate_models],
    "judge": [him.judge],
    "report": [him.report],
    "push": [him.push_runs, Selection.push_to_hub, him.LossEstimator.push_to_hub],
    "demo": [run_demo],
}


def options_of(verb: str) -> dict:
    """The options of a verb, with their defaults."""
    return vars(parsers()[1][verb].parse_args(["--config", "needed.yaml"] if verb == "finetune" else []))


def otherwise(verb: str) -> dict[str, str]:
    """Its parameters that are not the option of that name, with where they come from or why they are left out."""
    module = sys.modules[f"hf_instructmine.cli.{verb.replace('-', '_')}"]
    return getattr(module, "OTHERWISE", {})


def parameters(function) -> dict[str, inspect.Parameter]:
    return {name: known for name, known in inspect.signature(function).parameters.items() if name != "self"}


def forgotten(functions, options, left_out) -> list[str]:
    """Parameters that are neither an option nor left out, and options that would change a parameter's default."""
    found = []
    for function in functions:
        for name, parameter in parameters(function).items():
            default = [] if parameter.default == () else parameter.default
            if name in left_out:
                continue
            if name not in options:
                found.append(f"{function.__name__} has {name}")
            elif default not in (parameter.empty, options[name]):
                found.append(f"{function.__name__} has {name}={default!r}, the verb {options[name]!r}")
    return found


@pytest.mark.parametrize("verb", parsers()[1])
def test_every_parameter_is_an_option_or_left_out_for_a_reason(verb):
    options, left_out = options_of(verb), otherwise(verb)
    assert not forgotten(BEHIND[verb], options, left_out)
    assert set(left_out) <= {name for function in BEHIND[verb] for name in parameters(function)}
    named = re.findall(r"--([a-z-]+)", " ".join(left_out.values()))
    known = {name.replace("_", "-") for name in options} | {"config"}
    assert set(named) <= known


def test_a_parameter_that_is_forgotten_is_found():
    def score(pool, num_proc=2, overwrite=False, new=None):
        pass

    found = forgotten([score], options_of("score"), {"pool": "from input"})
    assert found == ["score has num_proc=2, the verb 1", "score has new"]


def test_options_are_picked_by_name_and_what_was_read_goes_before_them():
    args = parsers()[0].parse_args(["score", "pool", "--columns", "prompt=q", "--seed", "3"])

    def function(seed, columns, indicators=()):
        pass

    assert pick(args, function) == {"seed": 3, "columns": "prompt=q"}
    assert pick(args, function, columns={"prompt": "q"}) == {"seed": 3, "columns": {"prompt": "q"}}


@pytest.fixture
def files(tmp_path, monkeypatch):
    """What the verbs read."""
    monkeypatch.chdir(tmp_path)
    rows = {"prompt": ["a", "b"], "completion": ["c", "d"], "mtld": [1.0, 2.0], "output_length": [1, 1]}
    Dataset.from_dict(rows).to_parquet("pool.parquet")
    Dataset.from_dict({"loss_mine": [1.0, 2.0]}).to_parquet("runs.parquet")
    him.LossEstimator.from_coefficients({"mtld": 1.0}).save_pretrained("rule")
    with open("recipe.yaml", "w") as recipe:
        yaml.safe_dump({"model_name_or_path": "some/model", "use_cpu": True, "bf16": False}, recipe)


TRAINING = "--recipe recipe.yaml --eval-set mine=pool.parquet --output-dir out"


@pytest.mark.parametrize(
    "owner, name, command, told",
    [
        (
            him.LossEstimator,
            "fit",
            "fit runs.parquet --output-dir out --no-log-target --standardize --weights w --group g "
            "--without-sources web human --permutations 10 --bootstraps 20",
            {
                "target": "loss_mine", "log_target": False, "standardize": True, "weights": "w", "group": "g",
                "without_sources": ["web", "human"], "permutations": 10, "bootstraps": 20,
            },
        ),
        (
            him,
            "compare_strategies",
            f"compare pool.parquet {TRAINING} --parts 5 --random-at --no-whole-pool --budget recipe --size 1 2",
            {
                "parts": 5, "random_at": [], "whole_pool": False, "budget": "recipe", "sizes": [1, 2], "tokens": [],
                "retry_failed": False,
            },
        ),
        (
            him,
            "search_size",
            f"search-size pool.parquet --rule rule {TRAINING} --min-size 1 --cost seconds --points-to-evaluate 1 2 "
            "--no-full-pool --max-leverage 2 --space learning_rate=1e-4:1e-3",
            {
                "cost": "seconds", "points_to_evaluate": [1, 2], "full_pool": False,
                "space": {"learning_rate": (1e-4, 1e-3)},
                "select_options": {"max_leverage": 2.0, "allow_mismatch": False},
            },
        ),
    ],
)  # fmt: skip
def test_options_reach_the_function(files, monkeypatch, capsys, owner, name, command, told):
    function = create_autospec(getattr(owner, name), side_effect=InstructMineError("called"))
    monkeypatch.setattr(owner, name, function)
    assert main(command.split()) == 1
    assert capsys.readouterr().err.endswith(": called\n")
    given = function.call_args.kwargs
    assert {name: given[name] for name in told} == told
