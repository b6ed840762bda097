import os
from pathlib import Path

from hf_instructmine.indicators.space import metric_space, settings


# A variable of the Space, or of the shell, names another: a Hub id or a folder.
MODEL = os.environ.get("MODEL", "HuggingFaceTB/SmolLM2-135M-Instruct")
EXAMPLES = [
    ("What does a barometer measure?", "It measures the pressure of the air, by which one can foretell the weather."),
    ("What does a barometer measure?", "Bananas are rich in potassium."),
    ("Write a line of a poem.", "the cat saw the dog and the dog saw the cat and the cat saw the dog"),
    ("Say nothing.", ""),
]
space = metric_space(Path(__file__).parent, EXAMPLES, model=MODEL)

if __name__ == "__main__":
    space.launch(**settings())
