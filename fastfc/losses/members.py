"""`MemberLoss`, a loss for networks whose members stand side by side in each output."""

from __future__ import annotations

from typing import Any

from numpy.typing import ArrayLike, NDArray

from fastfc.kernels.ops import loss_rules
from fastfc.kernels.ops.loss_table import LossColumn
from fastfc.losses.base import Loss
from fastfc.losses.multi import MultiLoss
from fastfc.validation import positive_int


class MemberLoss(Loss):
    """The mean of the losses of k members, L = Σ_m L(p_m, y) / k, whose predictions stand side by side.

    A prediction is (n, k c) where the loss takes (n, c); the target is the one of the loss, once for all members. For
    networks with `BatchEnsemble`: each member learns by itself, so that their predictions differ. Metrics are those of
    the mean prediction: after CrossEntropyLoss, of the mean of probabilities, as `MemberMean` gives it.

    Parameters
    ----------
    loss : Loss
        Of one member, with reduction "mean" or "sum".
    members : int
        k.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong kind or out of its range; when called, for a prediction whose columns are not k
        times as many as the loss takes.

    References
    ----------
    Y. Gorishniy, A. Kotelnikov, A. Babenko, "TabM: advancing tabular deep learning with parameter-efficient
    ensembling", ICLR 2025.

    Examples
    --------
    >>> import fastfc as fc
    >>> loss = fc.MemberLoss(fc.MSELoss(), members=2)
    >>> loss([[1.0, 4.0]], [[2.0]])
    (2.5, array([[-1.,  2.]]))
    """

    code = loss_rules.SEVERAL

    def __init__(self, loss: Loss, members: int) -> None:
        if not isinstance(loss, Loss) or isinstance(loss, MultiLoss | MemberLoss):
            raise TypeError(f"MemberLoss: loss must be the loss of one member, such as MSELoss(), got {loss!r}")
        loss.check_scalar()
        self.loss, self.members = loss, positive_int(members, "MemberLoss", "members")
        self.reduction, self.of_classes = loss.reduction, loss.of_classes
        table = loss.table.copy()
        table[0, LossColumn.MEMBERS] = self.members
        self._table = table

    def __reduce__(self) -> Any:
        return MemberLoss, (self.loss, self.members)

    @property
    def takes_negative_weights(self) -> bool:
        return self.loss.takes_negative_weights

    def check_weights(self, sample_weight: ArrayLike | None) -> None:
        self.loss.check_weights(sample_weight)

    def as_target(self, target: ArrayLike, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        return self.loss.as_target(target, self._of_member(shape), dtype)

    def check_values(self, target: NDArray[Any], shape: tuple[int, ...]) -> None:
        self.loss.check_values(target, self._of_member(shape))

    def target_width(self, width: int) -> int:
        return self.loss.target_width(width // self.members)

    def _of_member(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of a member's prediction."""
        if len(shape) != 2 or shape[1] % self.members:
            raise ValueError(
                f"{self}: prediction has shape {shape}; give (n, {self.members} c), the c columns of each of "
                f"{self.members} members side by side"
            )
        return shape[0], shape[1] // self.members

    def __repr__(self) -> str:
        return f"MemberLoss({self.loss}, members={self.members})"
