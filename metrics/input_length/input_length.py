"""`hf_instructmine.InputLength` as a measurement of `evaluate`."""

import datasets
import evaluate

import hf_instructmine
from hf_instructmine.indicators.measurement import IndicatorMeasurement


_DESCRIPTION = """
Length of the prompt in tokens.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`): Responses.
    prompts (`list[str]`): The instruction of each response.
    tokenizer (`str` or `PreTrainedTokenizerBase`): Hub id, local folder, or loaded.
    **kwargs: Any other argument of [`hf_instructmine.InputLength`].

Returns:
    `dict`: `input_length` (`list[float]`, tokens); and for each column the mean over
    its scored rows (`mean_<column>`) and the number of its other rows (`num_unscored_<column>`).
"""

_CITATION = r"""
@article{cao2023instruction,
  title={Instruction Mining: Instruction Data Selection for Tuning Large Language Models},
  author={Cao, Yihan and Kang, Yanbin and Wang, Chi and Sun, Lichao},
  journal={arXiv preprint arXiv:2307.06290},
  year={2023}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class InputLength(IndicatorMeasurement):
    indicator = hf_instructmine.InputLength

    def _info(self):
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("string"), "prompts": datasets.Value("string")}),
            reference_urls=["https://arxiv.org/abs/2307.06290"],
        )
