"""Modules that PyTorch has not, and that to_torch gives."""

import numpy as np
import pytest
from arrays import normal
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_standardize_there_and_back(dtype, tmp_path):
    """Networks of `fastfc train` begin with Standardize, which to_torch did not know."""
    x = normal((9, 5), dtype, 0) * np.array([1, 1e3, 1e-3, 5, 1], dtype) + np.array([0, 1e4, 0, -7, 1], dtype)
    layers = [fc.Linear(5, 3, seed=0, dtype=dtype), fc.ReLU(), fc.Linear(3, 5, seed=1, dtype=dtype)]
    net = fc.Sequential([fc.Standardize.of(x, dtype=dtype), *layers, fc.Standardize.of(x, dtype=dtype)])
    module = net.to_torch()
    assert_allclose(module(torch.from_numpy(x)).detach().numpy(), net.predict(x), rtol=1e-5, atol=1e-5)
    module.train()
    assert_allclose(module(torch.from_numpy(x)).detach().numpy(), net.predict(x), rtol=1e-5, atol=1e-5)
    assert len(list(module.parameters())) == 4 and str(module[0]) == "Standardize(5)"
    torch.save(module, tmp_path / "whole.pt")
    twin = fc.from_torch(torch.load(tmp_path / "whole.pt", weights_only=False))
    assert repr(twin) == repr(net)
    assert_array_equal(twin.predict(x), net.predict(x))
    other = fc.Sequential(
        [fc.Standardize(5, dtype=dtype), *fc.MLP([5, 3, 5], dtype=dtype), fc.Standardize(5, dtype=dtype)]
    )
    fc.load_state_dict(other, dict(reversed(module.state_dict().items())))
    assert_array_equal(other.predict(x), net.predict(x))
