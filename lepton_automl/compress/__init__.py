"""Pruning, fine-tuning and quantization of a trained network.

Start at `loop`: it prunes (`pruning/`), judges each cut (`acceptance`), fits the temperature of the
probabilities (`temperature`), trains on all samples (`refit`) and quantizes (`quantization/`), and
records each of the `steps`. `context` is what all of them need.

- `decisions`: what is said of it, from what evidence
- `recovery` fine-tunes a net after a cut; `evaluation` measures accuracy and KL divergence
- `cross_fit` cuts nets of other folds alike, so that more samples judge; `least_squares` solves
  weights for `pruning/` and `quantization/`
- `external/` quantizes ONNX models made elsewhere
"""
