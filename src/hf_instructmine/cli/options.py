"""The options of every `instructmine` verb. A verb `select` is run by `select_command.run`."""

import argparse
from collections.abc import Sequence
from typing import Any

from .values import INDICATORS


def add_verbs(verbs: Any) -> None:
    """Adds every verb's parser, in the order of a user's way; `verbs` is what `add_subparsers` returned."""
    for add in (
        _add_score, _add_finetune, _add_sweep, _add_fit, _add_select, _add_search_size, _add_compare, _add_push,
        _add_demo,
    ):  # fmt: skip
        add(verbs)


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default only where it tells something."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        says_nothing = action.default is None or action.default is False
        return action.help if says_nothing else super()._get_help_string(action)


def _add_verb(verbs: Any, name: str, help: str, required: Sequence[str] = ()) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=help, description=help, formatter_class=_HelpFormatter)
    verb.set_defaults(required=required)
    verb.add_argument("--config", metavar="FILE", help="YAML file with any of these options; the command line wins")
    return verb


def _add_score(verbs: Any) -> None:
    verb = _add_verb(
        verbs,
        "score",
        "Score every row of a pool with indicators. Finished work is kept: the same command goes on after a kill.",
        ("input", "output_dir", "indicator"),
    )
    _add_inputs(verb)
    verb.add_argument(
        "--indicator",
        nargs="+",
        metavar="NAME[,KEY=VALUE…]",
        help=f"one of {', '.join(INDICATORS)} with its arguments, e.g. MTLD or "
        "Perplexity,model=HuggingFaceTB/SmolLM2-135M-Instruct,dtype=bfloat16; several may be given",
    )
    verb.add_argument("--output-dir", metavar="DIR", help="folder for the scored pool")
    verb.add_argument("--num-proc", type=int, default=1, help="processes")
    verb.add_argument("--overwrite", action="store_true", help="replace columns, or another run, of the same name")


def _add_finetune(verbs: Any) -> None:
    about = "Finetune once by a recipe, on one process or several, and measure the loss on evaluation sets."
    more = "All other options are the recipe's: `--train rows.jsonl --eval_sets NAME=FILE`, or TRL's, as "
    verb = verbs.add_parser(
        "finetune", help=about, description=f"{about} {more}`--learning_rate 1e-4`. They win over the recipe.",
        allow_abbrev=False,
    )  # fmt: skip
    verb.set_defaults(required=())
    verb.add_argument("--config", dest="recipe", metavar="RECIPE", required=True, help="YAML file, as in recipes/")
    verb.add_argument("--num-processes", type=int, metavar="N", help="how many train together; fewer are an error")
    verb.add_argument("--accelerate-config", metavar="FILE", help="YAML for `accelerate launch --config_file`")


def _add_sweep(verbs: Any) -> None:
    verb = _add_verb(
        verbs,
        "sweep",
        "Finetune on many designed subsets of a scored pool, and record the loss of each on evaluation sets. Finished "
        "runs are kept: the same command goes on after a kill.",
        ("input", "recipe", "eval_set", "output_dir"),
    )
    _add_inputs(verb, "seed of the sample, the design and, counting up, the runs")
    verb.add_argument("--recipe", metavar="FILE", help="how to finetune: YAML, as in recipes/")
    verb.add_argument(
        "--eval-set", nargs="+", metavar="NAME=FILE", help="gives a column loss_NAME; several may be given"
    )
    verb.add_argument("--output-dir", metavar="DIR", help="folder for the design and the runs")
    verb.add_argument("--num-runs", type=int, default=24, metavar="N", help="distinct subsets")
    verb.add_argument("--subset-size", type=int, metavar="N", help="rows in each subset")
    verb.add_argument("--subset-tokens", type=int, metavar="N", help="response tokens in each subset, instead of rows")
    verb.add_argument("--method", default="d-optimal", help="d-optimal, tilted, or dirichlet (the paper's way)")
    verb.add_argument("--replicates", type=int, metavar="N", help="subsets trained twice (4 if not given)")
    verb.add_argument("--encoder", metavar="MODEL", help="sentence encoder, for knn_<i> inside each subset")
    _add_executor(verb)
    verb.add_argument("--retry-failed", action="store_true", help="run those again that were recorded as failed")
    verb.add_argument("--status", metavar="DIR", help="tell how far the sweep in DIR is, and do nothing else")


def _add_fit(verbs: Any) -> None:
    verb = _add_verb(
        verbs,
        "fit",
        "Fit a rule to the runs of a sweep, and say how far it can be trusted.",
        ("runs", "output_dir"),
    )
    verb.add_argument("runs", nargs="?", help="a sweep's folder, or a table of runs (.jsonl, .parquet, .csv, Hub id)")
    verb.add_argument("--target", nargs="+", metavar="COLUMN", help="loss column; several give a joint rule")
    verb.add_argument(
        "--indicators", nargs="+", metavar="COLUMN", help="candidates; all indicator columns if not given"
    )
    verb.add_argument("--select", default="cv", help="cv, bic, aic, aicc, none, or p-value (the paper's way)")
    verb.add_argument("--model", default="ols", help="ols, ridge, elastic-net, pls, or automl")
    verb.add_argument(
        "--logged", nargs="+", default=[], metavar="COLUMN", help="columns that enter by their logarithm"
    )
    verb.add_argument("--squared", nargs="+", default=[], metavar="COLUMN", help="columns that may have a square too")
    verb.add_argument(
        "--covariates", nargs="+", default=[], metavar="COLUMN", help="adjusted for in every rule, e.g. subset_tokens"
    )
    verb.add_argument("--max-vif", type=float, metavar="X", help="consider only subsets with VIFs below X")
    verb.add_argument("--seed", type=int, default=0, help="of folds, permutations and bootstrap")
    verb.add_argument("--name", help="what to call the rule")
    verb.add_argument("--output-dir", metavar="DIR", help="folder for the rule, its card and its figures")


def _add_select(verbs: Any) -> None:
    verb = _add_verb(
        verbs,
        "select",
        "Keep the rows of a scored pool that a rule predicts the lowest loss for, and write them with a dataset card.",
        ("input", "rule", "output_dir"),
    )
    _add_inputs(verb)
    verb.add_argument("--rule", metavar="RULE", help="instructmining-v1, instructmining-v2, a rule's folder or Hub id")
    verb.add_argument("--size", type=int, metavar="N", help="keep N rows")
    verb.add_argument("--fraction", type=float, metavar="F", help="keep this share of the pool, 0 to 1")
    verb.add_argument("--tokens", type=int, metavar="N", help="keep rows up to N response tokens")
    verb.add_argument("--max-log-loss", type=float, metavar="X", help="keep rows predicted at most X")
    verb.add_argument("--keep-duplicates", action="store_true", help="do not skip exact copies of a selected row")
    verb.add_argument("--max-leverage", type=float, metavar="X", help="stay where the rule was tested")
    verb.add_argument("--max-similarity", type=float, metavar="X", help="no two rows of a cosine above X")
    verb.add_argument("--set-level", action="store_true", help="measure knn_<i> to the rows chosen, not to the pool")
    verb.add_argument("--encoder", metavar="MODEL", help="sentence encoder, for --max-similarity and --set-level")
    verb.add_argument("--quota", nargs="+", metavar="SOURCE=MIN:MAX", help="shares of a source, e.g. web=0.1:0.5")
    verb.add_argument("--max-response-tokens", type=int, metavar="N", help="no response longer than N tokens")
    verb.add_argument("--length-bins", type=int, metavar="N", help="responses of N classes of length as in the pool")
    verb.add_argument("--eval-set", nargs="+", metavar="NAME=FILE", help="leave out rows with a prompt of this set")
    verb.add_argument("--allow-mismatch", action="store_true", help="accept indicators made otherwise than the rule's")
    verb.add_argument("--output-dir", metavar="DIR", help="folder for the curated dataset, its card and the rule")
    verb.add_argument("--overwrite", action="store_true", help="replace another selection in that folder")


def _add_compare(verbs: Any) -> None:
    verb = _add_verb(
        verbs,
        "compare",
        "Finetune on what rules, random and the usual baselines choose, at equal training data, and say which is "
        "better and by how much. Finished runs are kept: the same command goes on after a kill.",
        ("input", "recipe", "eval_set", "output_dir"),
    )
    _add_inputs(verb, "seed of the sample, the random choices and, counting up, the runs")
    verb.add_argument(
        "--rule",
        nargs="+",
        metavar="NAME=RULE[,OPTION=VALUE…]",
        help="a rule's folder, Hub id or published name, with options of the selector such as max_similarity=0.9 "
        "(and encoder=MODEL, for those that need embeddings); the verdict is about the first",
    )
    verb.add_argument(
        "--strategy", nargs="+", metavar="NAME=WHAT", help="your own: highest:COLUMN, lowest:COLUMN, random or full"
    )
    verb.add_argument("--no-usual", action="store_true", help="without longest, perplexity, reward, IFD, diversity")
    verb.add_argument("--full-pool", action="store_true", help="train once on the whole pool too")
    verb.add_argument("--tokens", nargs="+", type=int, metavar="N", help="response tokens to choose; may be several")
    verb.add_argument("--size", nargs="+", type=int, metavar="N", help="rows to choose; may be several")
    verb.add_argument("--seeds", type=int, default=5, metavar="N", help="finetunes of each strategy")
    verb.add_argument("--random-draws", type=int, metavar="N", help="random choices (twice --seeds if not given)")
    verb.add_argument("--recipe", metavar="FILE", help="how to finetune: YAML, as in recipes/")
    verb.add_argument("--eval-set", nargs="+", metavar="NAME=FILE", help="what to measure on; several may be given")
    verb.add_argument("--output-dir", metavar="DIR", help="folder for the runs, the tables and the figure")
    _add_executor(verb)
    verb.add_argument("--retry-failed", action="store_true", help="run those again that were recorded as failed")


def _add_search_size(verbs: Any) -> None:
    verb = _add_verb(
        verbs,
        "search-size",
        "Finetune on the best n rows for many n, and on random ones beside them: a grid, then BlendSearch. Finished "
        "runs are kept: the same command goes on after a kill.",
        ("input", "rule", "recipe", "eval_set", "min_size", "output_dir"),
    )
    _add_inputs(verb, "seed of the sample, the search, the random rows and, counting up, the runs")
    verb.add_argument("--rule", metavar="RULE", help="instructmining-v1, instructmining-v2, a rule's folder or Hub id")
    verb.add_argument("--recipe", metavar="FILE", help="how to finetune: YAML, as in recipes/")
    verb.add_argument("--eval-set", nargs="+", metavar="NAME=FILE", help="gives a column loss_NAME")
    verb.add_argument("--output-dir", metavar="DIR", help="folder for the runs, the trials and the figure")
    verb.add_argument("--min-size", type=int, metavar="N", help="smallest number of rows")
    verb.add_argument("--max-size", type=int, metavar="N", help="largest (all that can be selected if not given)")
    verb.add_argument("--target", metavar="COLUMN", help="loss to search by (the first evaluation set's if not given)")
    verb.add_argument("--num-trials", type=int, default=20, metavar="N", help="trials of BlendSearch, after the grid")
    verb.add_argument("--grid-size", type=int, default=5, metavar="N", help="sizes of the grid")
    verb.add_argument("--grid-seeds", type=int, default=3, metavar="N", help="runs at each, selected and random")
    verb.add_argument("--no-full-pool", action="store_true", help="do not finetune on the whole pool")
    verb.add_argument("--equal-steps", type=int, metavar="N", help="run the grid again with N steps at every size")
    verb.add_argument("--space", nargs="+", default=[], metavar="NAME=LOW:HIGH", help="options to search besides")
    verb.add_argument("--max-cost", type=float, metavar="N", help="start no trial beyond N response tokens in all")
    verb.add_argument("--max-seconds", type=float, metavar="S", help="start no trial beyond S seconds of runs")
    verb.add_argument("--low-cost-start", action="store_true", help="start at the smallest size, as the paper does")
    verb.add_argument("--concurrency", type=int, default=1, metavar="N", help="trials suggested at once")
    verb.add_argument("--max-leverage", type=float, metavar="X", help="stay where the rule was tested")
    verb.add_argument("--allow-mismatch", action="store_true", help="accept indicators made otherwise than the rule's")
    _add_executor(verb)


def _add_push(verbs: Any) -> None:
    verb = _add_verb(
        verbs,
        "push",
        "Push a curated dataset's folder, or a sweep's runs, to the Hub, as one commit.",
        ("folder", "repo_id"),
    )
    verb.add_argument("folder", nargs="?", help="folder that `instructmine select` or `sweep` wrote")
    verb.add_argument("repo_id", nargs="?", help="e.g. me/alpaca-curated")
    verb.add_argument("--private", action="store_true", help="make the repository private")


def _add_demo(verbs: Any) -> None:
    verb = _add_verb(
        verbs, "demo", "Curate the bundled sample pool with real small models, from raw rows to a dataset card."
    )
    verb.add_argument("--output-dir", metavar="DIR", default="demo-output", help="folder for what it makes")
    verb.add_argument(
        "--rule", metavar="RULE", help="folder of a rule to select by first, before the demo fits its own"
    )
    verb.add_argument("--quick", action="store_true", help="a smaller pool and fewer finetunes")


def _add_executor(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--executor", default="inline", help="inline, accelerate (a process each), or ray")
    verb.add_argument("--accelerate-config", metavar="FILE", help="YAML for `accelerate launch --config_file`")


def _add_inputs(verb: argparse.ArgumentParser, seed: str = "seed of the sample") -> None:
    verb.add_argument("input", nargs="*", help="Hub dataset ids, .json/.jsonl/.parquet/.csv files, or saved datasets")
    verb.add_argument("--split", default="train", help="split of inputs that have splits")
    verb.add_argument("--sample", type=int, metavar="N", help="take N rows at random")
    verb.add_argument("--seed", type=int, default=0, help=seed)
    verb.add_argument(
        "--columns", metavar="PART=COLUMN,…", help="which column is which, e.g. prompt=question,response=best_answer"
    )
