"""Messages that were written for Python, in the words of the command line: driven by the options that a verb has."""

import importlib

import pytest

from hf_instructmine.cli.main import parsers
from hf_instructmine.cli.wording import in_options


VERBS = parsers()[1]


def worded(verb: str, message: str) -> str:
    module = importlib.import_module(f"hf_instructmine.cli.{verb.replace('-', '_')}")
    return in_options(message, VERBS[verb], getattr(module, "OTHERWISE", {}))


@pytest.mark.parametrize(
    "verb, message, expected",
    [
        ("score", "remove it, or pass overwrite=True to replace it", "remove it, or pass --overwrite to replace it"),
        (
            "score",
            "choose another output_dir, or pass overwrite=True",
            "choose another --output-dir, or pass --overwrite",
        ),
        ("score", "num_proc=0 scores nothing: it is the number", "--num-proc 0 scores nothing: it is the number"),
        ("sweep", "set executor='accelerate'", "set --executor accelerate"),
        (
            "sweep",
            "replicates=5 must lie between 0 and num_runs=4",
            "--replicates 5 must lie between 0 and --num-runs 4",
        ),
        ("sweep", "give exactly one of subset_size (rows)", "give exactly one of --subset-size (rows)"),
        ("sweep", "leave it out with indicators=[...]", "leave it out with --indicators COLUMN"),
        ("sweep", "as in eval_sets={'mine': …}", "as in --eval-set mine=…"),
        ("sweep", "with columns={'prompt': 'q', 'response': …}", "with --columns prompt=q,response=…"),
        ("select", "pass embeddings=NeighborDistance(…).embed(scored)", "pass --encoder MODEL"),
        ("select", "accept it with allow_mismatch=True", "accept it with --allow-mismatch"),
        ("select", "do not compare texts, with drop_duplicates=False", "do not compare texts, with --keep-duplicates"),
        (
            "select",
            "give one of size, fraction, max_log_loss, tokens",
            "give one of --size, --fraction, --max-log-loss, --tokens",
        ),
        ("fit", "mend it, or fit with log_target=False", "mend it, or fit with --no-log-target"),
        ("fit", "use select='none', model='ridge'", "use --select none, --model ridge"),
        ("sweep", "another design (seed: 0 → 1; num_runs: 4 → 3)", "another design (seed: 0 → 1; --num-runs: 4 → 3)"),
        ("judge", "give two, or mode='single'", "give two, or --mode single"),
        (
            "compare",
            "give tokens=[…] (response tokens) or sizes=[…] (rows)",
            "give --tokens N (response tokens) or --size N (rows)",
        ),
        ("compare", "write random_at=[0.5, 2, 4]", "write --random-at 0.5 2 4"),
        ("search-size", "max_size must be above min_size=5, not 4", "--max-size must be above --min-size 5, not 4"),
        ("mine", "size=700 is not from 1 to 650", "--size 700 is not from 1 to 650"),
        ("evaluate", "set `include_path`", "set `--include-path`"),
    ],
)
def test_a_parameter_is_named_as_its_option(verb, message, expected):
    assert worded(verb, message) == expected


@pytest.mark.parametrize(
    "verb, message",
    [
        ("select", "cannot read 'size=5/overwrite=True.jsonl'"),  # what is quoted is the user's
        ("select", "the column 'output_dir' of the rule's pool is text"),
        ("select", "the rule has threshold=0.5, the data has threshold=0.72"),  # of no option
        ("select", "a size of 5 rows is above the pool's"),
        ("select", "/data/output_dir/rows.jsonl is not there"),
        ("sweep", "write --eval-set mine=eval.jsonl"),
        ("finetune", "pass overwrite=True"),  # it has no such option
    ],
)
def test_what_is_no_parameter_stays(verb, message):
    assert worded(verb, message) == message
