"""Size, multiply-accumulates, peak memory and latency of a network, measured or predicted.

Start at `cost`: everything about an architecture that is known before training.

- latency: `latency` measures and records it; `latency_model` predicts that of another device from a
  table that `device_bench` measured there
- memory and flash of microcontrollers: `memory_steps`, `flash`, `boards`
- `estimate`: from the graph alone, to order proposals; `onnx_cost`: of any ONNX file
- `targets`: what hardware a file is for
- `lepton inspect`: `inspection` with its child process `inspection_server`, `layer_table` and
  `kernels`
"""
