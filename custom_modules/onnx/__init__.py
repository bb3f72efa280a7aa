"""Separators as ONNX graphs: written, checked, and run without PyTorch."""
