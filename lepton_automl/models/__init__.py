"""Nets: graph, layers, architecture, weights, and their ONNX files."""
