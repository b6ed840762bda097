"""A process for each run, launched by Accelerate: on one or many processes, as its configuration says."""

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..data.conversation import Conversation
from ..data.evaluation_sets import EvaluationSet
from ..errors import InstructMineError
from ..finetuning.base_model import load_base
from ..finetuning.evaluation import EncodedSet
from ..finetuning.handover import hand_over
from ..finetuning.launching import launch_command
from ..finetuning.recipe import Recipe
from .encoding import encode_all
from .faults import MachineError, free_memory
from .inline import describe_base, fixed_steps
from .keeping import STAGE, options_of_run


# Starts a command and ends it, with all that it started, once this end of the pipe closes: when the sweep is killed,
# its finetune must not go on and hold the GPU that the next sweep needs.
_GUARD = """
import os, signal, subprocess, sys, threading
child = subprocess.Popen(sys.argv[1:], stdin=subprocess.DEVNULL, start_new_session=True)
def end():
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
threading.Thread(target=lambda: (os.read(0, 1), end()), daemon=True).start()
try:
    code = child.wait()
finally:
    end()
sys.exit(code if code >= 0 else 128 - code)
"""
# How launchers tell of a process that a signal ended, and of one that ended with an error.
_KILLED = re.compile(r"died with <Signals\.(\w+)|exitcode\s*: -(\d+)")
_ERRED = re.compile(r"exitcode\s*: [1-9]")
# What a launcher adds to an error.
_OF_LAUNCHER = re.compile(r"subprocess\.CalledProcessError|\S*ChildFailedError")
# What a finetune says where the machine is to blame.
_MACHINES_WORDS = re.compile(
    r"cannot load the (base model|tokenizer)|Connection(Reset|Refused|Aborted)?Error|\[Errno (28|30|122)\]"
    r"|No space left|CUDA error: (?!out of memory)|NCCL error"
)


class Subprocess:
    """Runs each finetune with `accelerate launch`.

    Args:
        recipe, eval_sets, conversations: As for [`Inline`].
        accelerate_config (`str`, *optional*): YAML for `accelerate launch --config_file`; one process where there is
            none.
        encoded (`Mapping[str, EncodedSet]`, *optional*): What [`encode_all`] gave for these.

    Raises:
        [`InstructMineError`]: Where a row or an evaluation text cannot be encoded.
    """

    def __init__(
        self,
        recipe: Recipe,
        eval_sets: Mapping[str, EvaluationSet],
        conversations: Mapping[int, Conversation],
        accelerate_config: str | None = None,
        encoded: Mapping[str, EncodedSet] | None = None,
    ):
        self.recipe = recipe
        self.eval_sets = eval_sets
        self.conversations = conversations
        self.accelerate_config = accelerate_config
        self.encoded = encode_all(recipe, eval_sets, conversations) if encoded is None else encoded

    def base(self) -> dict[str, Any]:
        """See [`describe_base`]; measured in this process, which keeps nothing of the model."""
        arguments = self.recipe.arguments()
        described = describe_base(load_base(arguments), self.encoded, bool(arguments.sft.bf16))
        free_memory()
        return described

    def run(self, indices: Sequence[int], seed: int, folder: Path, max_steps: int | None = None) -> dict[str, Any]:
        """Runs one finetune to its end and reads its result.

        Raises:
            [`InstructMineError`]: Where it fails; see [`run_command`].
        """
        return run_command(*self.command(indices, seed, folder, max_steps))

    def command(
        self, indices: Sequence[int], seed: int, folder: Path, max_steps: int | None = None
    ) -> tuple[list[str], dict[str, str], Path]:
        """Writes what a run needs. Returns its command, the environment variables that it needs besides, and the file
        that gets its result."""
        import yaml

        folder.mkdir(parents=True, exist_ok=True)
        options, tracking = options_of_run(self.recipe, folder)
        settings = {
            **self.recipe.settings,
            **options,
            **fixed_steps(max_steps),
            **hand_over(folder, [self.conversations[i] for i in indices], self.eval_sets),
            "seed": seed,
            "record": str(folder / "result.json"),
            "output_dir": str(folder),
            "cached_trunk": False,
            "model_dir": str(folder / STAGE) if self.recipe.settings.get("model_dir") else None,
        }
        recipe = folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(settings), encoding="utf-8")
        command, environment = launch_command(recipe, accelerate_config=self.accelerate_config, quiet=False)
        return command, {**environment, **tracking}, folder / "result.json"


def run_command(command: Sequence[str], environment: Mapping[str, str], record: Path) -> dict[str, Any]:
    """Runs a finetune's command and returns the result it wrote. Where this process dies, the command ends.

    Raises:
        [`InstructMineError`]: Where it fails; the message is the last thing it said.
        [`MachineError`]: Where a signal ended it, as the system does for want of memory, or it lost a connection.
    """
    record.unlink(missing_ok=True)
    guarded = [sys.executable, "-c", _GUARD, *command]
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        with subprocess.Popen(
            guarded, stdin=subprocess.PIPE, stdout=log, stderr=log, env={**os.environ, **environment}
        ) as process:
            code = process.wait()
        if code == 0 and record.exists():
            return json.loads(record.read_text())
        log.seek(0)
        said = [line for line in log.read().splitlines() if line.strip()]
    raise _error_of(said, code)


def _error_of(said: Sequence[str], code: int) -> InstructMineError:
    """What went wrong, from what a command said and the code that it ended with."""
    own = [line for line in said if line.startswith("finetuning: ")]
    errors = [line for line in said if "Error" in line and not _OF_LAUNCHER.match(line)]
    signals = [match for line in said if (match := _KILLED.search(line))]
    killed = not own and (bool(signals) or not 0 <= code < 128) and not any(_ERRED.search(line) for line in said)
    reason = (own or errors or said or ["it said nothing"])[-1].removeprefix("finetuning: ")
    if killed and signals:
        reason = f"its process was killed by the signal {signals[0][1] or signals[0][2]}"
    kind = MachineError if killed or _MACHINES_WORDS.search(reason) else InstructMineError
    return kind(f"{reason} (exit code {code})")
