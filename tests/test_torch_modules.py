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


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_graphs(dtype, tmp_path):
    """All operations, several inputs and outputs, a graph in a graph, and a layer that is used twice."""
    linear = lambda *sizes, **options: fc.Linear(*sizes, seed=sizes[0], dtype=dtype, **options)
    inner_x = fc.Input(4)
    inner = fc.Graph(inner_x, inner_x * fc.Tanh()(linear(4, 4)(inner_x)))
    a, b, code = fc.Input(3), fc.Input(4), fc.Input(2)
    shared, dropped = linear(3, 4, name="shared"), fc.Dropout(0.5)
    h = fc.concatenate([shared(a) - inner(b), fc.Embedding(5, 2, 2, seed=0, dtype=dtype)(code), 0.5 * a])
    net = fc.Graph([a, b, code], [dropped(linear(11, 2)(h)), shared(a), a])
    x = normal((9, 3), dtype), normal((9, 4), dtype, 1), np.arange(18).reshape(9, 2).astype(dtype) % 5
    module = net.to_torch()
    torch.save(module, tmp_path / "whole.pt")
    for whole in (module, torch.load(tmp_path / "whole.pt", weights_only=False)):
        theirs = whole(*map(torch.from_numpy, x))
        for y, expected in zip(theirs, net.predict(x), strict=True):
            assert_allclose(y.detach().numpy(), expected, rtol=1e-5, atol=1e-6)
    other = fc.Graph([a], [linear(3, 4, name="shared")(a)])
    fc.load_state_dict(other, {"shared.weight": module.shared.weight, "shared.bias": module.shared.bias})
    assert_array_equal(other.predict(x[0]), shared.predict(x[0]))
    with pytest.raises(TypeError, match=r"from_torch can't convert 0 \(Graph, which has no counterpart\)"):
        fc.from_torch(module)


@pytest.mark.parametrize("of_classes", [True, False])
def test_networks_for_tables(of_classes):
    """What RealMLP consists of, with a member for each of two seeds."""
    pytest.importorskip("sklearn")
    from fastfc.sklearn import RealMLPClassifier, RealMLPRegressor

    rng = np.random.default_rng(0)
    x = np.array(np.column_stack([rng.standard_normal((40, 2)), np.arange(40)]), object)
    x[:, 2] = [f"name {i % 11}" for i in range(40)]
    kind, y = (RealMLPClassifier, np.arange(40) % 3) if of_classes else (RealMLPRegressor, rng.standard_normal(40))
    net = kind(hidden=[8], epochs=2, random_state=0, n_ens=2).fit(x, y).network_
    inputs = normal((6, 2), np.float32), np.arange(6, dtype=np.float32)[:, None]
    theirs = net.to_torch()(*map(torch.from_numpy, inputs))
    for output, expected in zip(theirs, net.predict(inputs), strict=True):
        assert_allclose(output.detach().numpy(), expected, rtol=1e-4, atol=1e-5)
