import os
from pathlib import Path

from hf_instructmine.indicators.space import EXAMPLES, metric_space, settings


# A variable of the Space, or of the shell, names another: a Hub id or a folder.
TOKENIZER = os.environ.get("TOKENIZER", "HuggingFaceTB/SmolLM2-135M-Instruct")
space = metric_space(Path(__file__).parent, EXAMPLES, tokenizer=TOKENIZER)

if __name__ == "__main__":
    space.launch(**settings())
