"""Layers with one trained parameter for each feature: `Scale`, and the parametric activations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from fastfc.kernels.ops.activation_rules import ROWWISE, of_input
from fastfc.kernels.program import table
from fastfc.nn.activations import Activation, get_activation
from fastfc.nn.initializers import Constant, Initializer, get_initializer
from fastfc.nn.lowering import Lowering
from fastfc.nn.norms import FeatureNorm, Rows, row
from fastfc.nn.tensors import Shapes, TensorLayer, tensor
from fastfc.validation import as_generator, finite_number, float_dtype, positive_int

__all__ = ["PReLU", "Parametric", "Scale"]


class Scale(FeatureNorm):
    """y = s ⊙ x, a trained factor for each feature, without a bias; dL/ds = Σ g x and dL/dx = s ⊙ g for g = dL/dy.

    Put before the first Linear layer, with a high learning rate, it learns which features matter.

    Parameters
    ----------
    features : int
    dtype : np.float32 or np.float64
    name : str, optional
        Shown in errors, summaries and reports.

    Attributes
    ----------
    weight, weight_grad : (features,) arrays
        s, first 1. Views of `params` and `grads`. Assigning to one copies the values into place.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong kind or out of its range; in use, for x of another width.

    References
    ----------
    D. Holzmüller, L. Grinsztajn, I. Steinwart, "Better by default: strong pre-tuned MLPs and boosted trees on tabular
    data", NeurIPS 2024.

    Examples
    --------
    >>> import fastfc as fc
    >>> layer = fc.Scale(2)
    >>> layer.weight = [2, -1]
    >>> layer.forward([[1, 3]])
    array([[ 2., -3.]], dtype=float32)
    >>> layer.backward([[1, 1]]), layer.weight_grad
    (array([[ 2., -1.]], dtype=float32), array([1., 3.], dtype=float32))
    """

    weight, weight_grad = row("weight"), row("weight", "grads")

    def __init__(self, features: int, *, dtype: Any = np.float32, name: str | None = None) -> None:
        super().__init__(features, self.rows({}), dtype, name)
        self.weight = np.ones(self.in_features)

    @staticmethod
    def rows(options: Mapping[str, Any]) -> Rows:
        return ("weight",), ()

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        self._check_width(lowering, value)
        return lowering.op(table.COLUMN_SCALE, value, weight=first, number=self.in_features)


class Parametric(FeatureNorm):
    """y = x + a ⊙ (f(x) − x), for each feature a trained mix of the identity and an activation f.

    With g = dL/dy, dL/da = Σ g (f(x) − x) and dL/dx = g + a ⊙ (g f′(x) − g).

    Parameters
    ----------
    activation : str or an elementwise activation
        f, by its name or as an object such as LeakyReLU(0.1).
    features : int
    dtype : np.float32 or np.float64
    name : str, optional
        Shown in errors, summaries and reports.

    Attributes
    ----------
    activation : Activation
    weight, weight_grad : (features,) arrays
        a, first 1, which gives f. Views of `params` and `grads`. Assigning to one copies the values into place.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong kind or out of its range, and for Softmax and LogSoftmax, which work along rows;
        in use, for x of another width.

    References
    ----------
    D. Holzmüller, L. Grinsztajn, I. Steinwart, "Better by default: strong pre-tuned MLPs and boosted trees on tabular
    data", NeurIPS 2024.

    Examples
    --------
    >>> import fastfc as fc
    >>> layer = fc.Parametric("relu", 2)
    >>> layer.weight = [1, 0.5]
    >>> layer.predict([-4, -4])
    array([ 0., -2.], dtype=float32)
    """

    activation: Activation

    _fixed: ClassVar[Mapping[str, str]] = {"activation": "make a new Parametric"}

    weight, weight_grad = row("weight"), row("weight", "grads")

    def __init__(
        self,
        activation: str | Activation | type[Activation],
        features: int,
        *,
        dtype: Any = np.float32,
        name: str | None = None,
    ) -> None:
        inner = get_activation(activation)
        if inner.numbers().code in ROWWISE:
            raise ValueError(f"Parametric: {inner} works along rows; give an elementwise activation, such as 'selu'")
        self._fix(activation=inner)
        super().__init__(features, self.rows({}), dtype, name)
        self.weight = np.ones(self.in_features)

    @staticmethod
    def rows(options: Mapping[str, Any]) -> Rows:
        return ("weight",), ()

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        self._check_width(lowering, value)
        f = self.activation.numbers()
        code, factor, factor_2 = f
        formula = {"code": code, "factor": factor, "factor_2": factor_2, "of_input": of_input(f)}
        return lowering.op(table.PARAMETRIC, value, weight=first, number=self.in_features, **formula)

    def __repr__(self) -> str:
        return f"Parametric({self.activation}, {super().__repr__().partition('(')[2]}"


class PReLU(TensorLayer):
    """y = x where x > 0, else a x, with one trained slope a, or one for each feature.

    With g = dL/dy, dL/dx = g where x > 0, else a g; and dL/da = Σ g x of those x <= 0.

    Parameters
    ----------
    num_parameters : int
        1, or the number of features.
    init : float, str or callable
        First values of the slopes, a number or as for Linear.
    dtype : np.float32 or np.float64
    name : str, optional
        Shown in errors, summaries and reports.

    Attributes
    ----------
    weight, weight_grad : (num_parameters,) arrays
        a. Views of `params` and `grads`. Assigning to one copies the values into place.

    Raises
    ------
    TypeError, ValueError
        For an argument of the wrong kind or out of its range; in use, for x of another width than num_parameters,
        unless that is 1.

    References
    ----------
    K. He, X. Zhang, S. Ren, J. Sun, "Delving deep into rectifiers", ICCV 2015.

    Examples
    --------
    >>> import fastfc as fc
    >>> layer = fc.PReLU()
    >>> layer.forward([[-2, 3]])
    array([[-0.5,  3. ]], dtype=float32)
    >>> layer.backward([[1, 1]]), layer.weight_grad
    (array([[0.25, 1.  ]], dtype=float32), array([-2.], dtype=float32))
    """

    num_parameters: int

    _fixed: ClassVar[Mapping[str, str]] = {"num_parameters": "the slopes depend on it; make a new PReLU"}
    weight, weight_grad = tensor("weight"), tensor("weight", "grads")

    def __init__(
        self,
        num_parameters: int = 1,
        init: float | str | Initializer = 0.25,
        *,
        dtype: Any = np.float32,
        name: str | None = None,
    ) -> None:
        n = positive_int(num_parameters, "PReLU", "num_parameters")
        width = None if n == 1 else n
        self._fix(num_parameters=n, in_features=width, out_features=width)
        self.name = name
        dtype = float_dtype(dtype, "PReLU")
        self._make_tensors({"num_parameters": n}, dtype)
        initializer = (
            init if isinstance(init, str) or callable(init) else Constant(finite_number(init, "PReLU", "init"))
        )
        self.weight = get_initializer(initializer)(as_generator(None, "PReLU"), (n,), dtype)

    @staticmethod
    def shapes(options: Mapping[str, Any]) -> tuple[Shapes, Shapes]:
        return {"weight": (options["num_parameters"],)}, {}

    def record(self, lowering: Lowering, value: int, first: int, alone: bool = True) -> int:
        self._check_width(lowering, value)
        return lowering.op(table.P_RELU, value, weight=first, number=self.num_parameters)

    def _arguments(self) -> list[str]:
        return [str(self.num_parameters)]
