"""A network in plain NumPy, every gradient by its formula: what fastfc is compared with."""

import numpy as np

from fastfc import reference

SIZES, LR, MOMENTUM, BATCH_SIZE = [64, 128, 64, 10], 0.05, 0.9, 32


def reference_forward(x, layers):
    """The input and every layer's output; `layers` is a list of (weight, bias)."""
    outputs = [x]
    for weight, bias in layers:
        out = np.empty((len(x), len(bias)), x.dtype)
        activation = "relu" if len(outputs) < len(layers) else "identity"
        reference.dense_forward(outputs[-1], weight, bias, out, activation)
        outputs.append(out)
    return outputs


def reference_step(x, y, layers, velocities):
    """One step of SGD with momentum, every gradient by its formula."""
    outputs = reference_forward(x, layers)
    grad = np.empty_like(outputs[-1])
    loss = reference.cross_entropy_loss(outputs[-1], y, grad)
    for i in reversed(range(len(layers))):
        (weight, bias), x = layers[i], outputs[i]
        grads = np.empty_like(weight), np.empty_like(bias)
        reference.dense_weight_grad(x, grad, grads[0])
        reference.dense_bias_grad(grad, grads[1])
        if i:
            below = np.empty_like(x)
            reference.dense_input_grad(grad, weight, below)
            reference.activation_backward(x, below, below, "relu")
            grad = below
        for parameter, gradient, velocity in zip(layers[i], grads, velocities[i], strict=True):
            reference.sgd(parameter, gradient, velocity, LR, MOMENTUM, 0.0)
    return loss
