import dataclasses
import re

import numpy as np
import pytest

from fastfc import metrics
from fastfc.cli import demo_datasets as runs
from fastfc.cli.demo_datasets import RUNS, real_run
from fastfc.data import datasets


@pytest.mark.parametrize(("name", "least"), [("digits", 0.98), ("breast_cancer", 0.97), ("wine", 0.97)])
def test_classifiers_reach_their_target(name, least, capsys):
    if name != "digits":
        pytest.importorskip("sklearn")
    value = real_run(name)["accuracy"]
    assert least <= value < 1
    assert f"held-out samples right: {value:.2%} (target {100 * least:.0f} %)" in capsys.readouterr().out


def test_regression_is_no_worse_than_linear(capsys):
    pytest.importorskip("sklearn")
    values = real_run("diabetes")
    assert 0.4 < values["linear_r2"] <= values["r2"] < 1 and values["rmse"] <= values["linear_rmse"]
    out = capsys.readouterr().out
    assert all(f"{values[name]:.3f}" in out for name in ("r2", "linear_r2"))


@pytest.mark.skipif(not datasets.FASHION_MNIST.is_dir(), reason="dataset-fashion-mnist is not installed")
def test_fashion_mnist_on_a_part():
    run = RUNS["fashion_mnist"]
    ((x, y, x_test, y_test),) = runs.parts(run)
    net, history = runs.train(run, x[:12_000], y[:12_000], epochs=6, seed=0)
    assert len(history.loss) == len(history.seconds) == 6
    assert metrics.accuracy(y_test, net.predict(x_test)) >= 0.84


def test_every_sample_is_held_out_once():
    run = dataclasses.replace(RUNS["digits"], repeats=2)
    pieces = runs.parts(run)
    assert len(pieces) == 2 * runs.FOLDS
    everything = np.sort(run.load()[0].sum(axis=1))
    for half in (pieces[: runs.FOLDS], pieces[runs.FOLDS :]):
        np.testing.assert_array_equal(np.sort(np.concatenate([x.sum(axis=1) for _, _, x, _ in half])), everything)
        for x, y, x_test, y_test in half:
            assert len(x) + len(x_test) == len(y) + len(y_test) == len(everything)
            assert 0.19 < len(x_test) / len(everything) < 0.21
    assert not np.array_equal(pieces[0][3], pieces[runs.FOLDS][3])


def test_networks_scale_their_samples():
    rng = np.random.default_rng(0)
    x, y = rng.normal([1, 50], [2, 300], (100, 2)).astype(np.float32), rng.normal(size=(100, 1))
    run = dataclasses.replace(RUNS["diabetes"], sizes=[2, 3, 1])
    net, _ = runs.train(run, x, y, epochs=1, seed=0)
    np.testing.assert_allclose(net[0].predict(x).mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(net[0].predict(x).std(axis=0), 1, rtol=1e-6)
    net, _ = runs.train(dataclasses.replace(run, images=True), x, y, epochs=1, seed=0)
    np.testing.assert_allclose(net[0].predict(x), (x - x.mean()) / x.std(), rtol=1e-4, atol=1e-4)


def test_the_last_quarter_of_the_epochs_is_slower():
    run, (x, y) = RUNS["digits"], datasets.load_digits()
    for epochs, slow in ((8, 2), (3, 0)):
        _, history = runs.train(run, x[:50], y[:50], epochs=epochs, seed=0)
        np.testing.assert_allclose(history["lr"], [run.lr] * (epochs - slow) + [run.lr / 10] * slow)


def test_linear_regression_is_scikit_learns():
    linear_model = pytest.importorskip("sklearn.linear_model")
    x, y, x_test, _ = runs.parts(RUNS["diabetes"])[0]
    expected = linear_model.LinearRegression().fit(x, y).predict(x_test)
    np.testing.assert_allclose(runs.linear_regression(x, y, x_test), expected, rtol=1e-4)


def test_epochs_and_seed_are_yours(capsys):
    values = [real_run("digits", epochs=epochs, seed=seed)["accuracy"] for epochs, seed in [(1, 0), (1, 0), (1, 1)]]
    assert values[0] == values[1] != values[2]
    assert capsys.readouterr().out.count("; 1 epoch of AdamW") == 3


def test_picture_of_the_training(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    file = tmp_path / "history.svg"
    real_run("digits", epochs=2, plot_file=file)
    assert "<svg" in file.read_text() and re.search(r"wrote .*history\.svg", capsys.readouterr().out)
