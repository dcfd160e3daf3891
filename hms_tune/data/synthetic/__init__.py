"""A synthetic competition: EEG from a model of head, brain, artefacts and raters.

Sources and figures: ACNS critical-care EEG terminology (Hirsch et al., J Clin Neurophysiol 2021;38:1–29) and
Jing et al., Neurology 2023;100(17):e1737 and e1750.
"""

from hms_tune.data.synthetic.competition import ORACLE, synthesize
from hms_tune.data.synthetic.outline import FULL_SIZE, Extent

__all__ = ["FULL_SIZE", "ORACLE", "Extent", "synthesize"]
