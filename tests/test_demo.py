import re

import numpy as np
import pytest

import fastfc as fc
from fastfc.benchmark import numpy_network
from fastfc.cli import demo
from fastfc.cli.main import main
from fastfc.data.datasets import load_digits


def test_demo_trains_both_to_the_same_end(capsys):
    demo.demo(epochs=30, seed=0, plot_file=None)
    out = capsys.readouterr().out
    rows = re.findall(r"^ +(\d+) +([\d.]+) +([\d.]+)$", out, re.MULTILINE)
    assert [int(row[0]) for row in rows] == list(range(1, 31))
    losses = np.array([row[1:] for row in rows], float)
    assert (losses[-1] < 0.01).all() and (losses[0] > 0.5).all()
    assert float(re.search(r"largest difference of the losses: (\S+)", out)[1]) < 1e-3
    assert all(float(right) >= 97 for right in re.findall(r"([\d.]+)%", out))
    assert "times as fast" in out


def test_one_step_of_the_reference_is_one_step_of_fastfc():
    images, labels = load_digits()
    net = fc.MLP(numpy_network.SIZES, seed=1, dtype=np.float64)
    layers = [(layer.weight.copy(), layer.bias.copy()) for layer in net if isinstance(layer, fc.Linear)]
    velocities = [(np.zeros_like(weight), np.zeros_like(bias)) for weight, bias in layers]
    x, y = images[:50].astype(np.float64), labels[:50]
    optimizer = fc.SGD(lr=numpy_network.LR, momentum=numpy_network.MOMENTUM)
    for _ in range(3):
        loss = numpy_network.reference_step(x, y, layers, velocities)
        assert net.train_step(x, y, fc.CrossEntropyLoss(), optimizer) == pytest.approx(loss, rel=1e-12)
    flat = np.concatenate([parameter.ravel() for layer in layers for parameter in layer])
    np.testing.assert_allclose(net.params, flat, rtol=1e-10, atol=1e-13)


def test_the_seed_decides_the_start(capsys):
    outs = []
    for seed in [0, 0, 1]:
        demo.demo(epochs=1, seed=seed, plot_file=None)
        outs.append(re.findall(r"^ +1 .*$", capsys.readouterr().out, re.MULTILINE))
    assert outs[0] == outs[1] != outs[2]


def test_command(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")  # so that it must start over in a new process
    assert main(["demo", "--epochs", "2", "--seed", "3"]) == 0
    out, err = capfd.readouterr()
    assert "time of 2 epochs" in out and err == ""
