"""What a network is: graph, layers, architecture, weights and the ONNX files written of them."""
