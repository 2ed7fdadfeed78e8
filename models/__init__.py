"""The example ensemble: ten digit classifiers, trained, exported to ONNX and kept in BentoML's model store."""
