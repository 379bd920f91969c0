"""ONNX models made elsewhere: opened safely, wrapped, quantized."""
