"""Ensembles within one network: k members whose numbers stand side by side in each row, as in TabM."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fastfc.kernels.ops.activation_rules import IDENTITY, ROWWISE, of_input
from fastfc.kernels.program import table
from fastfc.nn.activations import Activation, get_activation
from fastfc.nn.initializers import Constant, Initializer, get_initializer
from fastfc.nn.layer import Layer, assign
from fastfc.nn.lowering import Lowering
from fastfc.nn.tensors import Shapes, TensorLayer, tensor
from fastfc.validation import as_generator, flag, float_dtype, positive_int

__all__ = ["BatchEnsemble", "LinearEnsemble", "MemberMean"]


def signs(rng: np.random.Generator, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    return rng.choice([-1.0, 1.0], shape).astype(dtype)


SCALES: dict[Any, Initializer] = {"signs": signs, "ones": Constant(1.0)}


class OfMembers(TensorLayer):
    """Base of the layers that make `member_out` numbers of the `member_in` of each member."""

    in_features: int
    out_features: int
    member_in: int
    member_out: int
    members: int
    shared_input: bool

    _fixed: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("member_in", "member_out", "members", "shared_input"), "make a new layer"
    )
    weight, weight_grad = tensor("weight"), tensor("weight", "grads")
    bias, bias_grad = tensor("bias"), tensor("bias", "grads")

    def _make(
        self,
        member_in: int,
        member_out: int,
        members: int,
        bias: bool,
        shared_input: bool,
        dtype: Any,
        name: str | None,
    ) -> None:
        """Set the sizes, and make arrays of zeros."""
        owner = type(self).__name__
        self._fix(
            member_in=positive_int(member_in, owner, "member_in"),
            member_out=positive_int(member_out, owner, "member_out"),
            members=positive_int(members, owner, "members"),
            shared_input=flag(shared_input, owner, "shared_input"),
        )
        self._fix(
            in_features=self.member_in * (1 if self.shared_input else self.members),
            out_features=self.member_out * self.members,
        )
        self.name = name
        options = {what: getattr(self, what) for what in ("member_in", "member_out", "members")}
        self._make_tensors(options | {"bias": flag(bias, owner, "bias")}, float_dtype(dtype, owner))

    def _repeated(self, lowering: Lowering, value: int) -> int:
        """The input of all members side by side."""
        self._check_width(lowering, value)
        if not self.shared_input:
            return value
        return lowering.op(table.REPEAT, value, width=self.member_in * self.members, number=self.members)

    def _arguments(self) -> list[str]:
        sizes = [str(self.member_in), str(self.member_out), f"members={self.members}"]
        bias = [] if self.bias is not None else ["bias=False"]
        return sizes + bias + ["shared_input=True"] * self.shared_input


class BatchEnsemble(OfMembers):
    """k members that share W, each with scales r, s and a bias of its own: y_m = s_m ⊙ ((r_m ⊙ x_m) W) + b_m.

    A row holds the numbers of all members, side by side: x is (n, k member_in) and y (n, k member_out). Elementwise
    activations, Dropout and Scale work on such rows as on any; layers along rows, such as LayerNorm, mix the members.
    With g = dL/dy, u_m = r_m ⊙ x_m and v_m = u_m W, dL/dW = Σ_m u_mᵀ (s_m ⊙ g_m), dL/ds_m = Σ g_m v_m and dL/db_m =
    Σ g_m over the samples; with h_m = (s_m ⊙ g_m) Wᵀ, dL/dr_m = Σ h_m x_m and dL/dx_m = r_m ⊙ h_m.

    Parameters
    ----------
    member_in, member_out : int
        Numbers of one member.
    members : int
        k.
    bias : bool
    shared_input : bool
        Whether x is (n, member_in), which all members take, as the first layer does.
    init, bias_init : str or callable
        First values of W and b, as for Linear. All members have the same b first.
    scale_init : str or callable, optional
        First values of r; "signs" are ±1. By default "signs" with shared_input, which makes members differ, else
        "ones". s is first 1.
    seed : int, numpy.random.Generator or None
    dtype : np.float32 or np.float64
    name : str, optional
        Shown in errors, summaries and reports.

    Attributes
    ----------
    weight, weight_grad : (member_in, member_out) arrays
        W.
    input_scale, input_scale_grad : (members, member_in) arrays
        r.
    output_scale, output_scale_grad : (members, member_out) arrays
        s.
    bias, bias_grad : (members, member_out) arrays, or None
        b. All are views of `params` and `grads`. Assigning to one copies the values into place.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong kind or out of its range; in use, for x of another width.

    See Also
    --------
    LinearEnsemble : members that share nothing, the last layer of TabM.
    MemberLoss : the mean of the members' losses.
    MemberMean : the mean of the members' predictions.

    References
    ----------
    Y. Wen, D. Tran, J. Ba, "BatchEnsemble: an alternative approach to efficient ensemble and lifelong learning", ICLR
    2020; Y. Gorishniy, A. Kotelnikov, A. Babenko, "TabM: advancing tabular deep learning with parameter-efficient
    ensembling", ICLR 2025.

    Examples
    --------
    >>> import fastfc as fc
    >>> layer = fc.BatchEnsemble(2, 1, members=2, shared_input=True)
    >>> layer.weight, layer.bias = [[1], [10]], [[0], [5]]
    >>> layer.input_scale, layer.output_scale = [[1, 1], [1, -1]], [[1], [2]]
    >>> layer.predict([[3, 4]])
    array([[ 43., -69.]], dtype=float32)
    """

    input_scale, input_scale_grad = tensor("input_scale"), tensor("input_scale", "grads")
    output_scale, output_scale_grad = tensor("output_scale"), tensor("output_scale", "grads")

    def __init__(
        self,
        member_in: int,
        member_out: int,
        members: int,
        bias: bool = True,
        *,
        shared_input: bool = False,
        init: str | Initializer = "he",
        bias_init: str | Initializer = "zeros",
        scale_init: str | Initializer | None = None,
        seed: int | np.random.Generator | None = None,
        dtype: Any = np.float32,
        name: str | None = None,
    ) -> None:
        self._make(member_in, member_out, members, bias, shared_input, dtype, name)
        rng = as_generator(seed, "BatchEnsemble")
        if scale_init is None:
            scale_init = "signs" if self.shared_input else "ones"
        scales = SCALES.get(scale_init, scale_init) if isinstance(scale_init, str) else scale_init
        self.weight = get_initializer(init)(rng, self.weight.shape, self.dtype)
        self.input_scale = get_initializer(scales)(rng, self.input_scale.shape, self.dtype)
        self.output_scale = np.ones(self.output_scale.shape)
        if self.bias is not None:
            assign(self, "bias", get_initializer(bias_init)(rng, (self.member_out,), self.dtype), self.bias[0])
            self.bias[1:] = self.bias[0]

    @staticmethod
    def shapes(options: Mapping[str, Any]) -> tuple[Shapes, Shapes]:
        i, o, k = options["member_in"], options["member_out"], options["members"]
        bias: Shapes = {"bias": (k, o)} if options["bias"] else {}
        return {"weight": (i, o), "input_scale": (k, i), "output_scale": (k, o)} | bias, {}

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        i, o = self.member_in * self.members, self.out_features
        value = self._repeated(lowering, value)
        value = lowering.op(table.COLUMN_SCALE, value, weight=self._place("input_scale", first), number=i)
        product = {"width": o, "weight": self._place("weight", first), "number": self.members, "transposed": True}
        value = lowering.op(table.MEMBER_PRODUCT, value, **product)
        scale = {"weight": self._place("output_scale", first), "number": o}
        if self.bias is None:
            return lowering.op(table.COLUMN_SCALE, value, **scale)
        return lowering.op(table.COLUMN_AFFINE, value, **scale, bias=self._place("bias", first))


class LinearEnsemble(OfMembers):
    """k Linear layers side by side, each for a member: y_m = x_m W_m + b_m.

    With g = dL/dy, dL/dW_m = x_mᵀ g_m, dL/db_m = the column sums of g_m and dL/dx_m = g_m W_mᵀ.

    Parameters
    ----------
    member_in, member_out : int
        Numbers of one member: x is (n, k member_in), y (n, k member_out).
    members : int
        k.
    bias : bool
    shared_input : bool
        Whether x is (n, member_in), which all members take.
    init, bias_init : str or callable
        First values of each W_m and b_m, as for Linear.
    seed : int, numpy.random.Generator or None
    dtype : np.float32 or np.float64
    name : str, optional
        Shown in errors, summaries and reports.

    Attributes
    ----------
    weight, weight_grad : (members, member_in, member_out) arrays
    bias, bias_grad : (members, member_out) arrays, or None
        Views of `params` and `grads`. Assigning to one copies the values into place.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong kind or out of its range; in use, for x of another width.

    References
    ----------
    Y. Gorishniy, A. Kotelnikov, A. Babenko, "TabM: advancing tabular deep learning with parameter-efficient
    ensembling", ICLR 2025.

    Examples
    --------
    >>> import fastfc as fc
    >>> layer = fc.LinearEnsemble(1, 1, members=3, bias=False)
    >>> layer.weight = [[[1]], [[2]], [[3]]]
    >>> layer.predict([[1, 10, 100]])
    array([[  1.,  20., 300.]], dtype=float32)
    """

    def __init__(
        self,
        member_in: int,
        member_out: int,
        members: int,
        bias: bool = True,
        *,
        shared_input: bool = False,
        init: str | Initializer = "he",
        bias_init: str | Initializer = "zeros",
        seed: int | np.random.Generator | None = None,
        dtype: Any = np.float32,
        name: str | None = None,
    ) -> None:
        self._make(member_in, member_out, members, bias, shared_input, dtype, name)
        rng = as_generator(seed, "LinearEnsemble")
        for what, initializer in (("weight", init), ("bias", bias_init)):
            values, make = getattr(self, what), get_initializer(initializer)
            for of_one in () if values is None else values:
                assign(self, what, make(rng, of_one.shape, self.dtype), of_one)

    @staticmethod
    def shapes(options: Mapping[str, Any]) -> tuple[Shapes, Shapes]:
        i, o, k = options["member_in"], options["member_out"], options["members"]
        return {"weight": (k, i, o)} | ({"bias": (k, o)} if options["bias"] else {}), {}

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        value = self._repeated(lowering, value)
        bias = table.NOWHERE if self.bias is None else self._place("bias", first)
        product = {"width": self.out_features, "weight": self._place("weight", first), "number": self.members}
        return lowering.op(table.MEMBER_PRODUCT, value, **product, bias=bias)


class MemberMean(Layer):
    """The mean of the members' numbers, y = Σ_m f(x_m) / k: dL/dx_m = f′(x_m) dL/dy / k.

    Put behind a network that is trained with `MemberLoss`, it makes their predictions one: with "softmax" behind
    logits, the mean of the members' probabilities.

    Parameters
    ----------
    member_in : int
        Numbers of one member: x is (n, k member_in), y (n, member_in).
    members : int
        k.
    activation : str or Activation
        f, by its name or as an object; softmax is along the numbers of each member.

    Attributes
    ----------
    activation : Activation

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong kind or out of its range; in use, for x of another width.

    References
    ----------
    B. Lakshminarayanan, A. Pritzel, C. Blundell, "Simple and scalable predictive uncertainty estimation using deep
    ensembles", NeurIPS 2017.

    Examples
    --------
    >>> import numpy as np, fastfc as fc
    >>> fc.MemberMean(2, members=2).predict([[1, 2, 5, 0]])
    array([[3., 1.]], dtype=float32)
    >>> fc.MemberMean(2, members=2, activation="softmax").predict([[100, 0, 0, 0]])
    array([[0.75, 0.25]], dtype=float32)
    """

    in_features: int
    out_features: int
    member_in: int
    members: int
    activation: Activation

    _fixed: ClassVar[Mapping[str, str]] = dict.fromkeys(("member_in", "members", "activation"), "make a new MemberMean")

    def __init__(
        self, member_in: int, members: int, activation: str | Activation | type[Activation] = "identity"
    ) -> None:
        self._fix(
            member_in=positive_int(member_in, "MemberMean", "member_in"),
            members=positive_int(members, "MemberMean", "members"),
            activation=get_activation(activation),
        )
        self._fix(in_features=self.member_in * self.members, out_features=self.member_in)

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        f = self.activation.numbers()
        if f.code in ROWWISE:
            formula = {"code": f.code, "factor": f.a, "factor_2": f.b, "of_input": of_input(f)}
            value = lowering.op(table.MEMBER_ACTIVATION, value, number=self.members, **formula)
        elif f.code != IDENTITY:
            value = lowering.activation(value, f, alone)
        factor = 1 / self.members
        return lowering.op(table.MEMBER_MEAN, value, width=self.member_in, number=self.members, factor=factor)

    def __repr__(self) -> str:
        f = "" if self.activation.numbers().code == IDENTITY else f", activation={self.activation}"
        return f"MemberMean({self.member_in}, members={self.members}{f})"
