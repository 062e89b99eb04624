"""Files and other libraries: checkpoints, PyTorch, ONNX, Graphviz."""
