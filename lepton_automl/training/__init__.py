"""One training loop and its parts.

Start at `loop`: from a model and a `recipe` to a trained model.

- batches: `loader`, `augmentation`
- a step: `step`, `loss`, `optim` (with `muon`), `precision`, `schedule`
- several processes for one net: `distributed`
- `checkpoint` to continue from, `memory` that a training takes, `evaluate` for its predictions
"""
