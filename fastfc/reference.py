"""The naive NumPy reference: the textbook formula of every kernel in the fewest lines.

Same names and signatures as `fastfc.kernels` (but for `n_threads`: NumPy decides on its own), so that the
two can be swapped and compared. Samples are rows: x is (n, i), weight (i, o), bias (o,), grad_output (n, o).
"""

import math
from collections.abc import Callable

import numpy as np


def relu(z):
    return np.maximum(z, 0)


def sigmoid(z):
    e = np.exp(-np.abs(z))  # of −|z|, which cannot overflow
    return np.where(z >= 0, 1, e) / (1 + e)


def softmax(z):
    e = np.exp(z - z.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def log_softmax(z):
    return z - z.max(axis=-1, keepdims=True) - np.log(np.exp(z - z.max(axis=-1, keepdims=True)).sum(-1, keepdims=True))


erf_of, erfc_of = (np.vectorize(f, otypes=[float]) for f in (math.erf, math.erfc))


def normal(z):
    """The normal distribution."""
    return erfc_of(-z / math.sqrt(2)) / 2


def density(z):
    return np.exp(-z * z / 2) / math.sqrt(2 * math.pi)


def softplus(z):
    return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))


def elu(z, a=1.0, b=1.0):
    return np.where(z > 0, z, a * np.expm1(b * np.minimum(z, 0)))


def elu_derivative(z, a=1.0, b=1.0):
    return np.where(z > 0, 1, a * b * np.exp(b * np.minimum(z, 0)))


ALPHA, SCALE = 1.6732632423543772, 1.0507009873554805  # of SELU


def hardsigmoid(z):
    return np.clip(z + 3, 0, 6) / 6


def gelu_slope(z):
    """What the tanh form of GELU takes the sigmoid of."""
    return 2 * math.sqrt(2 / math.pi) * (z + 0.044715 * z**3)


def mish_gate(z):
    return np.tanh(softplus(z))


# f(z), for functions with numbers in their formula also f(z, a, b)
ACTIVATIONS: dict[str, Callable] = {
    "identity": lambda z: z,
    "relu": relu,
    "leaky_relu": lambda z, a=0.01: np.where(z > 0, z, a * z),
    "sigmoid": sigmoid,
    "log_sigmoid": lambda z: -softplus(-z),
    "tanh": np.tanh,
    "hardtanh": lambda z, a=-1.0, b=1.0: np.clip(z, a, b),
    "relu6": lambda z: np.clip(z, 0, 6),
    "elu": elu,
    "selu": lambda z: SCALE * elu(z, ALPHA),
    "celu": elu,
    "softplus": lambda z, a=1.0, b=20.0: np.where(a * z > b, z, softplus(a * z) / a),
    "softsign": lambda z: z / (1 + np.abs(z)),
    "hardsigmoid": hardsigmoid,
    "hardswish": lambda z: z * hardsigmoid(z),
    "silu": lambda z: z * sigmoid(z),
    "gelu": lambda z: z * normal(z),
    "gelu_tanh": lambda z: z * sigmoid(gelu_slope(z)),
    "mish": lambda z: z * mish_gate(z),
    "sin": np.sin,
    "cos": np.cos,
    "smooth_clip": lambda z, a=3.0: z / np.sqrt(1 + (z / a) ** 2),
    "softmax": softmax,
    "log_softmax": log_softmax,
}

# g ⊙ f′, written with y = f(z), or with z where kernels.activations.of_input says so
DERIVATIVES: dict[str, Callable] = {
    "identity": lambda y, g: g,
    "relu": lambda y, g: g * (y > 0),
    "leaky_relu": lambda y, g, a=0.01: g * np.where(y > 0, 1, a),
    "sigmoid": lambda y, g: g * y * (1 - y),
    "log_sigmoid": lambda y, g: g * -np.expm1(y),
    "tanh": lambda y, g: g * (1 - y * y),
    "hardtanh": lambda y, g, a=-1.0, b=1.0: g * ((a < y) & (y < b)),
    "relu6": lambda y, g: g * ((y > 0) & (y < 6)),
    "elu": lambda z, g, a=1.0, b=1.0: g * elu_derivative(z, a, b),
    "selu": lambda z, g: g * SCALE * elu_derivative(z, np.where(z > 0, 1, ALPHA)),
    "celu": lambda z, g, a=1.0, b=1.0: g * elu_derivative(z, a, b),
    "softplus": lambda z, g, a=1.0, b=20.0: g * np.where(a * z > b, 1, sigmoid(a * z)),
    "softsign": lambda z, g: g / (1 + np.abs(z)) ** 2,
    "hardsigmoid": lambda z, g: g * (np.abs(z) < 3) / 6,
    "hardswish": lambda z, g: g * np.where(z >= 3, 1, (z > -3) * (z / 3 + 0.5)),
    "silu": lambda z, g: g * sigmoid(z) * (1 + z * sigmoid(-z)),
    "gelu": lambda z, g: g * (normal(z) + z * density(z)),
    "gelu_tanh": lambda z, g: (
        g
        * (
            sigmoid(gelu_slope(z))
            + z
            * sigmoid(gelu_slope(z))
            * sigmoid(-gelu_slope(z))
            * (2 * math.sqrt(2 / math.pi) * (1 + 3 * 0.044715 * z * z))
        )
    ),
    "mish": lambda z, g: g * (mish_gate(z) + z * sigmoid(z) * (1 - mish_gate(z) ** 2)),
    "sin": lambda z, g: g * np.cos(z),
    "cos": lambda z, g: g * -np.sin(z),
    "smooth_clip": lambda z, g, a=3.0: g * (1 + (z / a) ** 2) ** -1.5,
    "softmax": lambda y, g: y * (g - (g * y).sum(axis=-1, keepdims=True)),
    "log_softmax": lambda y, g: g - np.exp(y) * g.sum(axis=-1, keepdims=True),
}


def dense_forward(x, weight, bias, out, activation="identity"):
    out[...] = ACTIVATIONS[activation](x @ weight + bias)


def dense_weight_grad(x, grad_output, out):
    out[...] = x.T @ grad_output


def dense_add_weight_grad(x, grad_output, out):
    out += x.T @ grad_output


def dense_bias_grad(grad_output, out):
    out[...] = grad_output.sum(axis=0)


def dense_add_bias_grad(grad_output, out):
    out += grad_output.sum(axis=0)


def dense_input_grad(grad_output, weight, out):
    out[...] = grad_output @ weight.T


def exp(x, out):
    out[...] = np.exp(x)


def expm1(x, out):
    out[...] = np.expm1(x)


def log(x, out):
    out[...] = np.log(x)


def log1p(x, out):
    out[...] = np.log1p(x)


def tanh(x, out):
    out[...] = np.tanh(x)


def erf(x, out):
    out[...] = erf_of(x)


def sin(x, out):
    out[...] = np.sin(x)


def cos(x, out):
    out[...] = np.cos(x)


def activation_forward(x, out, activation):
    out[...] = ACTIVATIONS[activation](x)


def activation_backward(output, grad_output, out, activation):
    out[...] = DERIVATIVES[activation](output, grad_output)


def normalised(x, eps, axis=-1, centered=True):
    """x̂ and 1 / √(σ² + ε), of rows, or of columns with axis 0; not centered: with mean(x²) for σ²."""
    d = x - x.mean(axis=axis, keepdims=True) if centered else x
    factor = 1 / np.sqrt((d**2).mean(axis=axis, keepdims=True) + eps)
    return d * factor, factor


def layer_norm(x, weight, bias, eps):
    return normalised(x, eps)[0] * weight + bias


def rms_norm(x, weight, eps):
    return normalised(x, eps, centered=False)[0] * weight


def batch_norm(x, weight, bias, eps):
    return normalised(x, eps, axis=0)[0] * weight + bias


def norm_backward(x, weight, grad_output, eps, axis=-1, centered=True):
    """dL/dx, dL/dγ and dL/dβ of the norm along this axis."""
    (h, factor), g = normalised(x, eps, axis, centered), weight * grad_output
    first = g.mean(axis=axis, keepdims=True) if centered else 0
    grad_input = factor * (g - first - h * (g * h).mean(axis=axis, keepdims=True))
    return grad_input, (grad_output * h).sum(axis=0), grad_output.sum(axis=0)


def standardize(x, mean, scale):
    return (x - mean) / scale


def robust_scale(x, center, scale, limit=3.0):
    return ACTIVATIONS["smooth_clip"]((x - center) / scale, limit)


def clamp(x, low, high):
    """y = min(max(x, low), high)"""
    return np.minimum(np.maximum(x, low), high)


def quantile_normal(x, knots, values):
    """Polygons through (knots, values), constant beyond their ends."""
    return np.stack([np.interp(x[:, j], knots[j], values[j]) for j in range(x.shape[1])], axis=1)


def scale(x, weight):
    return x * weight


def batch_ensemble(x, weight, input_scale, output_scale, bias):
    """y_m = s_m ⊙ ((r_m ⊙ x_m) W) + b_m of members side by side; x has as many columns as r, or those of one member."""
    members, member_in = input_scale.shape
    y = (x.reshape(len(x), -1, member_in) * input_scale) @ weight * output_scale + bias
    return y.reshape(len(x), members * weight.shape[1])


def linear_ensemble(x, weight, bias):
    """y_m = x_m W_m + b_m of members side by side; x has the columns of all, or those of one member."""
    members, member_in, member_out = weight.shape
    x = np.broadcast_to(x.reshape(len(x), -1, member_in), (len(x), members, member_in))
    return (np.einsum("nmi,mio->nmo", x, weight) + bias).reshape(len(x), members * member_out)


def member_mean(x, members, activation="identity"):
    """The mean of f(x_m) of members side by side."""
    rows = ACTIVATIONS[activation](x.reshape(len(x) * members, -1))
    return rows.reshape(len(x), members, -1).mean(axis=1)


def p_relu(x, weight):
    return np.where(x > 0, x, weight * x)


def parametric(x, weight, activation):
    return x + weight * (ACTIVATIONS[activation](x) - x)


def cosines(x, frequency, phase):
    """(n, features, k): functions of each number."""
    return np.cos(2 * np.pi * x[:, :, None] * frequency + phase)


def waves(x, frequency):
    angle = 2 * np.pi * x[:, :, None] * frequency
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=2)


def pieces(x, edges):
    width, last = np.diff(edges), edges[:, 1:] == edges[:, -1:]
    place = (x[:, :, None] - edges[:, :-1]) / np.where(width > 0, width, np.inf)
    low = np.where(np.arange(width.shape[1]) == 0, -np.inf, 0)
    return np.clip(place, low, np.where(last, np.inf, 1))


def numeric_embedding(functions, weight, bias):
    """Sums of the functions of each feature, side by side; a weight of two axes is that of all features."""
    return (np.einsum("njk,jkd->njd" if weight.ndim == 3 else "njk,kd->njd", functions, weight) + bias).reshape(
        len(functions), -1
    )


def embedding(x, weight):
    return weight[x.astype(int)].reshape(len(x), -1)


def embedding_weight_grad(x, weight, grad_output):
    grad = np.zeros_like(weight)
    np.add.at(grad, x.astype(int).ravel(), grad_output.reshape(-1, weight.shape[1]))
    return grad


def dropout_mask(shape, p, seed, step, draw):
    """What x is multiplied by, in the forward of this number, by step number `step` of a network's program."""
    golden, mask32 = 0x9E3779B97F4A7C15, (1 << 32) - 1

    def mix(x):
        x &= (1 << 64) - 1
        x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & ((1 << 64) - 1)
        x = (x ^ (x >> 27)) * 0x94D049BB133111EB & ((1 << 64) - 1)
        return x ^ (x >> 31)

    def mix32(x):
        for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
            x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor) & np.uint64(mask32)
        return x ^ (x >> np.uint64(15))

    key = mix(mix(mix(seed + golden) + step * golden) + draw * golden)
    places = np.arange(np.prod(shape), dtype=np.uint64) + np.uint64(key & mask32)
    bits = mix32(mix32(places & np.uint64(mask32)) ^ np.uint64(key >> 32))
    kept = bits < min(round((1 - p) * 2**32), mask32)
    return kept.reshape(shape) / (1 - p) if p < 1 else np.zeros(shape)


def mean_of(values, gradients, out):
    """A mean and its gradient, from the losses of elements or rows and the gradient of their sum."""
    out[...] = gradients / values.size
    return float(np.mean(values))


def mse_loss(prediction, target, out):
    error = prediction - target
    return mean_of(error**2, 2 * error, out)


def l1_loss(prediction, target, out):
    error = prediction - target
    return mean_of(np.abs(error), np.sign(error), out)


def huber_loss(prediction, target, out, delta=1.0):
    error = prediction - target
    size = np.abs(error)
    values = np.where(size <= delta, error**2 / 2, delta * (size - delta / 2))
    return mean_of(values, np.clip(error, -delta, delta), out)


def smooth_l1_loss(prediction, target, out, beta=1.0):
    value = huber_loss(prediction, target, out, beta)
    out /= beta
    return value / beta


def quantile_loss(prediction, target, out, quantile=0.5):
    error = target - prediction
    return mean_of(
        np.maximum(quantile * error, (quantile - 1) * error),
        np.where(error > 0, -quantile, np.where(error < 0, 1 - quantile, 0)),
        out,
    )


def poisson_nll_loss(prediction, target, out, log_input=True, full=False, eps=1e-8):
    p, t = prediction, target
    values, gradients = (
        (np.exp(p) - t * p, np.exp(p) - t) if log_input else (p - t * np.log(p + eps), 1 - t / (p + eps))
    )
    large = np.maximum(t, 1)
    stirling = np.where(t > 1, t * np.log(large) - t + np.log(2 * np.pi * large) / 2, 0) if full else 0
    return mean_of(values + stirling, gradients, out)


def kl_div_loss(prediction, target, out, log_target=False):
    t, log_t = (np.exp(target), target) if log_target else (target, np.log(np.where(target == 0, 1, target)))
    return mean_of(t * (log_t - prediction), -t, out)


def bce_loss(prediction, target, out):
    p, t = prediction, target
    with np.errstate(divide="ignore"):
        values = -t * np.maximum(np.log(p), -100) - (1 - t) * np.maximum(np.log1p(-p), -100)
    return mean_of(values, (p - t) / np.maximum(p * (1 - p), 1e-12), out)


def bce_with_logits_loss(prediction, target, out):
    z = prediction
    return mean_of(np.maximum(z, 0) - z * target + np.log1p(np.exp(-np.abs(z))), sigmoid(z) - target, out)


def gaussian_nll_loss(prediction, target, out, full=False, eps=1e-6):
    p, v = np.split(prediction, 2, axis=1)
    error, v = p - target, np.maximum(v, eps)
    values = (np.log(v) + error**2 / v + (np.log(2 * np.pi) if full else 0)) / 2
    return mean_of(values, np.hstack([error / v, (1 / v - (error / v) ** 2) / 2]), out)


def cross_entropy_loss(prediction, target, out):
    y = np.eye(prediction.shape[1])[target] if target.ndim == 1 else target
    p, z = softmax(prediction), prediction - prediction.max(axis=1, keepdims=True)
    values = (y * (np.log(np.exp(z).sum(axis=1, keepdims=True)) - z)).sum(axis=1)
    return mean_of(values, p * y.sum(axis=1, keepdims=True) - y, out)


def member_loss(prediction, target, out, members, loss=cross_entropy_loss):
    """The mean of the losses of members whose predictions stand side by side."""
    parts = np.split(prediction, members, axis=1)
    grads = [np.empty_like(part) for part in parts]
    values = [loss(part, target, grad) for part, grad in zip(parts, grads, strict=True)]
    out[...] = np.hstack(grads) / members
    return float(np.mean(values))


def nll_loss(prediction, target, out):
    y = np.eye(prediction.shape[1])[target]
    return mean_of(-(y * prediction).sum(axis=1), -y, out)


def multi_margin_loss(prediction, target, out, p=1, margin=1.0):
    y, rows = np.eye(prediction.shape[1]), np.arange(len(prediction))
    excess = np.maximum(margin - prediction[rows, target, None] + prediction, 0) * (1 - y[target])
    slope = p * excess ** (p - 1) * (excess > 0)
    values = (excess**p).sum(axis=1) / prediction.shape[1]
    return mean_of(values, (slope - y[target] * slope.sum(axis=1, keepdims=True)) / prediction.shape[1], out)


def sgd(params, grads, velocity, lr, momentum, weight_decay):
    step = grads + weight_decay * params
    if momentum:
        velocity *= momentum
        velocity += step
        step = velocity
    params -= lr * step


def adam(params, grads, m, v, t, lr, beta1, beta2, eps, weight_decay, decoupled=False, largest=None):
    """Adam's step number t; AdamW's if decoupled; amsgrad's if given the largest v so far."""
    if decoupled:
        params *= 1 - lr * weight_decay
    else:
        grads = grads + weight_decay * params
    m[...] = beta1 * m + (1 - beta1) * grads
    v[...] = beta2 * v + (1 - beta2) * grads**2
    if largest is not None:
        v = np.maximum(largest, v, out=largest)
    params -= lr * m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + eps)


def nadam(params, grads, m, v, t, product, lr, beta1, beta2, eps, weight_decay, momentum_decay, decoupled=False):
    """NAdam's step number t; product is μ₁ … μₜ₋₁, and μ₁ … μₜ is returned."""
    if decoupled:
        params *= 1 - lr * weight_decay
    else:
        grads = grads + weight_decay * params
    now, after = (beta1 * (1 - 0.5 * 0.96 ** (s * momentum_decay)) for s in (t, t + 1))
    product *= now
    m[...] = beta1 * m + (1 - beta1) * grads
    v[...] = beta2 * v + (1 - beta2) * grads**2
    mean = after / (1 - product * after) * m + (1 - now) / (1 - product) * grads
    params -= lr * mean / (np.sqrt(v / (1 - beta2**t)) + eps)
    return product


def rmsprop(params, grads, v, b, lr, alpha, eps, weight_decay, momentum, mean=None):
    """RMSprop's step; the centered form if given the mean of the gradients: v is then their variance."""
    grads = grads + weight_decay * params
    if mean is None:
        v[...] = alpha * v + (1 - alpha) * grads**2
    else:
        v[...] = alpha * (v + (1 - alpha) * (grads - mean) ** 2)
        mean[...] = alpha * mean + (1 - alpha) * grads
    b *= momentum
    b += grads / (np.sqrt(v) + eps)
    params -= lr * b


def adagrad(params, grads, v, t, lr, lr_decay, weight_decay, eps):
    grads = grads + weight_decay * params
    v += grads**2
    params -= lr / (1 + (t - 1) * lr_decay) * grads / (np.sqrt(v) + eps)


def lion(params, grads, m, lr, beta1, beta2, weight_decay):
    params *= 1 - lr * weight_decay
    params -= lr * np.sign(beta1 * m + (1 - beta1) * grads)
    m[...] = beta2 * m + (1 - beta2) * grads


def lbfgs_direction(grad, steps, changes):
    """−H ∇L, with H from pairs of steps and the changes of the gradient along them, the latest last."""
    inverse, one = np.eye(grad.size), np.eye(grad.size)
    if steps:
        inverse *= (steps[-1] @ changes[-1]) / (changes[-1] @ changes[-1])
    for s, y in zip(steps, changes, strict=True):
        v = one - np.outer(y, s) / (s @ y)
        inverse = v.T @ inverse @ v + np.outer(s, s) / (s @ y)
    return -inverse @ grad


def levenberg_marquardt(params, jacobian, residuals, damping):
    """One step, if it makes the sum of squares less."""
    params -= np.linalg.solve(jacobian.T @ jacobian + damping * np.eye(params.size), jacobian.T @ residuals)


def penalty_grad(params, l1, l2):
    """Of l1 |w|₁ + l2/2 |w|²."""
    return l1 * np.sign(params) + l2 * params


def clip_grad_norm(grads, clip_norm):
    return grads * np.minimum(1, clip_norm / (np.sqrt(np.sum(grads**2)) + 1e-6))


def clip_grad_value(grads, clip_value):
    return np.clip(grads, -clip_value, clip_value)


def max_norm(weight, norm):
    weight *= np.minimum(1, norm / np.maximum(np.sqrt(np.sum(weight**2, axis=0)), norm))


def average(mean, params, t, decay):
    mean[...] = params if t == 1 else decay * mean + (1 - decay) * params


def anneal(start, end, share, linear=False):
    return start + (end - start) * (share if linear else (1 - np.cos(np.pi * share)) / 2)


def warm_restarts(lr, t, T_0, T_mult, eta_min):
    length = T_0
    while t >= length:
        t, length = t - length, length * T_mult
    return anneal(lr, eta_min, t / length)


def one_cycle(lr, t, total_steps, pct_start, linear, div_factor, final_div_factor, three_phase):
    top, end = pct_start * total_steps - 1, total_steps - 1
    first, last = lr / div_factor, lr / div_factor / final_div_factor
    times, rates = (
        ([0, top, 2 * top, end], [first, lr, first, last]) if three_phase else ([0, top, end], [first, lr, last])
    )
    for begin, stop, start, goal in zip(times, times[1:], rates, rates[1:], strict=False):
        if t < stop:
            return anneal(start, goal, (t - begin) / (stop - begin), linear)
    return last


# the learning rate after t updates
SCHEDULES: dict[str, Callable] = {
    "StepLR": lambda lr, t, step_size, gamma: lr * gamma ** (t // step_size),
    "MultiStepLR": lambda lr, t, milestones, gamma: lr * gamma ** sum(m <= t for m in milestones),
    "ExponentialLR": lambda lr, t, gamma: lr * gamma**t,
    "CosineAnnealingLR": lambda lr, t, T_max, eta_min: anneal(lr, eta_min, t / T_max),
    "CosineAnnealingWarmRestarts": warm_restarts,
    "OneCycleLR": one_cycle,
    "LinearLR": lambda lr, t, total, start, end: lr * (start + (end - start) * min(t / total, 1)),
    "FlatCosineLR": lambda lr, t, total: lr if t < total / 2 else lr * (1 + np.cos(np.pi * (2 * t / total - 1))) / 2,
    "CosLogLR": lambda lr, t, total, c: lr * (1 - np.cos(2 * np.pi * np.log2(1 + (2**c - 1) * t / total))) / 2,
    "LinearWarmup": lambda lr, t, n, start, after: lr * (start + (1 - start) * t / n) if t < n else after(t - n),
}


# the variance of a weight (i, o) drawn by an initializer with its own numbers
VARIANCES: dict[str, Callable] = {
    "Constant": lambda i, o: 0,
    "Zeros": lambda i, o: 0,
    "Normal": lambda i, o: 1,
    "Uniform": lambda i, o: 1 / 12,
    "TruncatedNormal": lambda i, o: 1 - 4 * density(2) / (2 * normal(2) - 1),
    "KaimingNormal": lambda i, o: 2 / i,
    "KaimingUniform": lambda i, o: 2 / i,
    "XavierNormal": lambda i, o: 2 / (i + o),
    "XavierUniform": lambda i, o: 2 / (i + o),
    "LeCunNormal": lambda i, o: 1 / i,
    "LeCunUniform": lambda i, o: 1 / i,
    "Orthogonal": lambda i, o: 1 / max(i, o),
}

# of targets and outputs; f1 and roc_auc of two classes by one output
METRICS: dict[str, Callable] = {
    "accuracy": lambda y, p: np.mean(p.argmax(axis=1) == y),
    "top_k_accuracy": lambda y, p, k=2: np.mean((np.argsort(p, axis=1)[:, -k:] == y[:, None]).any(axis=1)),
    "f1": lambda y, p: 2 * np.sum(y * (p > 0)) / (np.sum(y) + np.sum(p > 0)),
    "roc_auc": lambda y, p: np.mean((np.sign(p[y == 1, None] - p[y == 0]) + 1) / 2),  # of all pairs
    "mae": lambda y, p: np.mean(np.abs(y - p)),
    "rmse": lambda y, p: np.mean(np.sqrt(np.mean((y - p) ** 2, axis=0))),
    "r2": lambda y, p: np.mean(1 - np.sum((y - p) ** 2, axis=0) / np.sum((y - y.mean(axis=0)) ** 2, axis=0)),
}


def train_step(x, target, weights, biases, lr, activation="relu", loss=cross_entropy_loss):
    """One step of gradient descent on a network with hidden layers of this activation.

    weights and biases are lists of arrays, one per layer, updated in place; returns the loss before.
    """
    outputs = [x]
    for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
        outputs.append(ACTIVATIONS[activation](outputs[-1] @ weight + bias))
    prediction = outputs[-1] @ weights[-1] + biases[-1]

    grad = np.empty_like(prediction)
    value = loss(prediction, target, grad)
    for layer in reversed(range(len(weights))):
        weight_grad, bias_grad = outputs[layer].T @ grad, grad.sum(axis=0)
        if layer > 0:
            grad = DERIVATIVES[activation](outputs[layer], grad @ weights[layer].T)
        weights[layer] -= lr * weight_grad
        biases[layer] -= lr * bias_grad
    return value
