"""Where the runs of a sweep run: in this process, in a subprocess each, or as Ray tasks. All give the same result."""

import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..data.conversation import Conversation
from ..data.evaluation_sets import EvaluationSet
from ..errors import InstructMineError
from ..finetuning.base_model import load_base
from ..finetuning.evaluation import EncodedSet, encode_set
from ..finetuning.finetune import finetune, measure_base
from ..finetuning.launching import launch_command
from ..finetuning.recipe import Recipe
from ..finetuning.saving import write_model
from ..finetuning.training_data import encode_training_set
from ..models.loading import LoadedModel
from ..outputs.digests import digest
from ..outputs.records import Records
from .keeping import STAGE, options_of_run, tracked


if TYPE_CHECKING:
    import torch

    from ..finetuning.trunk import Trunk, WholeModel

EXECUTORS = ("inline", "accelerate", "ray")


@dataclass(frozen=True)
class Execution:
    """How the runs of a sweep are carried out; see [`run_sweep`].

    Attributes:
        executor (`str`): One of `EXECUTORS`.
        accelerate_config (`str`, *optional*): `accelerate launch --config_file`, for the executors that launch.
        columns (`Mapping[str, str]`, *optional*): Which column of the pool is which, where that is not detected.
        retry_failed (`bool`): Whether runs that were recorded as failed are run again.
        keep_models (`bool`): Whether the final model of each run is kept.

    Raises:
        [`InstructMineError`]: Where there is no such executor.
    """

    executor: str = "inline"
    accelerate_config: str | None = None
    columns: Mapping[str, str] | None = None
    retry_failed: bool = False
    keep_models: bool = False

    def __post_init__(self) -> None:
        if self.executor not in EXECUTORS:
            raise InstructMineError(f"executor must be one of {', '.join(EXECUTORS)}, not {self.executor!r}")


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


class Inline:
    """Runs one after another in this process: the base model is loaded once and reset between runs.

    Args:
        recipe ([`Recipe`]): Of every run.
        eval_sets (`Mapping[str, EvaluationSet]`): What every run is measured on.
        conversations (`Mapping[int, Conversation]`): The rows that the runs train on, by number in the pool.
        folder (`Path`): The sweep's: gets the cached trunk.
    """

    def __init__(
        self,
        recipe: Recipe,
        eval_sets: Mapping[str, EvaluationSet],
        conversations: Mapping[int, Conversation],
        folder: Path,
    ):
        self.recipe = recipe
        self.eval_sets = eval_sets
        self.conversations = conversations
        self.folder = folder
        self.loaded: LoadedModel | None = None
        self.load()

    def load(self) -> LoadedModel:
        """Loads the base model and, where the recipe asks for it, puts the cached trunk under its last layers."""
        arguments = self.recipe.arguments()
        own, sft = arguments.own, arguments.sft
        self.loaded = loaded = load_base(arguments)
        self.encoded = {name: encode_set(s, loaded, own.eval_max_length) for name, s in self.eval_sets.items()}
        self.rows: dict[int, int] = {}  # where each row of the pool is in the trunk
        self.trunk: Trunk | None = None
        self.eval_embeddings: dict[str, Sequence[torch.Tensor]] | None = None
        self.whole: WholeModel | None = None
        if own.cached_trunk:
            assert own.train_last_layers is not None  # a recipe without it is refused
            self._put_on_trunk(loaded, own.train_last_layers, sft)
        self.attributes = set(loaded.model.__dict__)
        # Adapters are taken off again; what else trains is copied back.
        weights = [] if arguments.model.use_peft else loaded.model.named_parameters()
        self.initial = {name: weight.detach().clone() for name, weight in weights if weight.requires_grad}
        return loaded

    def _put_on_trunk(self, loaded: LoadedModel, num_layers: int, sft: Any) -> None:
        from ..finetuning.trunk import WholeModel, compute_trunk, cut_to_last_layers

        if self.recipe.settings.get("model_dir"):  # else the frozen layers are let go
            self.whole = WholeModel.of(loaded.model)
        numbers = sorted(self.conversations)
        rows = encode_training_set(loaded, [self.conversations[i] for i in numbers], sft.max_length).input_ids
        sequences = [ids for e in self.encoded.values() for ids in e.sequences] + rows
        texts = digest(sequences)
        with Records(self.folder).lock("trunk", patience=-1):
            trunk = compute_trunk(loaded, num_layers, sequences, self.folder / "trunk" / texts, sft.bf16)
        cut_to_last_layers(loaded, num_layers, next(iter(self.encoded.values())), trunk, sft.bf16)
        if sft.bf16:
            _round_frozen_head(loaded)
        self.eval_embeddings, start = {}, 0
        for name, encoded in self.encoded.items():
            self.eval_embeddings[name] = trunk.select(range(start, start + len(encoded.sequences)))
            start += len(encoded.sequences)
        self.trunk, self.rows = trunk, {number: start + k for k, number in enumerate(numbers)}

    def base(self) -> dict[str, Any]:
        """See [`describe_base`]."""
        assert self.loaded is not None  # the base model is measured before any run
        return describe_base(self.loaded, self.encoded, bool(self.recipe.arguments().sft.bf16), self.eval_embeddings)

    def run(self, indices: Sequence[int], seed: int, folder: Path) -> dict[str, Any]:
        """Trains on the rows `indices` and measures; leaves the model as it was."""
        loaded = self.load() if self.loaded is None else self.loaded
        options, environment = options_of_run(self.recipe, folder)
        arguments = self.recipe.arguments(seed=seed, output_dir=str(folder), disable_tqdm=True, **options)
        subset = [self.conversations[i] for i in indices]
        embeddings = None if self.trunk is None else self.trunk.select([self.rows[i] for i in indices])
        self.loaded = None  # a run that fails half-way leaves a model that is no base model
        # The trainer prints its log, which would tear the sweep's bar.
        with redirect_stdout(io.StringIO()), tracked(environment):
            result, trainer = finetune(loaded, subset, self.encoded, arguments, embeddings, self.eval_embeddings)
        if arguments.own.model_dir:
            with nullcontext() if self.whole is None else self.whole.put_back(loaded.model):
                write_model(trainer, folder / STAGE)
        self.loaded = self._reset(loaded, trainer, arguments.model.use_peft)
        return asdict(result)

    def _reset(self, loaded: LoadedModel, trainer: Any, use_peft: bool) -> LoadedModel:
        import torch

        if use_peft:
            loaded.model = trainer.accelerator.unwrap_model(trainer.model).unload()
        # Accelerate wraps `forward`, for bf16 among others, and marks the model as done: the next trainer's Accelerate
        # would leave a marked one as it is, and train in fp32.
        for name in loaded.model.__dict__.keys() - self.attributes:
            delattr(loaded.model, name)
        loaded.model.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, weight in loaded.model.named_parameters():
                if name in self.initial:
                    weight.copy_(self.initial[name])
        return loaded


def _round_frozen_head(loaded: LoadedModel) -> None:
    """Keeps the head in bf16, as mixed precision uses it: it would round the weights anew in every forward pass."""
    import torch

    head = loaded.model.get_output_embeddings()
    if not head.weight.requires_grad:
        head.weight = torch.nn.Parameter(head.weight.detach().to(torch.bfloat16), requires_grad=False)


class Subprocess:
    """Runs each finetune with `accelerate launch`, on one or many processes, as its configuration says.

    Args:
        recipe, eval_sets, conversations: As for [`Inline`].
        accelerate_config (`str`, *optional*): YAML for `accelerate launch --config_file`.
    """

    def __init__(
        self,
        recipe: Recipe,
        eval_sets: Mapping[str, EvaluationSet],
        conversations: Mapping[int, Conversation],
        accelerate_config: str | None = None,
    ):
        self.recipe = recipe
        self.eval_sets = eval_sets
        self.conversations = conversations
        self.accelerate_config = accelerate_config

    def base(self) -> dict[str, Any]:
        """See [`describe_base`]; measured in this process."""
        arguments = self.recipe.arguments()
        loaded = load_base(arguments)
        length = arguments.own.eval_max_length
        encoded = {name: encode_set(s, loaded, length) for name, s in self.eval_sets.items()}
        return describe_base(loaded, encoded, bool(arguments.sft.bf16))

    def run(self, indices: Sequence[int], seed: int, folder: Path) -> dict[str, Any]:
        """Runs one finetune to its end and reads its result.

        Raises:
            [`InstructMineError`]: Where it fails, with the last line that it printed.
        """
        return self.read(run_command(*self.command(indices, seed, folder)))

    def read(self, result: dict[str, Any]) -> dict[str, Any]:
        """Puts the turns, which a subprocess measures one by one, together to examples again."""
        for name, measured in result["examples"].items():
            owners = self.eval_sets[name].owners
            nll, tokens = (np.bincount(owners, measured[key]) for key in ("nll", "tokens"))
            result["examples"][name] = {"nll": np.round(nll, 4).tolist(), "tokens": tokens.astype(int).tolist()}
        return result

    def command(self, indices: Sequence[int], seed: int, folder: Path) -> tuple[list[str], dict[str, str], Path]:
        """Writes what a run needs. Returns its command, the environment variables that it needs besides, and the file
        that gets its result."""
        import yaml

        folder.mkdir(parents=True, exist_ok=True)
        options, tracking = options_of_run(self.recipe, folder)
        subset = [self.conversations[i] for i in indices]
        _write_lines(folder / "subset.jsonl", [{"messages": [*c.prompt, *c.completion]} for c in subset])
        for name, examples in self.eval_sets.items():
            turns = [{"prompt": turn.prompt, "completion": turn.completion} for turn in examples.turns]
            _write_lines(folder / f"{name}.eval.jsonl", turns)
        settings = {
            **self.recipe.settings,
            "seed": seed,
            "train": [str(folder / "subset.jsonl")],
            "eval_sets": [f"{name}={folder / f'{name}.eval.jsonl'}" for name in self.eval_sets],
            "columns": None,
            "record": str(folder / "result.json"),
            "output_dir": str(folder),
            "cached_trunk": False,
            "model_dir": str(folder / STAGE) if self.recipe.settings.get("model_dir") else None,
            **options,
        }
        recipe = folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump(settings), encoding="utf-8")
        command, environment = launch_command(recipe, accelerate_config=self.accelerate_config)
        # The `datasets` library keeps a copy of every file it reads: these are gone after the run.
        return command, {**environment, **tracking, "HF_DATASETS_CACHE": str(folder / "cache")}, folder / "result.json"


def describe_base(
    loaded: LoadedModel,
    eval_sets: Mapping[str, EncodedSet],
    bf16: bool,
    eval_embeddings: "Mapping[str, Sequence[torch.Tensor]] | None" = None,
) -> dict[str, Any]:
    """The untrained model's `losses` by set, and the size of its `vocabulary`.

    Raises:
        [`InstructMineError`]: Where a loss is not finite.
    """
    measured = measure_base(loaded, eval_sets, bf16, eval_embeddings)
    for name, loss in measured.items():
        if not np.isfinite(loss.loss):
            raise InstructMineError(f"the untrained model's loss on '{name}' is {loss.loss}: try another dtype")
    vocabulary = loaded.model.config.get_text_config().vocab_size
    return {"losses": {name: loss.loss for name, loss in measured.items()}, "vocabulary": vocabulary}


def run_command(command: Sequence[str], environment: Mapping[str, str], record: Path) -> dict[str, Any]:
    """Runs a finetune's command and returns the result it wrote. Where this process dies, the command ends.

    Raises:
        [`InstructMineError`]: Where it fails; the message is the last thing it said.
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
    told = [line for line in said if line.startswith("finetuning: ")] or [line for line in said if "Error" in line]
    reason = (told or said or ["it said nothing"])[-1].removeprefix("finetuning: ")
    raise InstructMineError(f"{reason} (exit code {code})")


def _write_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    with path.open("w", encoding="utf-8") as file:
        file.writelines(f"{json.dumps(row)}\n" for row in rows)


@contextmanager
def ray_session() -> Iterator[Any]:
    """Connects to the Ray cluster that `RAY_ADDRESS` names, or starts one here.

    Raises:
        [`InstructMineError`]: Where Ray is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise InstructMineError("executor='ray' needs Ray: pip install 'hf-instructmine[ray]'") from error
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield ray
    finally:
        if started:
            ray.shutdown()
