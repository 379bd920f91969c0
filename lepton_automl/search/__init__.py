"""Architecture and hyperparameter search: which nets are trained, for how long, and which wins.

Start at `loop`; a `request` goes in, and its result comes out. Everything that happened lies in the
ledger, from which `trials` are rebuilt.

- what is proposed: `space/` holds the search spaces; `study` asks a sampler, by default that of
  `sampler/` (a Gaussian process, with draws from `seeds`); `proposals/` check costs, repair and
  record a proposal; `warm_start` takes over other runs
- what trains next: `scheduler` chooses a promotion or a new trial, `rungs` are the lengths of
  training, `planning` shares the budget out by the rules and the clock of `time_plan`
- how it trains: `task_builder` makes tasks, each with a `training_key`; `executors/` run them here,
  on hosts or on a Dask cluster, in processes of `workers/`;
  `checkpoint_files` are the nets that they leave
- which net wins: `objectives`, `pareto` (front and hypervolume), `finals/` (final trainings);
  `trial_costs` of all trials for `lepton pick`
- what others see of it: `progress`, `observers` with `callbacks/` and `optuna_storage`
"""
