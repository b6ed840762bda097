"""`hf_instructmine.Perplexity` as a measurement of `evaluate`."""

import datasets
import evaluate

import hf_instructmine
from hf_instructmine.indicators.measurement import IndicatorMeasurement


_DESCRIPTION = """
Perplexity of the response, given its prompt, under a causal language model; lower is what the model expects.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`): Responses.
    prompts (`list[str]`): The instruction of each response, not needed with `given=False`.
    model (`str` or `PreTrainedModel`): Causal language model: Hub id, local folder, PEFT adapter, or loaded.
    given (`bool`, defaults to `True`): Whether the response is conditioned on its prompt.
    also (`Sequence[str]`, *optional*): `"ifd"`, `"end_of_turn"` or both: further values from the same forward passes.
    **kwargs: Any other argument of [`hf_instructmine.Perplexity`].

Returns:
    `dict`: `perplexity` (`list[float]`, from 1), and what `also` names; and for each column the mean over
    its scored rows (`mean_<column>`) and the number of its other rows (`num_unscored_<column>`).
"""

_CITATION = r"""
@article{cao2023instruction,
  title={Instruction Mining: Instruction Data Selection for Tuning Large Language Models},
  author={Cao, Yihan and Kang, Yanbin and Wang, Chi and Sun, Lichao},
  journal={arXiv preprint arXiv:2307.06290},
  year={2023}
}
@article{jelinek1977perplexity,
  title={Perplexity---a measure of the difficulty of speech recognition tasks},
  author={Jelinek, Fred and Mercer, Robert L. and Bahl, Lalit R. and Baker, James K.},
  journal={The Journal of the Acoustical Society of America},
  volume={62},
  number={S1},
  pages={S63},
  year={1977}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Perplexity(IndicatorMeasurement):
    indicator = hf_instructmine.Perplexity

    def _info(self):
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("string"), "prompts": datasets.Value("string")}),
            reference_urls=["https://arxiv.org/abs/2307.06290", "https://huggingface.co/docs/transformers/perplexity"],
        )
