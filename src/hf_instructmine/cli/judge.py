"""`instructmine judge`: models answer prompts, and a judge says whose answers are better."""

import argparse
from pathlib import Path
from typing import Any

import hf_instructmine as him

from ..errors import InstructMineError
from .options import SOURCE, add_verb, pick, say_next


# Parameters of `judge` that are not the option of that name.
OTHERWISE = {
    "models": "from model",
    "columns": "from --columns",
    "calibration": "known from elsewhere, in Python alone; --people gives one",
}


def add_options(verbs: Any) -> None:
    """Adds the verb to what `add_subparsers` returned."""
    verb = add_verb(
        verbs,
        "judge",
        "Let models answer prompts, and a judge (a server that speaks OpenAI's chat completions, or a local model) "
        "say whose answers are better, each pair in both orders. What is finished is kept: the same command goes on "
        "after a kill, and pays nothing twice.",
        run,
        required=("model", "prompts", "judge", "output_dir"),
    )
    verb.add_argument(
        "model", nargs="*", metavar="NAME=MODEL",
        help="a model's folder, adapter's folder or Hub id, or a JSON lines file of answers (row, turn, answer)",
    )  # fmt: skip
    verb.add_argument("--prompts", metavar="SOURCE", help=f"what the models are asked: a {SOURCE}")
    verb.add_argument(
        "--references", metavar="SOURCE",
        help="reference answers, all shown to the judge (those of the prompts in math, reasoning and coding if not "
        "given)",
    )  # fmt: skip
    verb.add_argument(
        "--columns", metavar="PART=COLUMN,…", help="which column of the prompts is which, e.g. prompt=question"
    )
    verb.add_argument(
        "--judge",
        metavar="JUDGE",
        help="openai:MODEL, with the key in OPENAI_API_KEY; or a local model's folder or Hub id",
    )
    verb.add_argument("--base-url", metavar="URL", help="of the server (OPENAI_BASE_URL, or OpenAI's, if not given)")
    verb.add_argument("--baseline", metavar="NAME", help="what all others are compared with (the first, if not given)")
    verb.add_argument("--mode", choices=("pair", "single"), default="pair", help="compare, or rate from 1 to 10")
    verb.add_argument("--no-ties", dest="ties", action="store_false", help="the judge has to choose one of a pair")
    verb.add_argument("--max-new-tokens", type=int, default=512, metavar="N", help="most tokens of an answer")
    verb.add_argument("--temperature", type=float, default=0.0, metavar="T", help="of the models; 0 is greedy")
    verb.add_argument("--batch-size", type=int, default=8, metavar="N", help="answers written at once")
    verb.add_argument("--dtype", default="float32", help="precision of the models and of a local judge")
    verb.add_argument("--device", help="of both (the GPU where there is one, if not given)")
    verb.add_argument(
        "--judge-by", choices=("logits", "text"), default="logits",
        help="of a local judge: the probabilities of its verdicts, or what it writes",
    )  # fmt: skip
    verb.add_argument("--concurrency", type=int, default=4, metavar="N", help="requests to the server at once")
    verb.add_argument("--timeout", type=float, default=120.0, metavar="S", help="seconds to wait for the server")
    verb.add_argument(
        "--retry-delays", nargs="*", type=float, default=(1.0, 2.0, 4.0, 8.0, 16.0, 32.0), metavar="S",
        help="seconds before each further attempt where the server is busy",
    )  # fmt: skip
    verb.add_argument(
        "--prices", nargs=2, type=float, metavar=("IN", "OUT"), help="of a million tokens: tells what it will cost"
    )
    verb.add_argument(
        "--people", metavar="SOURCE",
        help="people's verdicts on some of the pairs (row, score, and turn and model where there are several): tells "
        "how the judge agrees with them, and corrects its win rate",
    )  # fmt: skip
    verb.add_argument("--seed", type=int, default=0, help="of all draws")
    verb.add_argument("--dry-run", action="store_true", help="say what it takes; write and ask nothing")
    verb.add_argument("--output-dir", metavar="DIR", help="folder for answers, verdicts and the summary")


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    from ..data.inputs import parse_mapping

    models: dict[str, str] = {}
    for text in args.model:
        name, separator, place = text.partition("=")
        if not separator or not name or not place:
            raise InstructMineError(f"the model {text!r:.80} is not of the form NAME=MODEL")
        if name in models:
            raise InstructMineError(f"two models have the name '{name}'")
        models[name] = place
    found = him.judge(models, **pick(args, him.judge, columns=parse_mapping(args.columns)))
    print(found.summary())
    if not args.dry_run:
        print(f"\nWrote {Path(args.output_dir, 'judge.md')}")
        say_next("report", args.output_dir)
