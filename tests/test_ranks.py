"""Training on several ranks, by mpiexec, which runs ranks_program.py: the bits, who fails, and that nobody waits."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import ranks_ensembles
import ranks_program as program
from numba import njit

import fastfc as fc
from fastfc.training.distributed import add_in_tree, sums_of

TESTS = Path(__file__).parent
BESIDE = Path(sys.executable).parent  # where pip puts mpiexec


def mpiexec():
    pytest.importorskip("mpi4py", reason="needs mpi4py and an MPI: pip install 'fastfc[mpi]'")
    found = shutil.which("mpiexec", path=os.pathsep.join([str(BESIDE), os.environ["PATH"]]))
    if found is None:
        pytest.skip("needs mpiexec: pip install 'fastfc[mpi]'")
    return found


def start(ranks, folder, *names):
    command = [mpiexec(), "-n", str(ranks), sys.executable, "-m", "mpi4py", str(TESTS / "ranks_program.py")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([*command, str(folder), *names], **pipes)


def results(ranks, folder, *names):
    """What these functions of the program return, on each rank."""
    process = start(ranks, folder, *names)
    output, errors = process.communicate(timeout=2 * program.GIVE_UP)
    assert process.returncode == 0, output + errors
    return [json.loads((folder / f"{ranks}-{rank}.json").read_text()) for rank in range(ranks)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("ranks")


@pytest.fixture(scope="module")
def two(folder):
    names = "same_bits", "outputs", "unseeded", "interrupted_run", "like_pytorch", "page"
    return results(2, folder, *names, "ensembles", "ensemble_outputs", "fitted", "ctrl_c")


@pytest.fixture(scope="module")
def three(folder, two):
    """After two ranks, whose file they take up."""
    names = "same_bits", "outputs", "unseeded", "resumed_run", "failures", "disagreements", "some_weights"
    of_ensembles = "ensembles", "ensemble_outputs", "ensemble_failures", "fitted", "estimator_failures"
    return results(3, folder, *names, *of_ensembles)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """One process, without MPI."""
    place = program.Place(None, tmp_path_factory.mktemp("alone"))
    return {name: program.digest(*program.train(name, place)) for name in program.CASES}


def check_bits(ranks, alone):
    for of_rank in ranks:
        for rows in ("same", "local"):
            assert {name: of_rank["same_bits"][f"{name}, {rows}"] for name in alone} == alone


def test_same_bits_on_two_ranks(two, alone):
    check_bits(two, alone)


def test_same_bits_on_three_ranks(three, alone):
    """Of which none has a power of two of the shards."""
    check_bits(three, alone)


def test_against_ddp_of_pytorch(two, tmp_path):
    """DistributedDataParallel with gloo on two processes: the same parameters, in float64."""
    pytest.importorskip("torch", reason="needs PyTorch: pip install 'fastfc[torch]'")
    command = [sys.executable, str(TESTS / "ranks_program.py"), str(tmp_path)]
    env = os.environ | {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    both = [subprocess.Popen([*command, "ddp", str(rank)], env=env) for rank in range(2)]
    assert [process.wait(program.GIVE_UP) for process in both] == [0, 0]
    expected = np.load(tmp_path / "ddp.npy")
    for of_rank in two:
        np.testing.assert_allclose(of_rank["like_pytorch"], expected, rtol=0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 4, 8])
def test_same_bits(ranks, folder, alone):
    found = results(ranks, folder, "same_bits", "outputs", "ensembles", "ensemble_outputs", "fitted")
    check_bits(found, alone)
    check_ensembles(found)
    check_estimators(found)
    assert all(all(of_rank["outputs"].values()) for of_rank in found)


def check_ensembles(ranks):
    expected = ranks_ensembles.ensembles(program.Place(None, "."))
    for of_rank in ranks:
        assert of_rank["ensembles"] == expected
        assert [name for name, same in of_rank["ensemble_outputs"].items() if not same] == []


@pytest.mark.parametrize("ranks", ["two", "three"])
def test_ensembles(ranks, request):
    """Of 7, 5 and 2 members all ranks hold all, with the bits of one process, however they stop or diverge."""
    check_ensembles(request.getfixturevalue(ranks))


def check_estimators(ranks):
    expected = ranks_ensembles.fitted(program.Place(None, "."))
    assert [of_rank["fitted"] for of_rank in ranks] == [expected] * len(ranks)


@pytest.mark.parametrize("ranks", ["two", "three"])
def test_estimators(ranks, request):
    """Members and folds are dealt to ranks, which all hold the estimator of one process then."""
    check_estimators(request.getfixturevalue(ranks))


@pytest.mark.parametrize("ranks", ["two", "three"])
def test_outputs(ranks, request):
    """evaluate and predict give on every rank what one process gives."""
    for of_rank in request.getfixturevalue(ranks):
        assert of_rank["outputs"] == dict.fromkeys(("same", "local", "predict", "out", "one"), True)


def test_page(two, folder):
    assert len({of_rank["page"] for of_rank in two}) == 1
    assert (folder / "digits.safetensors").exists()


def test_begin_with_what_rank_0_has(two, three):
    for ranks in (two, three):
        assert len({of_rank["unseeded"] for of_rank in ranks}) == 1


def test_resume_on_another_number_of_ranks(two, three, tmp_path):
    """Two ranks write a file after two epochs, three go on from it; one process makes all four."""
    whole = program.whole_run(program.Place(None, tmp_path))
    assert {of_rank["resumed_run"] for of_rank in three} == {whole}
    assert two[0]["interrupted_run"] != whole


def test_failures(three):
    """What is raised on one rank is raised on all, within seconds."""
    first, _, last = (of_rank["failures"] for of_rank in three)
    assert first["callback"] == "RuntimeError: fit: rank 2 of 3 raised OSError: no space left"
    assert last["callback"] == "OSError: no space left"
    assert first["metric"].startswith("RuntimeError: fit: rank 2 of 3 raised ZeroDivisionError")
    assert first["undone"] and last["undone"]
    assert first["interrupt"] == "KeyboardInterrupt: rank 2 was interrupted"
    assert (
        first["argument"]
        == "RuntimeError: fit: rank 2 of 3 raised ValueError: fit: batch_size must be at least 1, got -1"
    )
    assert "x is not finite in row 200" in last["not finite"]
    for failures in (first, last):
        assert "options of the optimizer of rank 2 are no longer those of rank 0" in failures["learning rate"]
        assert failures["epochs"] == "ValueError: fit: epochs differs between ranks: rank 0 has 2, rank 2 3"
        assert "the optimizer differs" in failures["optimizer"] and "lr=0.002" in failures["optimizer"]
        assert "(203, 7)" in failures["shape"] and "rank 2 202 rows" in failures["shape"]
        assert "the training data differs" in failures["data"]
        assert failures["everyone"] == "ValueError: fit: batch_size must be at least 1, got -1"
        assert failures["shards"] == "ValueError: fit: shards differs between ranks: rank 0 has 16, rank 1 17"
        assert failures["few shards"] == "ValueError: fit: there are 3 ranks for 1 shards; give shards=3, or more"
        assert failures["metrics"] == "ValueError: fit: metrics differs between ranks: rank 0 has r2, rank 2 mae"
        assert "EarlyStopping('loss', patience=2)" in failures["patience"]
        assert "what is trained, and how differs between ranks" in failures["frozen"]
        assert "BatchNorm1d" in failures["batch norm"] and "frozen" in failures["batch norm"]
        assert (
            failures["metrics of one"] == "ValueError: fit: metrics differs between ranks: rank 0 has none, rank 2 mae"
        )
        assert "validation_data differs between ranks: rank 0 has none, rank 2 given" in failures["validation of one"]
        assert "class_weight differs between ranks: rank 0 has None, rank 2 'balanced'" in failures["balanced by one"]
        assert failures["diverged"] == first["diverged"] and len(failures["diverged"]) == 1
        assert failures["stopped"] == "nothing" and failures["epochs of stopped"] == 1
        assert failures["seconds"] < 60


def test_failures_of_ensembles(three):
    """All ranks raise, within seconds, and hold the same ensemble, that of the end of the epoch before."""
    first, _, last = (of_rank["ensemble_failures"] for of_rank in three)
    for key, text in {"callback": "no space left", "joint": "no space left", "end": "too late"}.items():
        assert first[key][0] == f"RuntimeError: fit: rank 2 of 3 raised OSError: {text}"
        assert last[key] == [f"OSError: {text}", first[key][1]]
    assert first["interrupt"] == ["KeyboardInterrupt: rank 2 was interrupted", last["interrupt"][1]]
    assert first["metric"][0].startswith("RuntimeError: fit: rank 2 of 3 raised ZeroDivisionError")
    assert first["undone"] and last["undone"]
    assert first["argument"][0].endswith("rank 2 of 3 raised ValueError: fit: subset must lie in [0, 1], got 7.0")
    texts = {
        "frozen": "the rank that trains member 4 has changed it to Sequential([Linear(5, 2)]), of which nothing",
        "changed": "the parameters of rank 2 are no longer those of rank 0",
        "stop": "nothing",
        "seed": "seed differs between ranks: rank 0 has 0, rank 2 1",
        "optimizer": "the optimizer of member 3 differs between ranks",
        "members": "the number of members differs between ranks: rank 0 has 5, rank 2 6",
        "network": "the network differs between ranks",
        "subset": "subset differs between ranks: rank 0 has None, rank 2 0.5",
        "weights": "sample_weight differs between ranks",
        "metrics": "metrics differs between ranks: rank 0 has none, rank 2 mae",
        "joint callbacks": "joint_callbacks differs between ranks: rank 0 has none",
        "unseeded": "nothing",
        "diverged": "nothing",
    }
    for key, text in texts.items():
        assert text in first[key][0] and first[key][0] == last[key][0], first[key]
    for key in ("frozen", "stop", "unseeded", "diverged", "callback"):
        assert first[key] == [first[key][0], last[key][1]]
    assert first["stopped"] == last["stopped"] == 1
    assert len(first["warnings"]) == 5 and first["warnings"] == last["warnings"]
    assert max(first["seconds"], last["seconds"]) < 60


def test_ctrl_c(two):
    """One in the middle of an exchange, or after another rank had told of its own, made ranks wait for good."""
    assert two[0]["ctrl_c"] == two[1]["ctrl_c"]
    for i, (text, _, epochs) in enumerate(two[0]["ctrl_c"]):
        assert text == ("nothing" if i % 2 else "KeyboardInterrupt") and 1 <= epochs < 10**6


def test_failures_of_estimators(three):
    """A rank in the middle of a long training hears of one that has failed."""
    first, _, last = (of_rank["estimator_failures"] for of_rank in three)
    for key, name in {"callback": "MLPClassifier", "real callback": "RealMLPClassifier"}.items():
        assert first[key] == f"RuntimeError: {name}.fit: rank 2 of 3 raised OSError: no space left"
        assert last[key] == "OSError: no space left"
    for failures in (first, last):
        assert "MLPClassifier.fit: alpha differs between ranks: rank 0 has 0.2, rank 2 0.1" in failures["parameters"]
        assert "RealMLPClassifier.fit: lr differs between ranks: rank 0 has None" in failures["real parameters"]
        assert "y differs between ranks: rank 0 has an array (90, 2) of float64" in failures["targets"]
        assert failures["argument"].startswith("InvalidParameterError: The 'n_ens' parameter")
        assert failures["seconds"] < 60


def test_disagreements(three):
    """Rows of networks that differ were put together as if they were of one."""
    for of_rank in three:
        evaluated, predicted, rows, params = of_rank["disagreements"]
        assert evaluated.startswith("evaluate: the digest of the parameters differs between ranks")
        assert predicted.startswith("predict: the digest of the parameters differs between ranks")
        assert rows == "predict: the number of rows differs between ranks: rank 0 has 100, rank 1 101"
        assert "params (1,) does not fit" in params


def test_weights_on_some_ranks(three):
    for of_rank in three:
        some, everywhere = of_rank["some_weights"]
        assert some == everywhere


@pytest.mark.parametrize("name", ["killed", "ensemble_killed"])
def test_a_rank_is_killed(name, folder):
    """mpiexec ends the others."""
    process, begin = start(2, folder, name), time.perf_counter()
    process.communicate(timeout=2 * program.GIVE_UP)
    assert process.returncode != 0
    assert time.perf_counter() - begin < program.GIVE_UP / 2


def train_command(csv, *options, prefix=()):
    command = [*prefix, sys.executable, "-m", "fastfc", "train", str(csv), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=program.GIVE_UP)


def test_command_train(tmp_path):
    """`mpiexec -n 2 fastfc train`: one rank writes, to terminal and files; the network is that of one process."""
    csv, lines = tmp_path / "table.csv", ["a,b,y"]
    lines += [f"{a:.3f},{b:.3f},{2 * a - b:.3f}" for a, b, *_ in program.X]
    csv.write_text("\n".join(lines))
    options, prefix = ["--target", "y", "--network", "mlp", "--epochs", "3"], [mpiexec(), "-n", "2"]
    both = train_command(csv, *options, "--out", tmp_path / "2.safetensors", prefix=prefix)
    assert both.returncode == 0, both.stderr
    assert both.stdout.count("held out,") == 1 and both.stdout.count("wrote") == 1
    assert train_command(csv, *options, "--out", tmp_path / "1.safetensors").returncode == 0
    one, two = (fc.load(tmp_path / f"{n}.safetensors") for n in (1, 2))
    np.testing.assert_allclose(two.params, one.params, rtol=0, atol=1e-4)
    several = [
        "--target",
        "y",
        "--epochs",
        "2",
        "--n-ens",
        "3",
        "--out",
    ]  # each on a rank, with the bits of one process
    assert train_command(csv, *several, tmp_path / "several.safetensors", prefix=prefix).returncode == 0
    assert train_command(csv, *several, tmp_path / "alone.safetensors").returncode == 0
    several, alone = (fc.load(tmp_path / f"{name}.safetensors") for name in ("several", "alone"))
    np.testing.assert_array_equal(several.params, alone.params)
    wrong = train_command(csv, "--target", "z", prefix=prefix)
    assert wrong.returncode == 2 and wrong.stderr.count('there is no column "z"') == 1, wrong.stderr


# ---- in one process


@pytest.mark.parametrize("name", program.CASES)
def test_shards_are_a_rounding(name, tmp_path):
    """The same training without shards: means are taken once, masks of dropout are those of the rows of a batch."""
    place = program.Place(None, tmp_path)
    net, history = program.train(name, place)
    place.options = lambda rows: {}
    expected, plain = program.train(name, place)
    eps = 1e-4 if net.dtype == np.float32 else 1e-9 if "Levenberg" in name or "L-BFGS" in name else 1e-12
    np.testing.assert_allclose(net.params, expected.params, rtol=0, atol=eps)
    for row, other in zip(history.rows, plain.rows, strict=True):
        for column in row.keys() - {"seconds"}:
            assert row[column] == pytest.approx(other[column], abs=10 * eps), column


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 16, 40])
def test_several_losses(shards):
    """A sum, a mean over classes some of which are ignored, and a mean, of a batch smaller than the shards too."""
    rng = np.random.default_rng(shards)
    x, labels = rng.normal(size=(37, 4)), rng.integers(0, 3, 37)
    labels[rng.uniform(size=37) < 0.3] = -100
    y = rng.normal(size=(37, 2)), labels, rng.uniform(size=(37, 1))

    def trained(**options):
        inputs = fc.Input(4)
        h = fc.Tanh()(fc.Linear(4, 8, seed=0, dtype=np.float64)(inputs))
        outputs = [fc.Linear(8, n, seed=n, dtype=np.float64)(h) for n in (2, 3, 1)]
        net = fc.Graph(inputs=inputs, outputs=outputs)
        losses = [fc.MSELoss(reduction="sum"), fc.CrossEntropyLoss(weight=[1.0, 3.0, 0.2]), fc.L1Loss()]
        history = net.fit(
            x, y, loss=fc.MultiLoss(losses, weights=[0.1, 1.0, 2.0]), optimizer=fc.SGD(0.05), epochs=3, batch_size=10,
            seed=0, **options,
        )  # fmt: skip
        return net.params, history.loss

    params, losses = trained(shards=shards)
    expected, plain = trained()
    np.testing.assert_allclose(params, expected, rtol=0, atol=1e-13)
    np.testing.assert_allclose(losses, plain, rtol=1e-12)


@pytest.mark.parametrize("shards", [1, 5, 16])
@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
def test_tree_of_sums(shards, ranks):
    """It is the same tree for any number of ranks: here of numbers whose sums round."""
    if ranks > shards:
        pytest.skip("more ranks than shards")
    numbers = np.random.default_rng(0).normal(size=(shards, 3)).astype(np.float32)
    ones = np.array([np.arange(shards), np.ones(shards, np.int64)])
    expected = add_in_tree(ones, list(numbers.copy()))
    layouts, sums = [], []
    for rank in range(ranks):
        first, last = shards * rank // ranks, shards * (rank + 1) // ranks
        layouts.append(sums_of(first, last)[0])
        for begin, size in layouts[-1].T:
            part = np.array([np.arange(size), np.ones(size, np.int64)])
            sums.append(add_in_tree(part, list(numbers[begin : begin + size].copy())))
    assert (add_in_tree(np.concatenate(layouts, axis=1), sums) == expected).all()


def test_batches_and_arrays_on_disk(tmp_path, monkeypatch):
    """Data that come in parts are cut into shards too."""
    monkeypatch.setattr("fastfc.data.streams.IN_MEMORY", 0)
    x = np.memmap(tmp_path / "x", np.float64, "w+", shape=program.X.shape)
    x[:] = program.X

    def trained(*data, **options):
        net = program.network(2)
        history = net.fit(*data, loss=fc.MSELoss(), optimizer=fc.Adam(1e-2), epochs=2, batch_size=50, seed=0, **options)
        return net.params, history.loss

    batches = [(program.X[i : i + 50], program.TARGET[i : i + 50]) for i in range(0, program.N, 50)]
    for data in ((batches,), (x, program.TARGET)):
        params, losses = trained(*data, shards=4)
        expected, plain = trained(*data)
        np.testing.assert_allclose(params, expected, rtol=0, atol=1e-12)
        np.testing.assert_allclose(losses, plain, rtol=1e-12)


class OneRank:
    """What a communicator of mpi4py with one rank is to fastfc."""

    Get_rank, Get_size = (lambda self: 0), (lambda self: 1)
    Allgather = Allgatherv = Alltoallv = Sendrecv = allgather = bcast = None


def test_communicator_of_one_rank():
    """It is the same as shards without a communicator."""
    place = program.Place(None, ".")
    expected = program.digest(*program.train("L-BFGS", place))
    for rows in ("same", "local"):
        place.options = lambda rows, rows_now=rows: {"comm": OneRank(), "rows": rows_now}
        assert program.digest(*program.train("L-BFGS", place)) == expected


def test_ensembles_on_one_rank():
    assert ranks_ensembles.ensembles(program.Place(None, ".")) == {
        name: ranks_ensembles.digest(*ranks_ensembles.trained(name, OneRank())) for name in ranks_ensembles.CASES
    }


def test_ensembles_refuse_what_is_not_a_communicator():
    pytest.importorskip("sklearn")
    team, samples = fc.Ensemble(ranks_ensembles.small, 2), (ranks_ensembles.X, ranks_ensembles.NUMBERS)
    functions = [
        lambda: team.fit(*samples, loss=fc.MSELoss(), optimizer=fc.Adam(), comm=3),
        lambda: team.evaluate(*samples, fc.MSELoss(), comm=3),
        lambda: team.predict(samples[0], comm=3),
        *(lambda own=own, y=y: own.fit(samples[0], y, comm=3) for own, y in ranks_ensembles.estimators().values()),
    ]
    for function in functions:
        with pytest.raises(TypeError, match=r"comm must be a communicator of mpi4py.*got 3"):
            function()
    with pytest.raises(ValueError, match="rows='local' is for comm"):
        team.evaluate(*samples, fc.MSELoss(), rows="local")


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        (
            {"comm": 3},
            TypeError,
            r"comm must be a communicator of mpi4py, such as MPI.COMM_WORLD .*fastfc\[mpi\].*, got 3",
        ),
        ({"rows": "local"}, ValueError, "rows='local' is for comm"),
        ({"rows": "some", "comm": OneRank()}, ValueError, "rows must be one of 'same', 'local'"),
        ({"shards": 0}, ValueError, "shards must be at least 1"),
    ],
)
def test_wrong_options(options, error, text):
    net = program.network(2)
    with pytest.raises(error, match=text):
        net.fit(program.X, program.TARGET, loss=fc.MSELoss(), optimizer=fc.SGD(0.1), **options)
    if "shards" not in options:
        with pytest.raises(error, match=text):
            net.evaluate(program.X, program.TARGET, fc.MSELoss(), **options)


def test_whole_batches_are_refused_by_name():
    @njit
    def loss(prediction, target, out):
        out[:] = prediction - target
        return 0.0

    for net, objective, name in (
        (fc.Sequential([fc.Linear(7, 2), fc.BatchNorm1d(2)]), fc.MSELoss(), "BatchNorm1d"),
        (program.network(2), fc.CustomLoss(loss), "whole arrays"),
    ):
        with pytest.raises(ValueError, match=name):
            net.fit(program.X, program.TARGET, loss=objective, optimizer=fc.SGD(0.1), shards=4)
    frozen = fc.Sequential([fc.BatchNorm1d(7), fc.Linear(7, 2)])
    frozen[0].frozen = True
    frozen.fit(program.X, program.TARGET, loss=fc.MSELoss(), optimizer=fc.SGD(0.1), shards=4)


def test_fastfc_does_not_import_mpi4py():
    code = "import sys, fastfc, fastfc.sklearn; assert not any(name.startswith('mpi4py') for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
