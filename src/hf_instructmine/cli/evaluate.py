"""`instructmine evaluate`: models by losses, benchmarks and a judge, in one table."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import hf_instructmine as him

from ..errors import InstructMineError
from ..outputs.files import written_whole
from .options import SOURCE, add_verb, pick, say_next


TABLES = "evaluation.md"
# Parameters of `evaluate_models` that are not the option of that name.
OTHERWISE = {
    "eval_sets": "from --eval-set",
    "samples": "in Python alone; --limit asks the first questions",
}


def add_options(verbs: Any) -> None:
    """Adds the verb to what `add_subparsers` returned."""
    verb = add_verb(
        verbs,
        "evaluate",
        "Measure models by losses on evaluation sets, by lm-eval's benchmarks and by a judge, each with its "
        "interval and its difference to the first model. Finished measurements are kept: the same command goes on "
        "after a kill.",
        run,
    )
    verb.add_argument(
        "models", nargs="*", metavar="NAME=MODEL", help="folder or Hub id of a model or a PEFT adapter, by name"
    )
    verb.add_argument("--baseline", metavar="NAME", help="the model that the others are compared with (the first)")
    verb.add_argument(
        "--benchmarks", nargs="+", default=[], metavar="TASK",
        help="openllm, openllm-paper (the four of it that InstructMining reports), leaderboard, own_response, any "
        "task or group of lm-eval, or a YAML file",
    )  # fmt: skip
    verb.add_argument("--include-path", metavar="DIR", help="folder with more YAML files of tasks")
    verb.add_argument(
        "--chat-template", action=argparse.BooleanOptionalAction, default=False,
        help="ask the benchmarks in the tokenizer's chat template",
    )  # fmt: skip
    verb.add_argument("--limit", type=int, metavar="N", help="ask the first N questions of each task alone")
    verb.add_argument(
        "--batch-size", type=_batch_size, default=1, metavar="N", help="texts in a pass of lm-eval, or auto"
    )
    verb.add_argument(
        "--eval-set", nargs="+", default=[], metavar="NAME[=SOURCE]",
        help=f"mt_bench or self_instruct (of the Hub), or NAME=SOURCE, each a {SOURCE}",
    )  # fmt: skip
    verb.add_argument(
        "--references", nargs="+", metavar="NAME=FILE",
        help="other reference answers for an evaluation set, by its questions' ids; or NAME=column:COLUMN",
    )  # fmt: skip
    verb.add_argument("--max-length", type=int, default=2048, metavar="N", help="tokens that losses are measured on")
    verb.add_argument("--judge", metavar="MODEL", help="judge of the models' answers; see `instructmine judge`")
    verb.add_argument("--prompts", metavar="SOURCE", help=f"what the models answer for the judge: a {SOURCE}")
    verb.add_argument(
        "--judge-options",
        metavar="OPTION=VALUE,…",
        help="of `instructmine judge`, such as max_new_tokens=128,mode=single",
    )
    verb.add_argument("--dtype", default="float32", help="precision of the models")
    verb.add_argument("--trust-remote-code", action="store_true", help="run code that comes with a model")
    verb.add_argument("--seed", type=int, default=0, help="seed of solved examples and bootstraps")
    verb.add_argument("--output-dir", metavar="DIR", help="folder for the records and the table")
    verb.add_argument("--attach", metavar="DIR", help="selection whose card is written anew with this evidence")
    verb.add_argument(
        "--dry-run", action="store_true", help="say what would be asked, with shots and metrics, and load nothing"
    )


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    from ..data.inputs import parse_mapping

    if args.dry_run:
        return _dry_run(args)
    if not args.models:
        raise InstructMineError("name the models: NAME=FOLDER, such as base=HuggingFaceTB/SmolLM2-135M-Instruct")
    if args.output_dir is None:
        raise InstructMineError("--output-dir is missing: the folder for the records and the table")
    if (args.judge is None) != (args.prompts is None):
        raise InstructMineError("--judge and --prompts go together: the judge, and what the models answer for it")
    models, references = _pairs(args.models, "the model"), _pairs(args.references or (), "--references")
    options = parse_mapping(args.judge_options) or {}
    judge = None if args.judge is None else {"judge": args.judge, "prompts": args.prompts, **options}
    selection = None if args.attach is None else him.Selection.load(args.attach)
    function = him.evaluate_models
    given = pick(args, function, models=models, eval_sets=args.eval_set, references=references, judge=judge)
    evaluation = function(**given)
    path = Path(args.output_dir, TABLES)
    with written_whole(path) as partial:
        partial.write_text(f"{evaluation.summary()}\n", encoding="utf-8")
    print(f"{evaluation.summary()}\n\nWrote {path}")
    if selection is not None:
        selection.attach_evidence(evaluation)
        selection.save_to_disk(args.attach, overwrite=True)
        print(f"Wrote {Path(args.attach, 'README.md')}: the card of the selection, with this evidence")
    say_next("report", args.attach or args.output_dir)


def _dry_run(args: argparse.Namespace) -> None:
    """Resolves names and prints what would be asked."""
    from ..evaluation.models import shots
    from ..evaluation.tasks import resolve
    from ..outputs.markdown import printable, table

    benchmarks = resolve(args.benchmarks, args.include_path)
    rows = [
        [printable(b.name), printable(shots(b)), printable(b.leaves[0].dataset.split(" ")[0]), str(len(b.leaves))]
        for b in benchmarks
    ]
    models = ", ".join(_pairs(args.models, "the model")) or "none named"
    sets = ", ".join(text.partition("=")[0] for text in args.eval_set) or "none"
    asked = "all questions" if args.limit is None else f"the first {args.limit} questions of each task"
    template = "with" if args.chat_template else "without"
    if rows:
        print(table(["benchmark", "shots and metric", "questions from", "tasks"], rows, text_columns=3) + "\n")
    judge = printable(args.judge or "none")
    print(f"Models: {printable(models, None)}. Losses: {printable(sets, None)}. Judge: {judge}.")
    print(f"Would ask {asked}, {template} the chat template. Nothing was downloaded or loaded.")


def _pairs(texts: Sequence[str], what: str) -> Mapping[str, str]:
    """`NAME=VALUE` by name."""
    found: dict[str, str] = {}
    for text in texts:
        name, separator, value = str(text).partition("=")
        if not separator or not name or not value:
            raise InstructMineError(f"{what} {text!r:.80} is not of the form NAME=VALUE")
        if name in found:
            raise InstructMineError(f"{what} '{name}' is named twice")
        found[name] = value
    return found


def _batch_size(text: str) -> int | str:
    return text if text == "auto" else int(text)
