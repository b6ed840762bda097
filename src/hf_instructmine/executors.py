"""Where the runs of a sweep run: in this process, in a subprocess each, or as Ray tasks. All give the same result."""

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .conversation import Conversation
from .errors import InstructMineError
from .evaluation.loss import EvaluationSet
from .finetuning import encode_training_set, finetune, load_base, measure_base
from .recipe import Recipe


if TYPE_CHECKING:
    import torch

EXECUTORS = ("inline", "accelerate", "ray")


class Inline:
    """Runs one after another in this process: the base model is loaded once and reset between runs.

    Args:
        recipe ([`Recipe`]): Of every run.
        eval_sets (`Mapping[str, EvaluationSet]`): What every run is measured on.
        conversations (`Mapping[int, Conversation]`): The rows that the runs train on, by number in the pool.
        folder (`Path`): Gets the cached trunk.
    """

    def __init__(
        self,
        recipe: Recipe,
        eval_sets: Mapping[str, EvaluationSet],
        conversations: Mapping[int, Conversation],
        folder: Path,
    ):
        self.recipe = recipe
        self.conversations = conversations
        own, sft, model = recipe.arguments(output_dir=str(folder / "work"))
        self.loaded = load_base(own, sft, model)
        self.encoded = {name: s.encode(self.loaded, own.eval_max_length) for name, s in eval_sets.items()}
        self.rows: dict[int, torch.Tensor] = {}
        self.eval_embeddings: dict[str, Sequence[torch.Tensor]] | None = None
        if own.cached_trunk:
            self._cache_trunk(own, sft, folder / "trunk")
        weights = self.loaded.model.named_parameters()
        self.initial = {name: weight.detach().clone() for name, weight in weights if weight.requires_grad}

    def _cache_trunk(self, own: Any, sft: Any, folder: Path) -> None:
        from .trunk import compute_trunk, cut_to_last_layers

        numbers = sorted(self.conversations)
        rows = encode_training_set(self.loaded, [self.conversations[i] for i in numbers], sft.max_length).input_ids
        sequences = [ids for e in self.encoded.values() for ids in e.sequences] + rows
        texts = hashlib.sha256(json.dumps(sequences).encode()).hexdigest()[:16]
        trunk = compute_trunk(self.loaded, own.train_last_layers, sequences, folder / texts, sft.bf16)
        first = next(iter(self.encoded.values()))
        probe = min(8, len(first.sequences))
        cut_to_last_layers(
            self.loaded, own.train_last_layers, first.sequences[:probe], first.starts[:probe], trunk, sft.bf16
        )
        self.eval_embeddings, start = {}, 0
        for name, encoded in self.encoded.items():
            self.eval_embeddings[name] = _Slice(trunk, start, len(encoded.sequences))
            start += len(encoded.sequences)
        self.rows = {number: _Slice(trunk, start + k, 1) for k, number in enumerate(numbers)}

    def base(self) -> dict[str, Any]:
        """The untrained model's loss on each set."""
        _, sft, _ = self.recipe.arguments()
        measured = measure_base(self.loaded, self.encoded, sft.bf16, self.eval_embeddings)
        return {name: loss.loss for name, loss in measured.items()}

    def run(self, indices: Sequence[int], seed: int, folder: Path) -> dict[str, Any]:
        """Trains on the rows `indices` and measures; leaves the model as it was."""
        own, sft, model = self.recipe.arguments(seed=seed, output_dir=str(folder))
        embeddings = [self.rows[i][0] for i in indices] if self.rows else None
        subset = [self.conversations[i] for i in indices]
        trainer = None
        try:
            result, trainer = finetune(
                self.loaded, subset, self.encoded, own, sft, model, embeddings, self.eval_embeddings
            )
        finally:
            self._reset(trainer)
        return asdict(result)

    def _reset(self, trainer: Any) -> None:
        import torch

        if trainer is not None and trainer.model is not self.loaded.model and self.recipe.settings.get("use_peft"):
            self.loaded.model = trainer.accelerator.unwrap_model(trainer.model).unload()
        base = self.loaded.model
        base.__dict__.pop("forward", None)  # TRL wraps it anew for every trainer
        base.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, weight in base.named_parameters():
                if name in self.initial:
                    weight.copy_(self.initial[name])


class Subprocess:
    """Runs each finetune with `accelerate launch`, on one or many processes, as its configuration says.

    Args:
        recipe, eval_sets, conversations: As for [`Inline`].
        folder (`Path`): Gets the evaluation sets and each run's subset, as files.
        accelerate_config (`str`, *optional*): YAML for `accelerate launch --config_file`.
    """

    def __init__(
        self,
        recipe: Recipe,
        eval_sets: Mapping[str, EvaluationSet],
        conversations: Mapping[int, Conversation],
        folder: Path,
        accelerate_config: str | None = None,
    ):
        self.recipe = recipe
        self.conversations = conversations
        self.accelerate_config = accelerate_config
        self.folder = folder / "work"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.eval_sets = eval_sets
        self.files = {name: self._write_turns(name, s) for name, s in eval_sets.items()}

    def _write_turns(self, name: str, examples: EvaluationSet) -> Path:
        path = self.folder / f"eval-{name}.jsonl"
        with path.open("w", encoding="utf-8") as file:
            for turn in examples.turns:
                file.write(json.dumps({"prompt": turn.prompt, "completion": turn.completion}) + "\n")
        return path

    def base(self) -> dict[str, Any]:
        """The untrained model's loss on each set, measured in this process."""
        own, sft, model = self.recipe.arguments(output_dir=str(self.folder))
        loaded = load_base(own, sft, model)
        encoded = {name: s.encode(loaded, own.eval_max_length) for name, s in self.eval_sets.items()}
        return {name: loss.loss for name, loss in measure_base(loaded, encoded, sft.bf16).items()}

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

    def command(self, indices: Sequence[int], seed: int, folder: Path) -> tuple[list[str], Path]:
        """Writes what a run needs and returns the command and the file that gets its result."""
        import yaml

        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "subset.jsonl").open("w", encoding="utf-8") as file:
            for i in indices:
                row = self.conversations[i]
                file.write(json.dumps({"messages": [*row.prompt, *row.completion]}) + "\n")
        settings = {
            **self.recipe.settings,
            "seed": seed,
            "train": [str(folder / "subset.jsonl")],
            "eval_sets": [f"{name}={path}" for name, path in self.files.items()],
            "record": str(folder / "result.json"),
            "output_dir": str(folder),
            "cached_trunk": False,
        }
        (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
        config = [] if self.accelerate_config is None else ["--config_file", self.accelerate_config]
        launch = [sys.executable, "-m", "accelerate.commands.launch", *config]
        command = [*launch, "-m", "hf_instructmine.finetuning", "--config", str(folder / "recipe.yaml")]
        return command, folder / "result.json"


def run_command(command: Sequence[str], record: Path) -> dict[str, Any]:
    """Runs a finetune's command and returns the result it wrote.

    Raises:
        [`InstructMineError`]: Where it fails; the message is the last thing it said.
    """
    record.unlink(missing_ok=True)
    with tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace") as log:
        done = subprocess.run(command, stdout=log, stderr=log, check=False)
        if done.returncode == 0 and record.exists():
            return json.loads(record.read_text())
        log.seek(0)
        said = [line for line in log.read().splitlines() if line.strip()]
    told = [line for line in said if line.startswith("finetuning: ")] or [line for line in said if "Error" in line]
    reason = (told or said or ["it said nothing"])[-1].removeprefix("finetuning: ")
    raise InstructMineError(f"{reason} (exit code {done.returncode})")


class _Slice:
    """Part of a [`Trunk`], read from disk where it is needed."""

    def __init__(self, trunk: Any, start: int, length: int):
        self.trunk, self.start, self.length = trunk, start, length

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> "torch.Tensor":
        return self.trunk[self.start + i]


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
