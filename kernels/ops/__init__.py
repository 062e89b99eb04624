"""The kernels of layers, activations and losses, each forward and backward."""
