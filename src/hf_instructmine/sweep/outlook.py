"""What can be told of a sweep's runs before the first of them: how long they train, and why they may teach nothing."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ..errors import InstructMineError


if TYPE_CHECKING:
    from trl import ModelConfig, SFTConfig

    from ..finetuning.recipe import Arguments


def global_batch(sft: "SFTConfig", processes: int | None) -> int | None:
    """Rows that an optimiser step is taken on; None where the number of processes is not known."""
    per_process = sft.per_device_train_batch_size * sft.gradient_accumulation_steps
    return None if processes is None else per_process * processes


def count_steps(arguments: "Arguments", rows: int, processes: int, max_steps: int | None = None) -> int | None:
    """Optimiser steps of a finetune on so many rows, `max_steps` where it asks for them itself; None where a number
    of tokens decides."""
    own, sft = arguments.own, arguments.sft
    if max_steps is not None:
        return max_steps
    if own.budget == "steps":
        return sft.max_steps
    if own.budget == "tokens":
        return None
    batch = sft.per_device_train_batch_size * processes
    batches = rows // batch if sft.dataloader_drop_last else math.ceil(rows / batch)
    return math.ceil(sft.num_train_epochs * math.ceil(batches / sft.gradient_accumulation_steps))


def doubts(arguments: "Arguments", runs: Sequence[dict[str, Any]], processes: int | None) -> dict[str, str]:
    """Why runs may teach nothing: a line for each kind of doubt.

    Args:
        arguments ([`Arguments`]): Of the recipe.
        runs (`Sequence[dict]`): The mixtures, with their `indices`.
        processes (`int`, *optional*): How many train together; taken as one where it is not known.

    Raises:
        [`InstructMineError`]: Where a run would make no step at all.
    """
    sft, processes = arguments.sft, processes or 1
    sizes = {run["mixture_id"]: len(run["indices"]) for run in runs}
    least = min(sizes, key=lambda name: sizes[name])
    batch = global_batch(sft, processes)
    assert batch is not None  # the number of processes is known here
    own = {run["mixture_id"]: run.get("max_steps") for run in runs}
    steps = {name: count_steps(arguments, rows, processes, own[name]) for name, rows in sizes.items()}
    figures = f"mixture '{least}': {sizes[least]} rows, batch {batch}"
    if steps[least] is not None:
        figures += f", {steps[least]} steps"
    if steps[least] == 0:
        raise InstructMineError(f"a run would make no step ({figures}): set dataloader_drop_last: false")
    told = {}
    warming = [name for name, n in steps.items() if n is not None and _warm_up(sft, n) >= n]
    if warming:
        told["warm-up"] = (
            f"{len(warming)} of {len(sizes)} mixtures train no longer than the warm-up of {_warm_up(sft, 1)} steps "
            f"({figures}): they may teach nothing; lower warmup_steps, or make the subsets larger"
        )
    single = [name for name, rows in sizes.items() if rows <= batch]
    if single:
        told["one batch"] = (
            f"{len(single)} of {len(sizes)} mixtures are one batch ({figures}): rows have no order, and replicates "
            f"can differ by {_what_differs(arguments.model)} alone; make the batch smaller, or the subsets larger"
        )
    return told


def _warm_up(sft: "SFTConfig", steps: int) -> int:
    """Steps of warm-up that the schedule has."""
    scheduled = str(getattr(sft.lr_scheduler_type, "value", sft.lr_scheduler_type)) != "constant"
    return sft.get_warmup_steps(steps) if scheduled else 0


def _what_differs(model: "ModelConfig") -> str:
    return "dropout and their adapters' first weights" if model.use_peft else "dropout"
