"""ONNX files from outside: checked, and run in child processes with limits.

Start at `session`, which runs a file in a child process.

- `onnx_wire` refuses at once what cannot be an ONNX file; `onnx_graph` parses and checks the
  others, in the child process
- `session_process` starts the child early, `session_server` is its program
"""
