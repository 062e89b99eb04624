"""Searches on worker processes, of joblib and of Dask, and frames of Dask as a stream of batches."""

import numpy as np
import pytest

import fastfc as fc
from fastfc.sklearn import MLPClassifier

pytest.importorskip("sklearn")
pytestmark = pytest.mark.filterwarnings("ignore:Stochastic Optimizer")  # 20 iterations are enough here
rng = np.random.default_rng(0)
X = rng.normal(size=(120, 4)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] > 0).astype(int)


def searched(n_jobs=None):
    from sklearn.model_selection import GridSearchCV

    model = MLPClassifier((8,), max_iter=20, random_state=0)
    search = GridSearchCV(model, {"learning_rate_init": [1e-3, 1e-2], "alpha": [0.0, 1e-2]}, cv=2, n_jobs=n_jobs)
    return search.fit(X, Y)


def state_of_worker():
    """The threads that "auto" takes here, and the kernels that this process compiled."""
    from fastfc.kernels.runtime import native, threads

    kernels = [kernel for kernel in native.compiled_kernels.values() if hasattr(kernel, "was_compiled")]
    compiled = [k.name for k in kernels for dtype in k.loaded_types() if k.was_compiled(dtype)]
    return threads.auto_threads()[0], compiled


@pytest.fixture(scope="module")
def alone():
    """In this process, which leaves all kernels in the cache."""
    return searched()


def check(search, alone):
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
    assert search.best_params_ == alone.best_params_
    for one, other in zip(search.best_estimator_.coefs_, alone.best_estimator_.coefs_, strict=True):
        np.testing.assert_array_equal(one, other)


def test_loky(alone):
    """Two workers: the same networks, one thread each, no kernel compiled."""
    import joblib

    with joblib.parallel_config("loky", n_jobs=2):
        check(searched(n_jobs=2), alone)
        states = joblib.Parallel()(joblib.delayed(state_of_worker)() for _ in range(4))
    assert all(state == (1, []) for state in states), states


def test_dask(alone):
    """A LocalCluster of two worker processes, as joblib's backend."""
    distributed = pytest.importorskip("distributed", reason="needs Dask: pip install 'fastfc[dask]'")
    import joblib

    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster) as client:
        with joblib.parallel_config("dask"):
            check(searched(n_jobs=2), alone)
        states = client.run(state_of_worker)
    assert len(states) == 2 and all(state == (1, []) for state in states.values()), states


@pytest.fixture
def frame():
    """Three partitions of unequal numbers of rows, one of them empty."""
    pd = pytest.importorskip("pandas")
    dd = pytest.importorskip("dask.dataframe", reason="needs Dask: pip install 'fastfc[dask]'")
    rows = pd.DataFrame(X, columns=list("abcd")).assign(y=2 * X[:, 0] + X[:, 1])
    parts = [rows[:70], rows[70:70], rows[70:]]
    return dd.from_map(lambda i: parts[i], range(3), meta=rows[:0]), rows


def network():
    return fc.MLP([4, 8, 1], seed=0)


def test_partitions_are_a_stream(frame):
    """In order they are the batches of each partition; in memory there is one partition."""
    frame, rows = frame
    options = {"loss": fc.MSELoss(), "optimizer": fc.SGD(0.1), "epochs": 3}
    net = network()
    history = net.fit(frame[list("abcd")], frame[["y"]], batch_size=32, shuffle=False, **options)
    x, y = rows[list("abcd")].to_numpy(), rows[["y"]].to_numpy()
    batches = [(x[i:j], y[i:j]) for i, j in ((0, 32), (32, 64), (64, 70), (70, 102), (102, 120))]
    expected = network()
    same = expected.fit(batches, loss=fc.MSELoss(), optimizer=fc.SGD(0.1), epochs=3)
    np.testing.assert_array_equal(net.params, expected.params)
    np.testing.assert_allclose(history.loss, same.loss, rtol=1e-6)
    assert list(net.feature_names) == list("abcd")


def test_partitions_are_shuffled(frame):
    """By the seed: partitions, and rows in them; all rows count, and the network learns."""
    frame, rows = frame
    x, y = frame[list("abcd")], frame[["y"]]
    options = {"loss": fc.MSELoss(), "epochs": 20, "seed": 3, "validation_data": (x, y)}
    nets = [network() for _ in range(2)]
    first, second = (net.fit(x, y, optimizer=fc.Adam(0.05), **options) for net in nets)
    np.testing.assert_array_equal(nets[0].params, nets[1].params)
    assert first.loss == second.loss and first["val_loss"][-1] < 0.1
    scores = nets[0].evaluate(x, y, fc.MSELoss())
    in_memory = nets[0].evaluate(rows[list("abcd")], rows[["y"]], fc.MSELoss())
    assert scores == pytest.approx(in_memory, rel=1e-6)


def test_partitions_that_do_not_fit(frame):
    frame, rows = frame
    net, options = network(), {"loss": fc.MSELoss(), "optimizer": fc.SGD(0.1)}
    with pytest.raises(ValueError, match=r"x is a frame of Dask of 3 partitions; give y .* got no y"):
        net.fit(frame[list("abcd")], **options)
    with pytest.raises(ValueError, match=r"3 partitions; .* got \[None\]"):
        net.fit(frame[list("abcd")], rows[["y"]], **options)
    with pytest.raises(ValueError, match="partition 0: "):
        net.fit(frame[list("abc")], frame[["y"]], **options)


def test_arrays_of_dask(monkeypatch):
    """They are read as arrays on disk are."""
    da = pytest.importorskip("dask.array", reason="needs Dask: pip install 'fastfc[dask]'")
    monkeypatch.setattr("fastfc.data.streams.IN_MEMORY", 0)
    x, y = X, (2 * X[:, :1]).astype(np.float32)
    nets = [network() for _ in range(2)]
    options = {"loss": fc.MSELoss(), "epochs": 4, "seed": 3}
    lazy = da.from_array(x, chunks=(50, 4)), da.from_array(y, chunks=(50, 1))
    nets[0].fit(*lazy, optimizer=fc.Adam(0.01), **options)
    nets[1].fit(*lazy, optimizer=fc.Adam(0.01), **options)
    np.testing.assert_array_equal(nets[0].params, nets[1].params)
    assert nets[0].evaluate(*lazy, fc.MSELoss()) == pytest.approx(nets[0].evaluate(x, y, fc.MSELoss()), rel=1e-6)
