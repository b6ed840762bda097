from pathlib import Path

import evaluate
from evaluate.utils import launch_gradio_widget


module = evaluate.load(
    str(Path(__file__).with_name("input_length.py")), tokenizer="HuggingFaceTB/SmolLM2-135M-Instruct"
)
launch_gradio_widget(module)
