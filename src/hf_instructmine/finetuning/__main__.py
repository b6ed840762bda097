"""`accelerate launch -m hf_instructmine.finetuning --config recipe.yaml`: one finetune, on one process or several."""

import argparse
import gc
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from ..data.evaluation_sets import load_eval_sets
from ..data.inputs import load_pool, parse_mapping
from ..errors import InstructMineError
from ..outputs.files import written_whole
from .base_model import load_base
from .evaluation import encode_set
from .finetune import FinetuningResult, check_processes, finetune
from .recipe import Arguments, Recipe
from .training_data import read_training_data


def run(arguments: Arguments) -> FinetuningResult:
    """One finetune from arguments alone: what `accelerate launch -m hf_instructmine.finetuning` runs."""
    own, sft = arguments.own, arguments.sft
    check_processes(own, sft.world_size)
    if not own.train or not own.eval_sets:
        raise InstructMineError("a finetune needs train (files, folders or Hub ids) and eval_sets (name=file)")
    started = time.perf_counter()
    columns = parse_mapping(own.columns)
    conversations = read_training_data(load_pool(own.train, columns=columns), columns)
    eval_sets = load_eval_sets(own.eval_sets)
    loaded = load_base(arguments)
    encoded = {name: encode_set(examples, loaded, own.eval_max_length) for name, examples in eval_sets.items()}
    result, trainer = finetune(loaded, conversations, encoded, arguments)
    result.seconds = time.perf_counter() - started
    if own.record is not None and trainer.accelerator.is_main_process:
        with written_whole(Path(own.record)) as partial:
            partial.write_text(json.dumps(asdict(result)))
    if sft.save_strategy != "no":
        trainer.save_model()  # on all processes: each may hold a part
    return result


def _leave_process_group() -> None:
    """Ends the connections to the other processes. Left to the interpreter's end, one process in many aborts there,
    and the launcher takes a finished finetune for a failed one."""
    import torch.distributed

    if torch.distributed.is_available() and torch.distributed.is_initialized():
        gc.collect()  # the trainer's model, which is part of a cycle, holds on to them
        torch.distributed.destroy_process_group()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of `accelerate launch -m hf_instructmine.finetuning`; returns the exit code."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    args, options = parser.parse_known_args(argv)
    try:
        recipe = Recipe({} if args.config is None else Recipe.load(args.config).settings)
        arguments = recipe.arguments(*options)
    except InstructMineError as error:
        print(f"finetuning: {error}", file=sys.stderr)
        return 2
    try:
        result = run(arguments)
    except InstructMineError as error:
        print(f"finetuning: {error}", file=sys.stderr)
        return 1
    _leave_process_group()
    if arguments.sft.process_index == 0:
        for name, loss in result.losses.items():
            print(f"loss_{name}: {loss:.4f} nats per token")
        print(f"{result.steps} steps, {result.train_tokens} response tokens, {result.seconds:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
