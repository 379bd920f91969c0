"""What a net is: graph, layers, architecture and weights, and its files.

Start at `arch`, a frozen description: its `layers/` are lowered by `builder` to the operations of a
`graph`. A `model` is an `Arch` with weights and `quantization`; `network` computes it in torch.

- ONNX: `onnx_export` writes it, `onnx_file` opens and runs it, `onnx_read` reads it back
- other files: `formats/` is the plug-in folder, with `c_export/`, `litert_export/` and
  `memory_plan`
- nets for sound: `front_end` says which features, `front_end_onnx` writes them into the file
- `integer_reference`: what an int8 file must compute; `random_weights`: nets that only cost
- files from outside: `untrusted/` checks and runs ONNX files in child processes with limits, and
  `format_session` files of other formats, by the program `format_server`
"""
