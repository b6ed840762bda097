"""`instructmine finetune`: starts the processes of one finetune."""

import argparse

from ..finetuning.launching import launch


def run(args: argparse.Namespace) -> int:
    """Runs the verb and returns the exit code of the processes."""
    return launch(args.recipe, args.num_processes, args.accelerate_config, args.options)
