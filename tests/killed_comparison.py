"""A comparison in a process of its own, to be killed: `python killed_comparison.py MODEL FOLDER LOG`.

Every run that trains adds its name to LOG first.
"""

import sys
from pathlib import Path

from hf_instructmine.sweep import executors


sys.path.insert(0, str(Path(__file__).parent / "comparison"))
from test_compare import compare


model, folder, log = sys.argv[1:]
train = executors.Inline.run


def noted(self, indices, seed, folder, **options):
    result = train(self, indices, seed, folder, **options)
    with open(log, "a") as file:
        file.write(f"{Path(folder).name}\n")
    return result


executors.Inline.run = noted
compare(model, Path(folder))
