import os
from pathlib import Path

from hf_instructmine.indicators.space import EXAMPLES, metric_space, settings


# A variable of the Space, or of the shell, names another: a Hub id or a folder.
MODEL = os.environ.get("MODEL", "sentence-transformers/all-MiniLM-L6-v2")
space = metric_space(Path(__file__).parent, EXAMPLES, model=MODEL, i=1)

if __name__ == "__main__":
    space.launch(**settings())
