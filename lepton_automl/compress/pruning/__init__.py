"""Cut channels and layers by what they cost and what they contribute.

Start at `prune`: of all `candidates` it takes the one with the least KL divergence per saving,
fine-tunes and judges it.

- a candidate: channels ranked by `importance`, removed by `cut`, weights fitted by `reconstruction`
- `savings`: share of bytes, time or multiply-accumulates that a cut saves
"""
