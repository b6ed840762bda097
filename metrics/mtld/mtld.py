"""`hf_instructmine.MTLD` as a measurement of `evaluate`."""

import datasets
import evaluate

import hf_instructmine
from hf_instructmine.indicators.measurement import IndicatorMeasurement


_DESCRIPTION = """
Measure of textual lexical diversity (MTLD) of the response; higher is more diverse.
"""

_KWARGS_DESCRIPTION = """
Args:
    predictions (`list[str]`): Responses.
    threshold (`float`, defaults to 0.72): Type-token ratio at which a factor is complete.
    **kwargs: Any other argument of [`hf_instructmine.MTLD`].

Returns:
    `dict`: `mtld` (`list[float]`, words, from 1); and for each column the mean over
    its scored rows (`mean_<column>`) and the number of its other rows (`num_unscored_<column>`).
"""

_CITATION = r"""
@article{cao2023instruction,
  title={Instruction Mining: Instruction Data Selection for Tuning Large Language Models},
  author={Cao, Yihan and Kang, Yanbin and Wang, Chi and Sun, Lichao},
  journal={arXiv preprint arXiv:2307.06290},
  year={2023}
}
@article{mccarthy2010mtld,
  title={MTLD, vocd-D, and HD-D: A validation study of sophisticated approaches to lexical diversity assessment},
  author={McCarthy, Philip M. and Jarvis, Scott},
  journal={Behavior Research Methods},
  volume={42},
  number={2},
  pages={381--392},
  year={2010}
}
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class Mtld(IndicatorMeasurement):
    indicator = hf_instructmine.MTLD

    def _info(self):
        return evaluate.MeasurementInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_KWARGS_DESCRIPTION,
            features=datasets.Features({"predictions": datasets.Value("string")}),
            reference_urls=["https://arxiv.org/abs/2307.06290", "https://doi.org/10.3758/BRM.42.2.381"],
        )
