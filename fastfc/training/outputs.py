"""What a network's outputs are, as its loss and its last layer say, so that metrics need not guess.

The loss says what it takes: logits, scores, probabilities, their logarithms, or numbers in the unit of the targets. A
last layer that gives probabilities or their logarithms, such as Sigmoid, has the last word where the loss says
something else: of BCEWithLogitsLoss behind a Sigmoid the outputs are still probabilities.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfc import losses
from fastfc.metrics import Metric, get_metric, softmax
from fastfc.nn.activations import Hardsigmoid, LogSigmoid, LogSoftmax, Sigmoid, Softmax
from fastfc.nn.batch_ensemble import MemberMean

if TYPE_CHECKING:
    from fastfc.nn.container import Container
    from fastfc.nn.layer import Layer

LOGITS, SCORES, PROBABILITIES, LOGARITHMS, NUMBERS, UNKNOWN = range(6)
# What the losses take; a test finds losses that are missing here.
TAKEN = {
    losses.MSELoss: NUMBERS,
    losses.L1Loss: NUMBERS,
    losses.HuberLoss: NUMBERS,
    losses.SmoothL1Loss: NUMBERS,
    losses.QuantileLoss: NUMBERS,
    losses.GaussianNLLLoss: NUMBERS,
    losses.PoissonNLLLoss: NUMBERS,
    losses.CrossEntropyLoss: LOGITS,
    losses.BCEWithLogitsLoss: LOGITS,
    losses.MultiMarginLoss: SCORES,
    losses.BCELoss: PROBABILITIES,
    losses.NLLLoss: LOGARITHMS,
    losses.KLDivLoss: LOGARITHMS,
    losses.CustomLoss: UNKNOWN,
}
GIVEN = {
    Sigmoid: PROBABILITIES,
    Hardsigmoid: PROBABILITIES,
    Softmax: PROBABILITIES,
    LogSigmoid: LOGARITHMS,
    LogSoftmax: LOGARITHMS,
}
# More than this says that a class is true, or a label.
THRESHOLDS = {LOGITS: 0.0, SCORES: 0.0, PROBABILITIES: 0.5, LOGARITHMS: -math.log(2), NUMBERS: 0.5, UNKNOWN: None}


class Outputs(NamedTuple):
    """What metrics have to know of an output of a network.

    Attributes
    ----------
    kind : int
        One of LOGITS, SCORES, …
    loss : Loss
    labels : bool
        Whether several columns are labels one by one, and not classes of which one is true.
    members : int
        How many predictions stand side by side, see MemberLoss; `loss` is that of one of them.
    """

    kind: int
    loss: losses.Loss
    labels: bool
    members: int = 1

    @property
    def threshold(self) -> float | None:
        """Where one column, or each label, begins to say yes; None if that is not known."""
        if isinstance(self.loss, losses.PoissonNLLLoss) and self.loss.log_input:
            return THRESHOLDS[LOGARITHMS]
        return THRESHOLDS[self.kind]

    @property
    def from_logits(self) -> bool | None:
        """Whether softmax makes probabilities of the columns; None if that is not known."""
        return None if self.kind == UNKNOWN else self.kind in (LOGITS, SCORES, LOGARITHMS)

    def scores(self, output: NDArray[Any]) -> NDArray[Any]:
        """What rises with the probability of a class or a label, a column of each."""
        if isinstance(self.loss, losses.GaussianNLLLoss):  # means, then variances
            return output[:, : output.shape[1] // 2]
        return output

    def numbers(self, output: NDArray[Any]) -> NDArray[Any]:
        """Estimates of the targets, in their unit."""
        output = self.scores(output).astype(np.float64)
        logarithms = isinstance(self.loss, losses.PoissonNLLLoss) and self.loss.log_input
        with np.errstate(over="ignore"):
            if logarithms or self.kind == LOGARITHMS:
                return np.exp(output)
            if self.kind != LOGITS:
                return output
            if isinstance(self.loss, losses.CrossEntropyLoss):
                return softmax(output)
            return 1.0 / (1.0 + np.exp(-output))

    def targets(self, y: NDArray[Any]) -> NDArray[Any]:
        """The targets, of logarithms what they are logarithms of."""
        if isinstance(self.loss, losses.KLDivLoss) and self.loss.log_target:
            return np.exp(np.asarray(y, np.float64))
        return y


def link_of(outputs: Outputs) -> str:
    """How outputs become what an ensemble averages: probabilities, rates, means and variances, or what they are."""
    if outputs.members > 1:
        raise ValueError(
            "Ensemble: a MemberLoss is for a network with members within; give an Ensemble networks of one prediction"
        )
    if isinstance(outputs.loss, losses.GaussianNLLLoss):
        return "gaussian"
    if outputs.kind == LOGARITHMS or is_log_rate(outputs):
        return "exp"
    if outputs.kind == LOGITS:
        return "softmax" if isinstance(outputs.loss, losses.CrossEntropyLoss) else "sigmoid"
    return "identity"


def is_log_rate(outputs: Outputs) -> bool:
    return isinstance(outputs.loss, losses.PoissonNLLLoss) and outputs.loss.log_input


def averaged(outputs: Outputs) -> Outputs:
    """What metrics have to know of the mean of members' outputs behind their link."""
    if is_log_rate(outputs):
        return outputs._replace(kind=NUMBERS, loss=losses.PoissonNLLLoss(log_input=False))
    return outputs._replace(kind=PROBABILITIES) if outputs.kind in (LOGITS, LOGARITHMS) else outputs


def outputs_of(network: Container, loss: losses.Loss) -> list[Outputs]:
    """What each output of a network is that is trained with this loss."""
    last = network.last_layers()
    parts = loss.losses if isinstance(loss, losses.MultiLoss) else [loss] * len(last)
    return [of_one(layer, part) for layer, part in zip(last, parts, strict=False)]


def of_one(layer: Layer | None, loss: losses.Loss) -> Outputs:
    if isinstance(loss, losses.MemberLoss):
        return of_one(layer, loss.loss)._replace(members=loss.members)
    of_loss = next((kind for of, kind in TAKEN.items() if isinstance(loss, of)), UNKNOWN)
    of_layer = next((kind for of, kind in GIVEN.items() if isinstance(layer, of)), of_loss)
    kind = of_loss if of_loss == NUMBERS else of_layer
    rows = isinstance(layer, Softmax | LogSoftmax)  # of which one is true
    return Outputs(kind, loss, isinstance(loss, losses.BCELoss | losses.BCEWithLogitsLoss) and not rows)


def metric_of(metric: str | Metric, outputs: list[Outputs]) -> tuple[str, Metric]:
    """Name and function of a metric of these outputs; where members stand side by side, of their mean."""
    if all(part.members == 1 for part in outputs):
        return get_metric(metric, outputs)
    name, function = get_metric(metric, [mean_of_members(part) for part in outputs])

    def of_mean(y_true: Any, y_pred: Any, sample_weight: Any = None) -> float:
        several = isinstance(y_pred, tuple)
        means = tuple(map(predicted_mean, y_pred if several else (y_pred,), outputs))
        return function(y_true, means if several else means[0], sample_weight)

    return name, of_mean


def mean_of_members(outputs: Outputs) -> Outputs:
    """What metrics have to know of `predicted_mean`."""
    return outputs if outputs.members == 1 else averaged(outputs._replace(members=1))


def predicted_mean(output: NDArray[Any], outputs: Outputs) -> NDArray[Any]:
    """The mean of what the outputs of members stand for; of means and variances each by itself."""
    if outputs.members == 1:
        return output
    link = link_of(outputs._replace(members=1))
    output = np.exp(output) if link == "exp" else output
    activation = link if link in ("softmax", "sigmoid") else "identity"
    mean: NDArray[Any] = MemberMean(output.shape[1] // outputs.members, outputs.members, activation).predict(output)
    return mean
