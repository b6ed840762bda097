"""`accelerate launch -m hf_instructmine.finetuning --config recipe.yaml`: one finetune, on one process or several."""

import argparse
import gc
import json
import logging
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import InstructMineError
from ..models.loading import describe_source
from ..outputs.digests import fast_digest
from ..outputs.files import written_whole
from .base_model import load_base
from .checkpoints import find_checkpoint
from .evaluation import encode_set
from .finetune import FinetuningResult, check_processes, finetune
from .handover import read_inputs
from .recipe import Arguments, Recipe
from .saving import Provenance, check_model_dir, keep_model


logger = logging.getLogger(__name__)


def run(arguments: Arguments, settings: Mapping[str, Any]) -> FinetuningResult:
    """One finetune from arguments alone: what `accelerate launch -m hf_instructmine.finetuning` runs.

    Args:
        arguments ([`Arguments`]): All options.
        settings (`Mapping[str, Any]`): Those that were given, for the card of the model.
    """
    own, sft = arguments.own, arguments.sft
    check_processes(own, sft.world_size)
    if arguments.gpus > 1:
        logger.warning("%d GPUs are visible and one is used: name more with --num-processes", arguments.gpus)
    if not own.train or not own.eval_sets:
        raise InstructMineError("a finetune needs train (files, folders or Hub ids) and eval_sets (name=file)")
    started = time.perf_counter()
    conversations, eval_sets = read_inputs(own)
    resuming = find_checkpoint(sft) is not None
    if own.model_dir is not None:
        check_model_dir(Path(own.model_dir), resuming)
    loaded = load_base(arguments)
    encoded = {name: encode_set(examples, loaded, own.eval_max_length) for name, examples in eval_sets.items()}
    result, trainer = finetune(loaded, conversations, encoded, arguments)
    result.seconds = time.perf_counter() - started

    def describe() -> Provenance:
        name = str(arguments.model.model_name_or_path)
        base = describe_source(name, arguments.model.model_revision)
        sources = [Path(source).name if Path(source).exists() else source for source in own.train]
        data = {
            "from": ", ".join(sources),
            "rows": len(conversations),
            "digest": fast_digest(map(repr, conversations)),
        }
        return Provenance(base, data, Recipe(dict(settings)).comparable, asdict(result))

    if own.model_dir is not None:
        keep_model(trainer, Path(own.model_dir), describe)
    if own.record is not None and trainer.accelerator.is_main_process:
        with written_whole(Path(own.record)) as partial:
            partial.write_text(json.dumps(asdict(result)))
    if sft.push_to_hub:
        trainer.push_to_hub(commit_message="Add the model of a finetune by hf-instructmine")
    return result


def _given(recipe: Recipe, options: Sequence[str], arguments: Arguments) -> dict[str, Any]:
    """The settings of a recipe, with what was said on the command line in their place."""
    said = {option.partition("=")[0][2:].replace("-", "_") for option in options if option.startswith("--")}
    known = {**vars(arguments.model), **vars(arguments.sft), **vars(arguments.own)}
    return {**recipe.settings, **{name: known[name] for name in sorted(said) if name in known}}


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
    own, sft, settings = arguments.own, arguments.sft, _given(recipe, options, arguments)
    if "model_dir" not in settings and "output_dir" in settings:
        own.model_dir = sft.output_dir
        sft.run_name = sft.run_name or Path(str(sft.output_dir)).name
    if sft.process_index == 0:
        _tell_what_is_noted()
    try:
        result = run(arguments, settings)
    except InstructMineError as error:
        print(f"finetuning: {error}", file=sys.stderr)
        return 1
    _leave_process_group()
    if sft.process_index == 0:
        _tell(result, arguments)
    return 0


def _tell_what_is_noted() -> None:
    """Shows what a finetune notes before it trains, such as what a budget comes to."""
    notes = logging.getLogger(__package__)
    notes.setLevel(logging.INFO)
    if not notes.handlers:
        notes.addHandler(logging.StreamHandler())


def _tell(result: FinetuningResult, arguments: Arguments) -> None:
    own = arguments.own
    for name, loss in result.losses.items():
        before = f" ({result.base_losses[name]:.4f} before)" if name in result.base_losses else ""
        print(f"loss_{name}: {loss:.4f} nats per token{before}")
    asked = "" if result.asked_tokens is None else f" of {result.asked_tokens:,} asked for"
    print(f"{result.steps} steps, {result.train_tokens} response tokens{asked}, {result.seconds:.0f} s")
    if own.model_dir is None:
        print("The model is not kept: name a folder for it with --output-dir")
    else:
        kind = "adapter" if arguments.model.use_peft else "model"
        print(f"The {kind} is in {own.model_dir}. Next: AutoModelForCausalLM.from_pretrained({own.model_dir!r})")


if __name__ == "__main__":
    sys.exit(main())
