"""The runs of a sweep on the Hub: a table that `load_dataset` opens, with a card that says how it came about."""

import json
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import Dataset

from ..data.provenance import get_provenance
from ..errors import InstructMineError
from ..finetuning.recipe import Recipe
from ..outputs.hub import push_folder
from ..outputs.markdown import PARQUET_FILE, escape, size_category
from ..outputs.records import Records
from .manifest import MANIFEST
from .runs import load_runs, pure_error


MAX_RUNS = 200


def push_runs(folder: str | Path, repo_id: str, private: bool = False, token: str | None = None) -> str:
    """Pushes the runs of a sweep, each evaluation example's loss included, and a card.

    The folder's own files stay here: they name files of this machine.

    Args:
        folder (`str` or `Path`): The sweep's `output_dir`.
        repo_id, private, token: As [`~publishing.hub.create_repo`] takes them.

    Returns:
        `str`: The repository's id, owner included; `load_dataset` opens it.

    Raises:
        [`InstructMineError`]: Where the folder holds no finished run, or the Hub refuses or is out of reach.
    """
    runs = load_runs(folder, examples=True)
    reasons = [_without_paths(reason) for reason in runs["reason"]]
    runs = Dataset.from_dict({**runs.to_dict(), "reason": reasons}, features=runs.features)
    manifest = Records(folder).read(Path(folder) / MANIFEST)
    if manifest is None:
        raise InstructMineError(f"'{folder}' holds no sound sweep.json, so what its runs are of cannot be told")
    with tempfile.TemporaryDirectory() as stage:
        data, card = Path(stage, PARQUET_FILE), Path(stage, "README.md")
        data.parent.mkdir()
        runs.to_parquet(data)
        card.write_text(build_runs_card(runs, manifest), encoding="utf-8")
        return push_folder(
            stage,
            repo_id,
            repo_type="dataset",
            commit_message="Add the runs of a sweep by hf-instructmine",
            private=private,
            token=token,
        )


def build_runs_card(runs: Dataset, manifest: Mapping[str, Any]) -> str:
    """The card: recipe, base model, evaluation sets, runs with their losses, indicators and versions.

    Args:
        runs (`Dataset`): From [`load_runs`].
        manifest (`dict`): The sweep's `sweep.json`.
    """
    from huggingface_hub import DatasetCardData

    data = DatasetCardData(
        size_categories=[size_category(len(runs))],
        tags=["instructmining", "instruction-tuning", "data-selection", "hf-instructmine"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": PARQUET_FILE}]}],
    )
    done = runs.select([i for i, status in enumerate(runs["status"]) if status == "done"])
    sets = manifest["evaluation_sets"]
    base_model = runs[0]["base_model"]
    settings = {**Recipe(manifest["recipe"]).comparable, "model_name_or_path": base_model}
    recipe = [[escape(name), escape(_without_paths(value))] for name, value in settings.items()]
    evaluation = [
        [escape(name), escape(digest), _number(runs[0][f"base_loss_{name}"]), *_spread(done, name)]
        for name, digest in sets.items()
    ]
    indicators = [[escape(name), escape(json.dumps(made))] for name, made in get_provenance(runs).items()]
    versions = sorted({f"{k} {v}" for text in runs["versions"] for k, v in json.loads(text).items() if v})
    name = escape(base_model)
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {len(runs):,} finetunes of {name}",
        f"Each row is one finetune of {name} on a subset of an instruction pool ({escape(manifest['pool'])}), with "
        "the subset's rows (`indices`), its mean indicators, and the loss on each evaluation set: Σ NLL / Σ response "
        "tokens, in nats, of the set (`loss_…`) and of each example (`example_nll_…`, a sum). "
        f"{len(done):,} runs are done, {len(runs) - len(done):,} failed (`reason` says why). Made with "
        "hf-instructmine ([InstructMining](https://arxiv.org/abs/2307.06290)).",
        "## Recipe",
        _table(["option", "value"], recipe),
        "## Evaluation sets",
        _table(["set", "examples", "untrained loss", "SD between mixtures", "SD of replicates"], evaluation),
        "SD: of the log loss; of replicates, around their mixture's mean (pure error).",
        "## Runs",
        _table(["mixture", "seed", "status", *map(escape, sets), "response tokens", "seconds"], _run_rows(runs, sets)),
        *([f"The first {MAX_RUNS} of {len(runs):,} are listed."] if len(runs) > MAX_RUNS else []),
        *(["## Indicators", _table(["column", "configuration"], indicators)] if indicators else []),
        "## Versions",
        ", ".join(map(escape, versions)),
    ]
    return "\n\n".join(parts) + "\n"


def _spread(done: Dataset, name: str) -> list[str]:
    between, within = pure_error(done, f"loss_{name}") if len(done) else (None, None)
    return ["–" if spread is None else f"{spread:.5f}" for spread in (between, within)]


def _run_rows(runs: Dataset, sets: Iterable[str]) -> Iterable[list[str]]:
    for row in runs.select(range(min(MAX_RUNS, len(runs)))):
        status = row["status"] if row["reason"] is None else f"{row['status']}: {row['reason']}"
        losses = [_number(row[f"loss_{name}"]) for name in sets]
        tokens = "–" if row["train_tokens"] is None else f"{row['train_tokens']:,}"
        yield [escape(row["mixture_id"]), str(row["seed"]), escape(status), *losses, tokens, f"{row['seconds']:.1f}"]


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _without_paths(value: Any) -> Any:
    """Leaves the last name of every path of this machine."""
    path = r"(?<![\w/.~-])(?:~|\.{1,2})?/(?:[^\s/'\":;,]+/)*([^\s/'\":;,]+)"
    return re.sub(path, r"\1", value) if isinstance(value, str) else value


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows])
