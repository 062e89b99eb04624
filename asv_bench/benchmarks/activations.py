import timeit

import numpy as np

from fastfc import kernels
from fastfc.kernels.ops.activation_rules import ACTIVATIONS, ROWWISE, of_input

from .common import Timed, asked_for, needs, table, three_digits

USUAL = ["relu", "tanh", "gelu", "softmax"]
COMPARED = [name for name in ACTIVATIONS if name != "identity"]
SIZES = [1_000, 100_000, 10_000_000]
COLUMNS = 100  # of those that work along rows


def arrays(activation, elements, dtype="float32"):
    """What the derivative is in terms of, the gradient, and a place for the result; and the input."""
    shape = (elements // COLUMNS, COLUMNS) if ACTIVATIONS[activation].code in ROWWISE else (elements,)
    x = np.linspace(-5, 5, elements, dtype=dtype).reshape(shape)
    y, out = np.empty_like(x), np.empty_like(x)
    kernels.activation_forward(x, y, activation)
    return x, x if of_input(ACTIVATIONS[activation]) else y, np.ones_like(x), out


def seconds(*calls):
    """Of each call, the best of some runs that take turns."""
    timers = [timeit.Timer(call) for call in calls]
    number = max(1, int(0.005 / max(timer.timeit(1) for timer in timers)))
    rounds = [[timer.timeit(number) / number for timer in timers] for _ in range(9)]
    return [min(times) for times in zip(*rounds, strict=True)]


class Activations(Timed):
    params = (
        table(USUAL, [name for name in ACTIVATIONS if name not in USUAL]),
        table(SIZES[:2], SIZES[2:]),
        table(["float32"], ["float64"]),
    )
    param_names = ("activation", "elements", "dtype")

    def setup(self, activation, elements, dtype):
        self.x, self.saved, self.grad, self.out = arrays(activation, elements, dtype)
        self.time_derivative(activation)

    def time_function(self, activation, *_):
        kernels.activation_forward(self.x, self.out, activation)

    def time_derivative(self, activation, *_):
        kernels.activation_backward(self.saved, self.grad, self.out, activation)


def peer(activation, x, grad):
    """PyTorch's functions of one activation into a given place, forward and, in terms of what it keeps, backward."""
    import torch

    torch.set_num_threads(1)
    aten = torch.ops.aten
    x, grad = torch.from_numpy(x), torch.from_numpy(grad)
    y, out = torch.empty_like(x), torch.empty_like(x)
    selu = (1.6732632423543772, 1.0507009873554805, 1.0)
    forward = {
        "relu": lambda: aten.relu.out(x, out=y),
        "leaky_relu": lambda: aten.leaky_relu.out(x, 0.01, out=y),
        "sigmoid": lambda: aten.sigmoid.out(x, out=y),
        "log_sigmoid": lambda: aten.log_sigmoid.out(x, out=y),
        "tanh": lambda: aten.tanh.out(x, out=y),
        "hardtanh": lambda: aten.hardtanh.out(x, -1.0, 1.0, out=y),
        "relu6": lambda: aten.hardtanh.out(x, 0.0, 6.0, out=y),
        "elu": lambda: aten.elu.out(x, out=y),
        "selu": lambda: aten.elu.out(x, *selu, out=y),
        "celu": lambda: aten.elu.out(x, out=y),
        "softplus": lambda: aten.softplus.out(x, 1, 20, out=y),
        "softsign": lambda: torch.nn.functional.softsign(x),
        "hardsigmoid": lambda: aten.hardsigmoid.out(x, out=y),
        "hardswish": lambda: aten.hardswish.out(x, out=y),
        "silu": lambda: aten.silu.out(x, out=y),
        "gelu": lambda: aten.gelu.out(x, out=y),
        "gelu_tanh": lambda: aten.gelu.out(x, approximate="tanh", out=y),
        "mish": lambda: aten.mish.out(x, out=y),
        "softmax": lambda: aten._softmax.out(x, -1, False, out=y),
        "log_softmax": lambda: aten._log_softmax.out(x, -1, False, out=y),
    }
    backward = {
        "relu": lambda: aten.threshold_backward.grad_input(grad, x, 0, grad_input=out),
        "leaky_relu": lambda: aten.leaky_relu_backward.grad_input(grad, x, 0.01, False, grad_input=out),
        "sigmoid": lambda: aten.sigmoid_backward.grad_input(grad, y, grad_input=out),
        "log_sigmoid": lambda: aten.log_sigmoid_backward.grad_input(grad, x, y, grad_input=out),
        "tanh": lambda: aten.tanh_backward.grad_input(grad, y, grad_input=out),
        "hardtanh": lambda: aten.hardtanh_backward.grad_input(grad, x, -1.0, 1.0, grad_input=out),
        "relu6": lambda: aten.hardtanh_backward.grad_input(grad, x, 0.0, 6.0, grad_input=out),
        "elu": lambda: aten.elu_backward.grad_input(grad, 1.0, 1.0, 1.0, False, x, grad_input=out),
        "selu": lambda: aten.elu_backward.grad_input(grad, *selu, False, x, grad_input=out),
        "celu": lambda: aten.elu_backward.grad_input(grad, 1.0, 1.0, 1.0, False, x, grad_input=out),
        "softplus": lambda: aten.softplus_backward.grad_input(grad, x, 1, 20, grad_input=out),
        "hardsigmoid": lambda: aten.hardsigmoid_backward.grad_input(grad, x, grad_input=out),
        "hardswish": lambda: aten.hardswish_backward.out(grad, x, out=out),
        "silu": lambda: aten.silu_backward.grad_input(grad, x, grad_input=out),
        "gelu": lambda: aten.gelu_backward.grad_input(grad, x, grad_input=out),
        "gelu_tanh": lambda: aten.gelu_backward.grad_input(grad, x, approximate="tanh", grad_input=out),
        "mish": lambda: aten.mish_backward(grad, x),
        "softmax": lambda: aten._softmax_backward_data.out(grad, y, -1, x.dtype, grad_input=out),
        "log_softmax": lambda: aten._log_softmax_backward_data.out(grad, y, -1, x.dtype, out=out),
    }
    forward[activation]()
    return forward[activation], backward.get(activation)


def ratio(activation, elements, backward):
    """How many times as long PyTorch takes; NaN where it has no function of its own that writes to a given place."""
    x, saved, grad, out = arrays(activation, elements)
    theirs = peer(activation, x, grad)[backward]
    if theirs is None:
        return float("nan")
    if backward:
        ours, other = seconds(lambda: kernels.activation_backward(saved, grad, out, activation), theirs)
    else:
        ours, other = seconds(lambda: kernels.activation_forward(x, out, activation), theirs)
    return three_digits(other / ours)


@asked_for
class AgainstPyTorch:
    params = (COMPARED, SIZES)
    param_names = ("activation", "elements")
    unit = "times as fast"

    def setup(self, activation, elements):
        needs("torch")

    def track_function(self, activation, elements):
        return ratio(activation, elements, backward=False)

    def track_derivative(self, activation, elements):
        return ratio(activation, elements, backward=True)


if __name__ == "__main__":
    print("PyTorch's time / fastfc's: forward and derivative of", ", ".join(map(str, SIZES)), "elements, float32")
    for name in COMPARED:
        row = [f"{ratio(name, n, back):8.2f}" for back in (False, True) for n in SIZES]
        print(f"{name:<12}", *row, flush=True)
