"""PyTorch modules of layers that torch.nn does not have; needs the extra `fastfc[torch]`."""

from __future__ import annotations

from typing import Any

import torch


class Standardize(torch.nn.Module):
    """y = (x − mean) / scale, with a stored mean and scale of each feature, which are not trained.

    Parameters
    ----------
    features : int
    dtype : torch.dtype, optional

    Attributes
    ----------
    mean, scale : (features,) tensors
        Buffers, first 0 and 1.
    """

    def __init__(self, features: int, dtype: Any = None) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("mean", torch.zeros(features, dtype=dtype))
        self.register_buffer("scale", torch.ones(features, dtype=dtype))

    def forward(self, x: Any) -> Any:
        return (x - self.mean) / self.scale

    def extra_repr(self) -> str:
        return str(self.features)


class Graph(torch.nn.Module):
    """Layers and operations from some inputs, one tensor each, to an output, or to a tuple of several.

    Attributes
    ----------
    steps : list of (what, read, which)
        In order: what is done, "layer", "concatenate", "add", "multiply" or "scale"; to which values, by their number,
        where the inputs come first; and the layer's name or the factor.
    outputs : list of int
        The numbers of the values that are outputs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[str, list[int], Any]] = []
        self.outputs: list[int] = []

    def forward(self, *inputs: Any) -> Any:
        values = list(inputs)
        for what, read, which in self.steps:
            a, *others = (values[i] for i in read)
            if what == "layer":
                values.append(getattr(self, which)(a))
            elif what == "concatenate":
                values.append(torch.cat([a, *others], dim=1))
            elif what == "scale":
                values.append(a * which)
            else:
                values.append(a + others[0] if what == "add" else a * others[0])
        results = tuple(values[i] for i in self.outputs)
        return results[0] if len(results) == 1 else results


class Sin(torch.nn.Module):
    """y = sin x"""

    def forward(self, x: Any) -> Any:
        return torch.sin(x)


class Cos(torch.nn.Module):
    """y = cos x"""

    def forward(self, x: Any) -> Any:
        return torch.cos(x)


class SmoothClip(torch.nn.Module):
    """y = x / √(1 + (x / limit)²), and ±limit where the square overflows."""

    def __init__(self, limit: float = 3.0) -> None:
        super().__init__()
        self.limit = limit

    def forward(self, x: Any) -> Any:
        far = 2.0**60 if x.dtype == torch.float32 else 2.0**500
        ratio = x / self.limit
        ratio = torch.where(ratio.isnan(), ratio, ratio.clamp(-far, far))  # whose slope is 0 at NaN
        return ratio / torch.sqrt(1 + ratio * ratio) * self.limit

    def extra_repr(self) -> str:
        return f"limit={self.limit:g}"


class Scale(torch.nn.Module):
    """y = weight x, a factor for each feature."""

    def __init__(self, features: int, dtype: Any = None) -> None:
        super().__init__()
        self.features = features
        self.weight = torch.nn.Parameter(torch.ones(features, dtype=dtype))

    def forward(self, x: Any) -> Any:
        return x * self.weight


class Parametric(torch.nn.Module):
    """y = x + weight (f(x) − x), for each feature a mix of the identity and an activation f."""

    def __init__(self, activation: torch.nn.Module, features: int, dtype: Any = None) -> None:
        super().__init__()
        self.activation, self.features = activation, features
        self.weight = torch.nn.Parameter(torch.ones(features, dtype=dtype))

    def forward(self, x: Any) -> Any:
        return x + self.weight * (self.activation(x) - x)


class RobustScale(torch.nn.Module):
    """SmoothClip of (x − center) / scale; limit None is no clip."""

    def __init__(self, features: int, limit: float | None = 3.0, dtype: Any = None) -> None:
        super().__init__()
        self.features, self.limit = features, limit
        self.register_buffer("center", torch.zeros(features, dtype=dtype))
        self.register_buffer("scale", torch.ones(features, dtype=dtype))

    def forward(self, x: Any) -> Any:
        z = (x - self.center) / self.scale
        return z if self.limit is None else SmoothClip(self.limit)(z)


class BatchEnsemble(torch.nn.Module):
    """y_m = output_scale_m ((input_scale_m x_m) weight) + bias_m of members that stand side by side."""

    def __init__(
        self,
        member_in: int,
        member_out: int,
        members: int,
        bias: bool = True,
        shared_input: bool = False,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.member_in, self.member_out, self.members, self.shared_input = member_in, member_out, members, shared_input
        self.weight = torch.nn.Parameter(torch.randn(member_in, member_out, dtype=dtype) * (2 / member_in) ** 0.5)
        self.input_scale = torch.nn.Parameter(torch.ones(members, member_in, dtype=dtype))
        self.output_scale = torch.nn.Parameter(torch.ones(members, member_out, dtype=dtype))
        self.bias = torch.nn.Parameter(torch.zeros(members, member_out, dtype=dtype)) if bias else None

    def forward(self, x: Any) -> Any:
        x = x.unflatten(1, (1 if self.shared_input else self.members, self.member_in))
        y = (x * self.input_scale) @ self.weight * self.output_scale
        return (y if self.bias is None else y + self.bias).flatten(1)


class LinearEnsemble(torch.nn.Module):
    """y_m = x_m weight_m + bias_m of members that stand side by side."""

    def __init__(
        self,
        member_in: int,
        member_out: int,
        members: int,
        bias: bool = True,
        shared_input: bool = False,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.member_in, self.member_out, self.members, self.shared_input = member_in, member_out, members, shared_input
        first = torch.randn(members, member_in, member_out, dtype=dtype) * (2 / member_in) ** 0.5
        self.weight = torch.nn.Parameter(first)
        self.bias = torch.nn.Parameter(torch.zeros(members, member_out, dtype=dtype)) if bias else None

    def forward(self, x: Any) -> Any:
        x = x.unflatten(1, (1 if self.shared_input else self.members, self.member_in))
        y = (x.transpose(0, 1) @ self.weight).transpose(0, 1)
        return (y if self.bias is None else y + self.bias).flatten(1)


class MemberMean(torch.nn.Module):
    """The mean of an activation of the members' numbers, which stand side by side."""

    def __init__(self, member_in: int, members: int, activation: torch.nn.Module) -> None:
        super().__init__()
        self.member_in, self.members, self.activation = member_in, members, activation

    def forward(self, x: Any) -> Any:
        rows = self.activation(x.reshape(-1, self.member_in))
        return rows.reshape(-1, self.members, self.member_in).mean(1)


class Clamp(torch.nn.Module):
    """y = min(max(x, low), high), with bounds of each feature."""

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, features: int, dtype: Any = None) -> None:
        super().__init__()
        self.features = features
        self.register_buffer("low", torch.zeros(features, dtype=dtype))
        self.register_buffer("high", torch.zeros(features, dtype=dtype))

    def forward(self, x: Any) -> Any:
        return torch.minimum(torch.maximum(x, self.low), self.high)


class Embedding(torch.nn.Module):
    """Rows of a table by whole numbers of any dtype, (n, in_features), side by side."""

    def __init__(self, num_embeddings: int, embedding_dim: int, in_features: int = 1, dtype: Any = None) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim, self.in_features = num_embeddings, embedding_dim, in_features
        self.weight = torch.nn.Parameter(torch.zeros(num_embeddings, embedding_dim, dtype=dtype))

    def forward(self, x: Any) -> Any:
        return self.weight[x.long()].flatten(1)


class QuantileNormal(torch.nn.Module):
    """y = a polygon of each feature through (knots, values), constant beyond its ends."""

    knots: torch.Tensor
    values: torch.Tensor

    def __init__(self, features: int, n_quantiles: int = 1000, dtype: Any = None) -> None:
        super().__init__()
        self.features, self.n_quantiles = features, n_quantiles
        self.register_buffer("knots", torch.zeros(features, n_quantiles, dtype=dtype))
        self.register_buffer("values", torch.zeros(features, n_quantiles, dtype=dtype))

    def forward(self, x: Any) -> Any:
        bounded = x.clamp(self.knots[:, 0], self.knots[:, -1]).T.contiguous()
        i = torch.searchsorted(self.knots, bounded, right=True).clamp(1, self.n_quantiles - 1)
        (low, high), (start, end) = (
            [table.gather(1, place) for place in (i - 1, i)] for table in (self.knots, self.values)
        )
        slope = torch.where(high > low, (end - start) / torch.where(high > low, high - low, 1), 0)
        return torch.where(bounded >= self.knots[:, -1:], self.values[:, -1:], start + (bounded - low) * slope).T


class NumericEmbedding(torch.nn.Module):
    """Functions of each feature, and sums of them; see fastfc.NumericEmbedding."""

    edges: torch.Tensor

    def __init__(
        self,
        in_features: int,
        embedding_dim: int | None,
        kind: str,
        n_frequencies: int,
        frequency_scale: float,
        dense: bool,
        relu: bool,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in_features, self.embedding_dim, self.kind = in_features, embedding_dim, kind
        self.n_frequencies, self.frequency_scale, self.dense, self.relu = n_frequencies, frequency_scale, dense, relu
        parameter = lambda *shape: torch.nn.Parameter(torch.zeros(*shape, dtype=dtype))
        if kind == "ple":
            self.register_buffer("edges", torch.zeros(in_features, n_frequencies + 1, dtype=dtype))
        else:
            self.frequency = parameter(in_features, n_frequencies)
        if kind == "pbld":
            self.phase = parameter(in_features, n_frequencies)
        if embedding_dim is not None:
            owners = () if kind == "plr-lite" else (in_features,)
            functions = n_frequencies * (2 if kind.startswith("plr") else 1)
            self.weight = parameter(*owners, functions, embedding_dim)
            self.bias = parameter(*owners, embedding_dim)

    def functions(self, x: Any) -> Any:
        """(n, in_features, functions)"""
        z = x[:, :, None]
        if self.kind == "ple":
            width, last = self.edges.diff(), self.edges[:, 1:] == self.edges[:, -1:]
            place = torch.where(width > 0, (z - self.edges[:, :-1]) / torch.where(width > 0, width, 1), 0)
            first = torch.arange(width.shape[1], device=x.device) == 0
            lower = torch.where(first, -torch.inf, 0.0).to(x.dtype)
            return torch.minimum(torch.maximum(place, lower), torch.where(last, torch.inf, 1.0).to(x.dtype))
        angle = 2 * torch.pi * z * self.frequency
        if self.kind == "pbld":
            return torch.cos(angle + self.phase)
        return torch.cat([torch.cos(angle), torch.sin(angle)], dim=2)

    def forward(self, x: Any) -> Any:
        y = self.functions(x)
        if self.embedding_dim is not None:
            y = torch.einsum("njk,kd->njd" if self.weight.ndim == 2 else "njk,jkd->njd", y, self.weight) + self.bias
        y = y.flatten(1)
        y = torch.relu(y) if self.relu else y
        return torch.cat([y, x], dim=1) if self.dense else y
