"""A user's typed program, in which type checkers must find nothing: see test_editors.py. It is not run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastfc as fc
import fastfc.kernels
from fastfc import kernels, metrics
from fastfc.kernels import dense_forward
from fastfc.sklearn import MLPClassifier, MLPRegressor
from fastfc.training.callbacks import Run

images, labels = fc.load_digits()

layer = fc.Linear(2, 2, seed=0)
layer.weight = [[0.5, -1.0], [1.5, 0.0]]
y = layer.forward(np.array([[1, 2]], dtype=np.float32))
grad_input: NDArray[np.float32] = layer.backward(y)
layer.update_parameters(lr=0.1)
print(layer.weight_grad.shape, layer.bias.shape if layer.bias is not None else ())

net = fc.Sequential([fc.Linear(64, 32, seed=1), fc.Tanh(), fc.Dropout(0.1), fc.Linear(32, 10, seed=2)])
print(net[0].weight.shape, len(net), [str(each) for each in net])
net[0].weight[...] *= 2
net[0].weight = np.zeros((64, 32))
for each in net:
    print(each.frozen, each.name)
net[0].frozen = True
mlp = fc.MLP([64, 128, 10], activation="relu", seed=0)

loss, optimizer = (
    fc.CrossEntropyLoss(label_smoothing=0.1),
    fc.AdamW(1e-3, schedule=fc.CosineAnnealingLR(T_max=30, unit="epoch"), clip_norm=1.0),
)
value, grad_output = loss(mlp.forward(images[:32]), labels[:32])
mlp.backward(grad_output)
optimizer.step(mlp)
after: float = mlp.train_step(images[:32], labels[:32], loss, optimizer)
history = mlp.fit(
    images,
    labels,
    loss=loss,
    optimizer=optimizer,
    epochs=2,
    batch_size=32,
    validation_data=(images[:100], labels[:100]),
    metrics=["accuracy", fc.TopK(3)],
    callbacks=[fc.EarlyStopping("val_loss", patience=5)],
    seed=0,
)
print(history.loss[-1], history["val_accuracy"].max(), len(history), history.names())
prediction = mlp.predict(images)
accuracy = float((prediction.argmax(axis=1) == labels).mean())
print(mlp.evaluate(images, labels, loss), mlp.predict_one(images[0]).shape, mlp.summary(), accuracy)
mlp.params *= 0.99
mlp.save(Path("digits.safetensors"))
again = fc.load("digits.safetensors")
print(again.predict(images[:2]).shape)

x = fc.Input(17)
h = fc.ReLU()(fc.Linear(17, 64)(x))
h = h + 0.5 * h * h
both = fc.Graph(x, [fc.Linear(64, 6)(h), fc.Linear(64, 1)(fc.concatenate([h]))])
policy, worth = both.predict(np.ones((5, 17)))
print(policy.shape, worth.shape)

out = np.empty((5, 3), np.float32)
fc.kernels.dense_forward(np.ones((5, 7)), np.ones((7, 3)), np.zeros(3), out, "relu")
kernels.dense_forward(np.ones((5, 7)), np.ones((7, 3)), np.zeros(3), out)
dense_forward(np.ones((5, 7)), np.ones((7, 3)), np.zeros(3), out)
fastfc.kernels.exp(out, out)
print(fc.MSELoss()(out, np.zeros((5, 3)))[0], metrics.accuracy(labels, prediction))

classifier = MLPClassifier((64,), activation="relu", random_state=0, max_iter=5).fit(images, labels)
print(classifier.predict(images[:2]), classifier.score(images, labels), classifier.network_.summary())
print(MLPRegressor(hidden_layer_sizes=(8,), max_iter=5).fit(images, images[:, 0]).predict(images[:2]))
print(bool(fc.check_gradients(fc.MLP([3, 2]), np.ones((2, 3)))))


class Stop(fc.Callback):
    """Ends a training."""

    def on_epoch(self, run: Run) -> None:
        if run.history.loss[-1] < 0.1:
            run.stop()


def fitted(loss: Any, optimizer: Any) -> float:
    regression = fc.MLP([3, 8, 1], activation=fc.GELU(), init="he")
    x, y = np.ones((20, 3)), np.ones((20, 1))
    history = regression.fit(x, y, loss=loss, optimizer=optimizer, epochs=2)
    history.plot(title="Training").savefig("training.png")
    return float(history["loss"][-1])


for some_loss in (fc.MSELoss(), fc.HuberLoss(2.0), fc.L1Loss(), fc.QuantileLoss(0.9)):
    for some_optimizer in (fc.SGD(0.1, momentum=0.9), fc.Adam(1e-3, groups={"*.bias": {"lr": 1e-2}}), fc.LBFGS()):
        print(fitted(some_loss, some_optimizer))
print(fc.metrics.f1(labels, prediction.argmax(axis=1)), fc.Accuracy(), fc.F1("macro"))
