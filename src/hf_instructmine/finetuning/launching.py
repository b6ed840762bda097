"""Starting a finetune as `accelerate launch` has to be told to, on one process or several."""

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from ..errors import InstructMineError
from ..outputs.reading import read_yaml
from .recipe import Recipe


def launch(
    recipe: str | Path,
    num_processes: int | None = None,
    accelerate_config: str | Path | None = None,
    options: Sequence[str] = (),
) -> int:
    """Runs a finetune to its end and returns its exit code.

    Args:
        recipe (`str` or `Path`): YAML file.
        num_processes (`int`, *optional*): Defaults to what `accelerate_config` says, or else to one, also where
            several GPUs are visible: more would make the batch larger than the recipe says.
        accelerate_config (`str` or `Path`, *optional*): YAML for `accelerate launch --config_file`.
        options (`Sequence[str]`): Options that win over the recipe's, e.g. `["--learning_rate", "1e-4"]`.

    Raises:
        [`InstructMineError`]: Where a file cannot be read, or `num_processes` is not positive.
    """
    command, environment = launch_command(recipe, num_processes, accelerate_config, options)
    return subprocess.run(command, env=os.environ | environment, check=False).returncode


def launch_command(
    recipe: str | Path,
    num_processes: int | None = None,
    accelerate_config: str | Path | None = None,
    options: Sequence[str] = (),
    quiet: bool = True,
) -> tuple[list[str], dict[str, str]]:
    """The command of [`launch`] and the environment variables it needs besides. Where the number of processes is
    known, the finetune is told to expect it (`expect_processes`), unless the recipe does so itself. Unless it is
    `quiet`, the launcher tells of the signal that killed a finetune."""
    if num_processes is not None and num_processes < 1:
        raise InstructMineError(f"the number of processes must be at least 1, not {num_processes}")
    settings = Recipe.load(recipe).settings
    on_cpu = bool(settings.get("use_cpu")) or "--use_cpu" in options
    environment = {}
    if accelerate_config is not None:
        configured = configured_processes(accelerate_config)
        flags = ["--config_file", str(accelerate_config)]
        flags += [] if num_processes is None else ["--num_processes", str(num_processes)]
        num_processes = num_processes or configured
    elif num_processes is None or num_processes == 1:
        num_processes = 1
        flags = ["--num_processes", "1", *(["--cpu"] if on_cpu else [])]
    else:
        flags = ["--multi_gpu", "--num_processes", str(num_processes), "--main_process_port", "0"]
        if on_cpu:  # with `--cpu`, one process would start, and say nothing
            environment["ACCELERATE_USE_CPU"] = "true"
            threads = os.environ.get("OMP_NUM_THREADS") or max(1, (os.cpu_count() or 1) // num_processes)
            flags += ["--num_cpu_threads_per_process", str(threads)]
    told = [option.partition("=")[0].replace("-", "_") for option in options]
    if num_processes is not None and "expect_processes" not in settings and "__expect_processes" not in told:
        options = ["--expect_processes", str(num_processes), *options]
    launcher = [sys.executable, "-m", "accelerate.commands.launch", *(["--quiet"] if quiet else []), *flags]
    return [*launcher, "-m", "hf_instructmine.finetuning", "--config", str(recipe), *options], environment


def configured_processes(path: str | Path) -> int | None:
    """How many processes an Accelerate configuration starts; None where it does not say.

    Raises:
        [`InstructMineError`]: Where it cannot be read.
    """
    configured = read_yaml(Path(path), f"the Accelerate configuration '{path}'")
    processes, kind = configured.get("num_processes"), configured.get("distributed_type")
    if kind == "DEEPSPEED" and find_spec("deepspeed") is None:
        raise InstructMineError(f"'{path}' asks for DeepSpeed, which is not here: pip install deepspeed")
    return processes
