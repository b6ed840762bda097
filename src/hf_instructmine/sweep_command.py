"""`instructmine sweep`: designs the mixtures once, keeps the design beside the runs, and sweeps."""

import argparse
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset

from .command_values import parse_mapping
from .design_report import design_report
from .errors import InstructMineError
from .files import written_whole
from .finetuning import load_eval_sets
from .inputs import load_pool
from .mixtures import design_mixtures
from .recipe import Recipe
from .scoring import pool_digest
from .sweep import run_sweep
from .sweep_records import DESIGN, MIXTURES, Records
from .sweep_table import pure_error, sweep_status


def run(args: argparse.Namespace) -> int:
    """Runs the verb and returns its exit code: 1 where every run failed."""
    if args.status is not None:
        print(sweep_status(args.status))
        return 0
    columns = parse_mapping(args.columns)
    recipe, eval_sets = Recipe.load(args.recipe), load_eval_sets(args.eval_set)
    recipe.arguments()  # a mistake in it is better found before the design
    scored = load_pool(args.input, args.split, args.sample, args.seed)
    names = ("num_runs", "subset_size", "subset_tokens", "method", "replicates", "seed")
    request = {name: getattr(args, name) for name in names}
    mixtures, report = design_once(scored, args.output_dir, args.encoder, columns, **request)
    if report is not None:
        print(f"{report}\n")
    runs = run_sweep(
        scored, mixtures, recipe, eval_sets, args.output_dir, args.executor, columns=columns,
        accelerate_config=args.accelerate_config, retry_failed=args.retry_failed,
    )  # fmt: skip
    print(sweep_status(args.output_dir))
    done = runs.select([i for i, status in enumerate(runs["status"]) if status == "done"])
    for name in eval_sets if len(done) else ():
        between, within = pure_error(done, f"loss_{name}")
        spreads = ("between mixtures", between), ("of replicates", within)
        told = ", ".join(f"{spread:.5f} {what}" for what, spread in spreads if spread is not None)
        print(f"SD of log loss on {name}: {told or 'one run has none'}")
    print(f"Next: instructmine fit {args.output_dir} --output-dir DIR")
    return 0 if len(done) else 1


def design_once(
    scored: Dataset,
    folder: str | Path,
    encoder: str | None = None,
    columns: Mapping[str, str] | None = None,
    **request: Any,
) -> tuple[Dataset, str | None]:
    """The mixtures that an earlier call left in `folder`, or new ones, which are left there.

    Args:
        scored (`Dataset`): The scored pool.
        folder (`str` or `Path`): The sweep's `output_dir`.
        encoder (`str`, *optional*): Sentence encoder, by Hub id or folder, that the neighbours' distances inside each
            subset are measured with, where the pool has a `knn_<i>` column.
        columns (`Mapping[str, str]`, *optional*): Which column of the pool is which, where that is not detected.
        request: What [`design_mixtures`] is called with.

    Returns:
        `tuple[Dataset, str | None]`: The mixtures, and what there is to say of a new design.

    Raises:
        [`InstructMineError`]: Where the pool cannot meet the request, or the folder holds another design; names what
            differs.
    """
    records = Records(folder)
    asked = {**request, "encoder": None if encoder is None else Path(encoder).name, "pool": pool_digest(scored)}
    before = records.read(records.folder / DESIGN)
    if before is not None:
        changed = [f"{k}: {before['request'].get(k)} → {v}" for k, v in asked.items() if before["request"].get(k) != v]
        if changed:
            raise InstructMineError(
                f"'{folder}' holds a sweep of another design ({'; '.join(changed)}): choose another output_dir, or "
                "undo the change"
            )
        return Dataset.from_parquet(str(records.folder / MIXTURES), keep_in_memory=True), None
    records.check_unclaimed()
    embeddings = _embed(scored, encoder, columns)
    source_column = "source" if "source" in scored.column_names else None
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        mixtures = design_mixtures(scored, embeddings=embeddings, source_column=source_column, **request)
    report = str(design_report(mixtures, scored, embeddings=embeddings, source_column=source_column))
    with written_whole(records.folder / MIXTURES) as partial:
        mixtures.to_parquet(str(partial))
    records.write(records.folder / DESIGN, {"request": asked})
    told = [f"warning: {w.message}" for w in noted if issubclass(w.category, UserWarning)]
    return mixtures, "\n".join([report, *told])


def _embed(scored: Dataset, encoder: str | None, columns: Mapping[str, str] | None) -> np.ndarray | None:
    if encoder is None or not any(name.startswith("knn_") for name in scored.column_names):
        return None
    from .indicators.neighbor_distance import NeighborDistance

    return NeighborDistance(model=encoder, columns=columns).embed(scored)
