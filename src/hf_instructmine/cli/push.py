"""`instructmine push`: sends a curated dataset, or a sweep's runs, to the Hub."""

import argparse
from pathlib import Path

from ..errors import InstructMineError
from ..outputs.hub import push_folder
from ..sweep.card import push_runs


def run(args: argparse.Namespace) -> None:
    """Runs the verb."""
    if Path(args.folder, "sweep.json").is_file():
        full_id = push_runs(args.folder, args.repo_id, private=args.private)
        print(f"Pushed the runs of {args.folder}: load_dataset({full_id!r}) opens them")
        return
    if not Path(args.folder, "estimator.json").is_file():
        raise InstructMineError(
            f"'{args.folder}' holds no curated dataset: give a folder that `instructmine select` wrote"
        )
    message = "Add rows chosen by hf-instructmine"
    full_id = push_folder(args.folder, args.repo_id, repo_type="dataset", commit_message=message, private=args.private)
    print(f"Pushed {args.folder}: load_dataset({full_id!r}) opens it")
