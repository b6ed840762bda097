from pathlib import Path

import evaluate
from evaluate.utils import launch_gradio_widget


module = evaluate.load(
    str(Path(__file__).with_name("neighbor_distance.py")), model="sentence-transformers/all-MiniLM-L6-v2", i=1
)
launch_gradio_widget(module)
