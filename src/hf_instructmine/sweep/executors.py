"""Where the runs of a sweep run: in this process, in one for each GPU, in one for each run, or as Ray tasks."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..errors import InstructMineError, not_one_of
from ..finetuning.launching import configured_processes
from .inline import Inline
from .subprocesses import Subprocess, run_command


if TYPE_CHECKING:
    from ..finetuning.recipe import Arguments

EXECUTORS = ("inline", "accelerate", "ray", "local")

__all__ = ["EXECUTORS", "Execution", "Inline", "Subprocess", "run_command"]


@dataclass(frozen=True)
class Execution:
    """How the runs of a sweep are carried out; see [`run_sweep`]. All ways give the same result.

    Attributes:
        executor (`str`): One of `EXECUTORS`.
        accelerate_config (`str`, *optional*): `accelerate launch --config_file`, for the executors that launch.
        columns (`Mapping[str, str]`, *optional*): Which column of the pool is which, where that is not detected.
        retry_failed (`bool`): Whether runs that were recorded as failed are run again.
        workers (`int`, *optional*): Processes of the executor `local`.
        keep_models (`bool`): Whether the final model of each run is kept.

    Raises:
        [`InstructMineError`]: Where there is no such executor, or it has no such option.
    """

    executor: str = "inline"
    accelerate_config: str | None = None
    columns: Mapping[str, str] | None = None
    retry_failed: bool = False
    workers: int | None = None
    keep_models: bool = False

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise InstructMineError(f"executor must be {not_one_of(self.executor, EXECUTORS)}")
        if self.workers is not None and (self.executor != "local" or self.workers < 1):
            raise InstructMineError("workers is the number, at least 1, of processes of executor='local'")

    def count_processes(self, arguments: "Arguments") -> int | None:
        """How many processes train together in a run; None where the Accelerate configuration does not say.

        Raises:
            [`InstructMineError`]: Where that configuration cannot be read, or the recipe needs a launcher.
        """
        if self.executor in ("inline", "local") and (arguments.sft.deepspeed or arguments.sft.fsdp):
            raise InstructMineError("DeepSpeed and FSDP need a launcher: set executor='accelerate'")
        if self.executor == "local":
            return 1
        if self.executor == "inline":
            return arguments.sft.world_size
        return 1 if self.accelerate_config is None else configured_processes(self.accelerate_config)
