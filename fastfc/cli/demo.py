"""`fastfc demo`: a digit classifier trained with NumPy and with fastfc, from the same start."""

import copy
import time

import numpy as np

from fastfc.benchmark.numpy_network import BATCH_SIZE, LR, MOMENTUM, SIZES, reference_forward, reference_step
from fastfc.data.datasets import load_digits
from fastfc.losses.classification import CrossEntropyLoss
from fastfc.models.sequential import MLP
from fastfc.nn.linear import Linear
from fastfc.optim.first_order import SGD
from fastfc.training.history import History
from fastfc.training.progress import Progress, can_show
from fastfc.validation import plural


def reference_fit(x, y, layers, epochs, seed):
    """The same epochs, orders and batches as `net.fit`."""
    velocities = [(np.zeros_like(weight), np.zeros_like(bias)) for weight, bias in layers]
    rng = np.random.default_rng(seed)
    history = History()
    line = Progress(can_show(), epochs, len(x))
    for epoch in range(epochs):
        start, total, done = time.perf_counter(), 0.0, 0
        order = rng.permutation(len(x))
        for first in range(0, len(x), BATCH_SIZE):
            chosen = order[first : first + BATCH_SIZE]
            total += len(chosen) * reference_step(x[chosen], y[chosen], layers, velocities)
            done += len(chosen)
            line.show(epoch, done, total / done, history)
        history.rows.append({"loss": total / done, "seconds": time.perf_counter() - start})
    line.close()
    return history


def compile_seconds(net, x, y):
    """How long the kernels take to be compiled, or read from the cache, by an epoch of a copy."""
    start = time.perf_counter()
    net = copy.deepcopy(net)
    net.fit(x, y, loss=CrossEntropyLoss(), optimizer=SGD(lr=LR, momentum=MOMENTUM))
    net.predict(x)
    return time.perf_counter() - start


def demo(epochs, seed, plot_file):
    """Train twice and print what comes out."""
    images, labels = load_digits()
    order = np.random.default_rng(0).permutation(len(images))
    held_out, rest = order[: len(order) // 5], order[len(order) // 5 :]
    x, y, x_test, y_test = images[rest], labels[rest], images[held_out], labels[held_out]

    net = MLP(SIZES, seed=seed)
    layers = [(layer.weight.copy(), layer.bias.copy()) for layer in net if isinstance(layer, Linear)]
    name = "-".join(map(str, SIZES))
    print(
        f"Handwritten digits, 8 x 8 pixels: {len(x):,} to learn from, {len(x_test)} held out.\n"
        f"Network {name}, ReLU, softmax cross-entropy; SGD with lr {LR}, momentum {MOMENTUM}, "
        f"batches of {BATCH_SIZE}."
    )
    seconds = compile_seconds(net, x[:BATCH_SIZE], y[:BATCH_SIZE])
    print(f"Kernels compiled, or read from the cache, in {seconds:.2f} s (not part of the times below).")

    print("\nTraining with the NumPy reference ...", flush=True)
    theirs = reference_fit(x, y, layers, epochs, seed)
    print("Training with fastfc ...", flush=True)
    ours = net.fit(
        x,
        y,
        loss=CrossEntropyLoss(),
        optimizer=SGD(lr=LR, momentum=MOMENTUM),
        epochs=epochs,
        batch_size=BATCH_SIZE,
        seed=seed,
        progress=can_show(),
    )

    predictions = net.predict(x_test).argmax(axis=1)
    accuracy = np.mean(predictions == y_test)
    if plot_file:
        from fastfc.plots import save_plot

        title = f"fastfc demo: {name} network, {accuracy:.1%} of {len(x_test)} held-out digits right"
        losses = {"NumPy reference": theirs.loss, "fastfc": ours.loss}
        save_plot(plot_file, title, losses, x_test, y_test, predictions)
    print("\nepoch  loss NumPy  loss fastfc")
    for epoch, (a, b) in enumerate(zip(theirs.loss, ours.loss, strict=True), 1):
        print(f"{epoch:5}  {a:10.6f}  {b:11.6f}")
    difference = max(abs(a - b) for a, b in zip(theirs.loss, ours.loss, strict=True))
    accuracy_numpy = np.mean(reference_forward(x_test, layers)[-1].argmax(axis=1) == y_test)
    seconds_numpy, seconds = sum(theirs.seconds), sum(ours.seconds)
    print(f"\nlargest difference of the losses: {difference:.1e}")
    print(f"held-out digits right: NumPy {accuracy_numpy:.1%}, fastfc {accuracy:.1%}")
    print(
        f"time of {plural(epochs, 'epoch')}: NumPy {seconds_numpy:.3f} s, fastfc {seconds:.3f} s, "
        f"{seconds_numpy / seconds:.1f} times as fast"
    )
    if plot_file:
        print(f"wrote {plot_file}")
