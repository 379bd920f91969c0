"""ONNX models made elsewhere: opened safely, wrapped, quantized.

Start at `load`, which runs in a child process and gives a `model`; `quantize` makes it int8.

- reading an untrusted file: `reader`, `fixed_sizes` (what is refused)
- making it like lepton's own: `rewrites`, `free_batch`, `interface`
- how it wants its pixels: `find_preprocessing` in a file (`preprocessing`) or in the configurations
  of other libraries (`hugging_face_config`, `timm_config`)
- is it read as its maker meant: `class_order`, `plausibility`
- quantization: `equalization`, `static_quantization` (ONNX Runtime's), `mixed_precision`
- `graph_process` runs its graphs in a child process with limits
"""
