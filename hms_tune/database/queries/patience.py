"""How little further trials promise, beside the noise over patients.

When the sampler draws a trial it says what one more may be expected to gain over the best complete trial, be
it a new one or one that waits at a rung. A complete trial says how far its score varies when patients are
drawn anew. Both are user attributes of Optuna's trials.
"""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Connection, text

from hms_tune.database.optuna_trial import GAIN_ATTRIBUTE, NOISE_ATTRIBUTE


@dataclass(frozen=True, slots=True)
class GainPatience:
    """How near a study is to its end for want of gain.

    Attributes
    ----------
    draws : the latest draws in a row of which each promised less than the noise
    most : after so many the study ends; None: never
    gain : what the latest draw promised, KL; None: no draw has yet
    noise : standard error of the best trial's score over patients, KL; None: no trial is complete
    """

    draws: int
    most: int | None
    gain: float | None
    noise: float | None

    @property
    def is_over(self) -> bool:
        """Whether the study has waited long enough."""
        return self.most is not None and self.draws >= self.most


def patience_used(
    connection: Connection, study_id: int, most: int | None, *, looked: int = 1000
) -> GainPatience:
    """How little the latest draws of a study promised.

    Parameters
    ----------
    most : draws in a row after which the study ends; None: any number
    looked : how many draws are counted at most where there is no limit
    """
    given = {"study": study_id, "key": GAIN_ATTRIBUTE, "most": looked if most is None else most}
    gains = [float(value) for value in connection.execute(_GAINS, given).scalars()]
    told = connection.execute(_NOISE, {"study": study_id, "key": NOISE_ATTRIBUTE}).scalar_one_or_none()
    noise = None if told in (None, "null") else float(told)
    draws = 0
    if noise is not None:
        draws = next((place for place, gain in enumerate(gains) if gain >= noise), len(gains))
    return GainPatience(draws, most, gains[0] if gains else None, noise)


_GAINS = text("""
    SELECT a.value_json FROM trials t
    JOIN trial_user_attributes a ON a.trial_id = t.trial_id AND a.key = :key
    WHERE t.study_id = :study ORDER BY t.number DESC LIMIT :most
""")  # trials are Optuna's here
_NOISE = text("""
    SELECT a.value_json FROM trials t
    JOIN trial_values v ON v.trial_id = t.trial_id AND v.objective = 0
    LEFT JOIN trial_user_attributes a ON a.trial_id = t.trial_id AND a.key = :key
    WHERE t.study_id = :study AND t.state = 'COMPLETE' ORDER BY v.value, t.number LIMIT 1
""")
