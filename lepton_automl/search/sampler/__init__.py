"""The default sampler: `LeptonSampler` works in any Optuna study.

It takes one or several objectives, constraints set by `trial.set_constraint`, conditional
parameters and every kind of distribution. It uses nothing else of lepton but its `seeds`.

While fewer than `TASKS_PER_CHANGE` trainings run, its proposals depend on its seed and the content
of the study only, so that a reloaded study continues as an uninterrupted one. With more of them, a
ranking is used for several proposals: they depend also on when it was computed, which a reloaded
study does not know, so that it may continue with other ones.

- `lepton_sampler` is the sampler: it reads a study and ranks trials and candidates
- `trial_summaries` keep what was read from the trials, `observations` are their values, scaled
- `candidate_pool` draws the points to choose from, `surrogate` is the Gaussian process over points
  and rungs, `acquisition` the expected improvement by it
"""

from lepton_automl.search.sampler.lepton_sampler import LeptonSampler
from lepton_automl.search.sampler.observations import Observation

__all__ = ["LeptonSampler", "Observation"]
