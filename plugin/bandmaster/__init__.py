"""Bandmaster: a band of ONNX models, led by a bandit. See README.md."""

__version__ = "0.1.0"
