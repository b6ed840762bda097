"""The runs of a sweep on the Hub: a table that `load_dataset` opens, with a card that says how it came about."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datasets import Dataset, Features

from ..data.provenance import get_provenance
from ..errors import InstructMineError
from ..finetuning.recipe import Recipe
from ..outputs.markdown import PARQUET_FILE, count, escape, size_category, table
from ..outputs.privacy import without_paths, without_secrets
from ..outputs.publishing import Content, Pushed, publish
from ..outputs.shards import MAX_SHARD_SIZE
from .manifest import MANIFEST, open_records
from .runs import load_runs, pure_error


if TYPE_CHECKING:
    from huggingface_hub import DatasetCard


TEMPLATE = Path(__file__).with_name("runs_card.md")
MAX_RUNS = 200


def push_runs(
    folder: str | Path,
    repo_id: str,
    private: bool = False,
    token: str | None = None,
    *,
    revision: str | None = None,
    create_pr: bool = False,
    commit_message: str | None = None,
    max_shard_size: int | str = MAX_SHARD_SIZE,
    overwrite: bool = False,
) -> Pushed:
    """Pushes the runs of a sweep, each evaluation example's loss included, and a card.

    The folder's own files stay here: they name files of this machine. Paths and tokens are taken out of every text.

    Args:
        folder (`str` or `Path`): The sweep's `output_dir`.
        repo_id, private, token, revision, create_pr, commit_message, max_shard_size, overwrite: As
            [`~selection.Selection.push_to_hub`] takes them.

    Returns:
        [`~outputs.publishing.Pushed`]: The repository's id, owner included; `load_dataset` opens it.

    Raises:
        [`InstructMineError`]: Where the folder holds no finished run, or the Hub refuses or is out of reach.

    Example:

    ```python
    him.push_runs("sweep", "me/my-runs", private=True)
    ```
    """
    runs = load_runs(folder, examples=True)
    features = Features(without_secrets(dict(runs.features)))
    runs = Dataset.from_dict(without_secrets({name: runs[name][:] for name in runs.column_names}), features=features)
    manifest = open_records(folder).read(Path(folder) / MANIFEST)
    if manifest is None:
        raise InstructMineError(f"'{folder}' holds no sound sweep.json, so what its runs are of cannot be told")
    card = build_runs_card(runs, without_secrets(manifest))
    content = Content(
        repo_type="dataset",
        message="Add the runs of a sweep by hf-instructmine",
        write=lambda stage, _: card.save(stage / "README.md"),
        rows=runs,
    )
    return publish(
        content,
        repo_id,
        private=private,
        token=token,
        revision=revision,
        create_pr=create_pr,
        commit_message=commit_message,
        max_shard_size=max_shard_size,
        overwrite=overwrite,
    )


def build_runs_card(runs: Dataset, manifest: Mapping[str, Any]) -> "DatasetCard":
    """The card: recipe, base model, evaluation sets, runs with their losses, indicators and versions.

    Args:
        runs (`Dataset`): From [`load_runs`].
        manifest (`dict`): The sweep's `sweep.json`.

    Returns:
        `DatasetCard`: With metadata that the Hub accepts.
    """
    from huggingface_hub import DatasetCard, DatasetCardData

    title = f"{count(len(runs), 'finetune')} of a sweep"
    data = DatasetCardData(
        pretty_name=title,
        task_categories=["tabular-regression"],
        size_categories=[size_category(len(runs))],
        tags=["instructmining", "instruction-tuning", "data-selection", "hf-instructmine"],
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": PARQUET_FILE}]}],
    )
    done = runs.select([i for i, status in enumerate(runs["status"]) if status == "done"])
    base_model = runs[0]["base_model"]
    settings = {**Recipe(manifest["recipe"]).comparable, "model_name_or_path": base_model}
    versions = sorted({f"{k} {v}" for text in runs["versions"] for k, v in json.loads(text).items() if v})
    return DatasetCard.from_template(
        data,
        template_path=str(TEMPLATE),
        finetunes=count(len(runs), "finetune"),
        base_model=escape(base_model),
        pool=escape(manifest["pool"]),
        counts=f"{count(len(done), 'run is', 'runs are')} done, {len(runs) - len(done):,} failed",
        recipe=table(
            ["option", "value"],
            [[escape(name), escape(without_paths(value))] for name, value in settings.items()],
            text_columns=2,
        ),
        evaluation_sets=_evaluation_sets(runs, done, manifest["evaluation_sets"]),
        runs=_runs(runs, list(manifest["evaluation_sets"])),
        indicators=_indicators(runs),
        versions=", ".join(map(escape, versions)),
    )


def _evaluation_sets(runs: Dataset, done: Dataset, sets: Mapping[str, str]) -> str:
    header = ["set", "examples", "untrained loss", "SD between mixtures", "SD of replicates"]
    rows = [
        [escape(name), escape(digest), _number(runs[0][f"base_loss_{name}"]), *_spread(done, name)]
        for name, digest in sets.items()
    ]
    return table(header, rows, text_columns=2)


def _spread(done: Dataset, name: str) -> list[str]:
    between, within = pure_error(done, f"loss_{name}") if len(done) else (None, None)
    return ["–" if spread is None else f"{spread:.5f}" for spread in (between, within)]


def _runs(runs: Dataset, sets: list[str]) -> str:
    rows = []
    for row in runs.select(range(min(MAX_RUNS, len(runs)))):
        status = row["status"] if row["reason"] is None else f"{row['status']}: {row['reason']}"
        losses = [_number(row[f"loss_{name}"]) for name in sets]
        tokens = "–" if row["train_tokens"] is None else f"{row['train_tokens']:,}"
        rows.append(
            [escape(row["mixture_id"]), str(row["seed"]), escape(status), *losses, tokens, f"{row['seconds']:.1f}"]
        )
    text = table(["mixture", "seed", "status", *map(escape, sets), "response tokens", "seconds"], rows, text_columns=3)
    return text + (f"\n\nThe first {MAX_RUNS} of {len(runs):,} are listed." if len(runs) > MAX_RUNS else "")


def _indicators(runs: Dataset) -> str | None:
    made = get_provenance(runs)
    rows = [[escape(name), escape(json.dumps(configuration))] for name, configuration in made.items()]
    return table(["column", "configuration"], rows, text_columns=2) if rows else None


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"
