"""What a net is: graph, layers, architecture and weights, and its ONNX files."""
