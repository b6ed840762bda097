from pathlib import Path

from hf_instructmine.indicators.space import EXAMPLES, metric_space, settings


space = metric_space(Path(__file__).parent, EXAMPLES)

if __name__ == "__main__":
    space.launch(**settings())
