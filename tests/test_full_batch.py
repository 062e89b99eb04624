import copy
import pickle

import numpy as np
import pytest
from nopython_code import train_step
from numpy.testing import assert_allclose, assert_array_equal
from processes import run

import fastfc as fc
from fastfc import reference
from fastfc.kernels.training import lbfgs, levenberg_marquardt

X = np.linspace(-1, 1, 50)[:, None]
Y = np.sin(3 * X)
MSE = fc.MSELoss()
OPTIMIZERS = [fc.LBFGS, fc.LevenbergMarquardt]
optimizers = pytest.mark.parametrize("make", OPTIMIZERS)


def to_the_end(make, **options):
    """Without the tolerances that end L-BFGS early."""
    return make(**options, **({"tolerance_grad": 0.0, "tolerance_change": 0.0} if make is fc.LBFGS else {}))


def net_for(dtype=np.float64, seed=0):
    return fc.MLP([1, 8, 1], activation="tanh", seed=seed, dtype=dtype)


@optimizers
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_sine_is_learnt(make, dtype):
    net = net_for(dtype)
    history = net.fit(X, Y, loss=MSE, optimizer=to_the_end(make), epochs=100, seed=0)
    assert net.evaluate(X, Y, MSE) < (1e-6 if dtype == np.float64 else 1e-4)
    assert np.all(np.diff(history.loss) <= np.finfo(dtype).eps)


@optimizers
def test_a_linear_model_is_least_squares(make):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 3)), rng.standard_normal((40, 2))
    net = fc.MLP([3, 2], seed=0, dtype=np.float64)
    net.fit(x, y, loss=MSE, optimizer=to_the_end(make), epochs=10)
    expected, *_ = np.linalg.lstsq(np.column_stack([x, np.ones(40)]), y, rcond=None)
    assert_allclose(net[0].weight, expected[:3], atol=1e-6)
    assert_allclose(net[0].bias, expected[3], atol=1e-6)


def test_one_step_of_levenberg_marquardt_by_the_formula():
    net, rng = fc.Sequential([fc.Linear(3, 2, seed=0, dtype=np.float64), fc.Tanh()]), np.random.default_rng(0)
    x, y, w = rng.standard_normal((70, 3)), rng.uniform(-1, 1, (70, 2)), rng.uniform(0.5, 2, 70)
    output, start = net.predict(x), net.params.copy()
    jacobian = np.empty((140, 8))
    for i in range(70):
        for j in range(2):
            net.forward(x[i : i + 1])
            net.backward(np.eye(2)[j : j + 1])
            jacobian[2 * i + j] = net.grads
    root, expected = np.sqrt(np.repeat(w, 2)), start.copy()
    reference.levenberg_marquardt(expected, jacobian * root[:, None], (output - y).ravel() * root, 0.5)
    optimizer = fc.LevenbergMarquardt(damping=0.5)
    net.train_step(x, y, MSE, optimizer, w)
    assert_allclose(net.params, expected, rtol=1e-10, atol=1e-12)
    assert optimizer.count[1:].view(float) == 0.05


def test_directions_of_lbfgs_by_the_formula():
    def gradient():
        net.backward(MSE(net.forward(X), Y)[1])
        return net.grads.copy()

    net, optimizer = net_for(), fc.LBFGS(max_iter=1, max_eval=25, history_size=3)
    steps, changes = [], []
    for _ in range(8):
        start, grad = net.params.copy(), gradient()
        net.train_step(X, Y, MSE, optimizer)
        step, expected = net.params - start, reference.lbfgs_direction(grad, steps[-3:], changes[-3:])
        assert_allclose(step / np.linalg.norm(step), expected / np.linalg.norm(expected), atol=1e-9)
        steps.append(step)
        changes.append(gradient() - grad)


def rosenbrock(w):
    return (1 - w[0]) ** 2 + 100 * (w[1] - w[0] ** 2) ** 2


def test_lbfgs_crosses_a_curved_valley():
    """A network whose two outputs are 1 − a and 10 (b − a²), from its inputs (1, 0) and (0, 1)."""
    one, ten = fc.Input(1), fc.Input(1)
    a, b = (
        fc.Linear(1, 1, bias=False, init="zeros", dtype=np.float64),
        fc.Linear(1, 1, bias=False, init="zeros", dtype=np.float64),
    )
    a.weight = [[-1.2]]
    b.weight = [[1.0]]
    line = a(one)
    net = fc.Graph([one, ten], [line, 10 * b(ten) - 10 * line * line])
    target, x = (np.ones((1, 1)), np.zeros((1, 1))), (np.ones((1, 1)), np.ones((1, 1)))
    loss = fc.MSELoss(reduction="sum")
    for _ in range(5):
        value = net.train_step(x, target, loss, optimizer := to_the_end(fc.LBFGS, max_iter=40, max_eval=80))
    assert value < 1e-12
    assert_allclose(net.params, 1, atol=1e-6)
    assert optimizer.count[0] < 80


@optimizers
def test_frozen_parameters_and_the_others(make):
    net = net_for()
    before = net.params.copy()
    net.fit(X, Y, loss=MSE, optimizer=make(groups={"0.*": {"frozen": True}}), epochs=3)
    assert_array_equal(net.params[:16], before[:16])
    assert (net.params[16:] != before[16:]).all()


def test_weight_decay_is_ridge_regression():
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((40, 3)), rng.standard_normal((40, 1))
    net = fc.Sequential([fc.Linear(3, 1, bias=False, dtype=np.float64)])
    net.fit(x, y, loss=MSE, optimizer=to_the_end(fc.LBFGS, weight_decay=0.5), epochs=5)
    expected = np.linalg.solve(2 * x.T @ x / 40 + 0.5 * np.eye(3), 2 * x.T @ y / 40)
    assert_allclose(net.params, expected[:, 0], atol=1e-6)


@optimizers
def test_pickles_go_on(make):
    net, optimizer = net_for(), make()
    net.fit(X, Y, loss=MSE, optimizer=optimizer, epochs=3, shuffle=False)
    twin, other = pickle.loads(pickle.dumps((net, optimizer)))
    third, fourth = copy.deepcopy((net, optimizer))
    for n, o in ((net, optimizer), (twin, other), (third, fourth)):
        n.fit(X, Y, loss=MSE, optimizer=o, epochs=3, shuffle=False)
    assert_array_equal(net.params, twin.params)
    assert_array_equal(net.params, third.params)


@optimizers
def test_in_nopython_code(make):
    net, twin, optimizer, other = net_for(), net_for(), make(), make()
    net.reserve(len(X))
    optimizer.prepare(net)
    for _ in range(5):
        assert train_step(net, X, Y, MSE, optimizer) == twin.train_step(X, Y, MSE, other)
    assert_array_equal(net.params, twin.params)


def test_a_nan_ends_the_search():
    for make in OPTIMIZERS:
        net, bad = net_for(), Y.copy()
        before, bad[3] = net.params.copy(), np.nan
        with pytest.raises(ValueError, match="y is not finite in row 3"):
            net.fit(X, bad, loss=MSE, optimizer=make(), epochs=3)
        assert_array_equal(net.params, before)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: fc.LBFGS(lr=0), ValueError, "LBFGS: lr"),
        (lambda: fc.LBFGS(max_iter=0), ValueError, "LBFGS: max_iter must be at least 1"),
        (lambda: fc.LBFGS(history_size=1.5), TypeError, "LBFGS: history_size must be an integer"),
        (lambda: fc.LBFGS(tolerance_grad=-1), ValueError, "LBFGS: tolerance_grad"),
        (lambda: fc.LevenbergMarquardt(damping=0), ValueError, "LevenbergMarquardt: damping"),
        (lambda: fc.LevenbergMarquardt(factor=1), ValueError, "factor must be more than 1"),
        (lambda: fc.LBFGS().step(net_for()), TypeError, "needs the loss and the data"),
        (
            lambda: net_for().fit(X, Y, loss=fc.L1Loss(), optimizer=fc.LevenbergMarquardt()),
            TypeError,
            r"it takes MSELoss\(\), not L1Loss",
        ),
        (
            lambda: net_for().fit(X, Y, loss=MSE, optimizer=fc.LBFGS(), accumulate=2),
            ValueError,
            "takes all samples at once; accumulate",
        ),
    ],
)
def test_bad_options(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_against_pytorch():
    """Steps of different line searches differ; both have to come as far with as many evaluations."""
    torch = pytest.importorskip("torch")
    net = net_for()
    other = torch.nn.Sequential(torch.nn.Linear(1, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1)).double()
    with torch.no_grad():
        for layer, ours in ((other[0], net[0]), (other[2], net[2])):
            layer.weight[:] = torch.tensor(ours.weight.T.copy())
            layer.bias[:] = torch.tensor(ours.bias.copy())
    theirs = torch.optim.LBFGS(other.parameters(), line_search_fn="strong_wolfe", max_iter=100, max_eval=125)
    x, y = torch.tensor(X), torch.tensor(Y)

    def closure():
        theirs.zero_grad()
        loss = ((other(x) - y) ** 2).mean()
        loss.backward()
        return loss

    optimizer = fc.LBFGS(max_iter=100, max_eval=125)
    first = net.train_step(X, Y, MSE, optimizer)
    assert_allclose(first, theirs.step(closure).item(), rtol=1e-12)
    assert net.evaluate(X, Y, MSE) < 3 * closure().item()


def test_both_are_compiled_only_when_they_are_used():
    assert lbfgs.lbfgs.optional and levenberg_marquardt.levenberg_marquardt.optional


PICKLED = """
import pickle, sys, numpy as np, fastfc as fc
from nopython_code import train_step

net, optimizer, x, y = pickle.loads(bytes.fromhex(sys.stdin.read()))
net.reserve(len(x))
print(train_step(net, x, y, fc.MSELoss(), optimizer).hex())
"""


@pytest.mark.few(1)
@optimizers
def test_pickles_go_on_in_nopython_code_of_another_process(make):
    net, optimizer = net_for(), make()
    net.train_step(X, Y, MSE, optimizer)
    given = pickle.dumps((net, optimizer, X, Y)).hex()
    code = PICKLED.replace("sys.stdin.read()", repr(given))
    assert run(code)[0].split() == [net.train_step(X, Y, MSE, optimizer).hex()]


def ready(make, sizes=(1, 4, 1)):
    net, optimizer = fc.MLP(sizes, activation="tanh", seed=0, dtype=np.float64), make()
    net.reserve(len(X))
    optimizer.prepare(net)
    return net, optimizer


@optimizers
def test_a_state_of_too_few_rows_is_refused(make):
    net, optimizer = ready(make)
    optimizer.state = optimizer.state[:3]
    with pytest.raises(ValueError, match=r"call optimizer.prepare\(net\)"):
        train_step(net, X, Y, MSE, optimizer)


def test_a_state_for_fewer_outputs_is_refused():
    net, _ = ready(fc.LevenbergMarquardt, (1, 5))
    _, optimizer = ready(fc.LevenbergMarquardt, (9, 1))
    with pytest.raises(ValueError, match=r"call optimizer.prepare\(net\)"):
        train_step(net, X, np.repeat(Y, 5, axis=1), MSE, optimizer)


def test_levenberg_marquardt_refuses_what_is_no_sum_of_squares_of_samples():
    net, optimizer = ready(fc.LevenbergMarquardt, (1, 3))
    before = net.params.copy()
    for loss, y in ((fc.CrossEntropyLoss(), np.arange(50) % 3), (fc.L1Loss(), np.repeat(Y, 3, axis=1))):
        with pytest.raises(ValueError, match=r"takes MSELoss\(\)"):
            train_step(net, X, y, loss, optimizer)
    assert_array_equal(net.params, before)
    for layer in (fc.BatchNorm1d(4, dtype=np.float64), fc.Dropout(0.5)):
        hidden, output = fc.Linear(1, 4, dtype=np.float64), fc.Linear(4, 1, dtype=np.float64)
        with pytest.raises(ValueError, match="without BatchNorm1d and Dropout"):
            fc.Sequential([hidden, layer, output]).train_step(X, Y, MSE, fc.LevenbergMarquardt())


def test_the_loss_of_a_step_is_without_weight_decay():
    net = net_for()
    assert net.evaluate(X, Y, MSE) == pytest.approx(net.train_step(X, Y, MSE, fc.LBFGS(weight_decay=1.0)))


def test_lbfgs_shortens_steps_to_where_no_loss_is_defined():
    net = fc.MLP([1, 1], init="zeros", dtype=np.float64)
    net.params[1] = 0.5
    losses = net.fit(X, X > 0, loss=fc.BCELoss(), optimizer=fc.LBFGS(), epochs=2).loss
    assert losses[1] < losses[0]


def test_the_factor_stays_more_than_one():
    optimizer = fc.LevenbergMarquardt()
    with pytest.raises(ValueError, match="factor must be more than 1"):
        optimizer.factor = 1.0


def test_a_gradient_that_is_no_number_is_reported():
    net, x = fc.MLP([1, 2, 1], activation="sigmoid", seed=0, dtype=np.float64), X.copy()
    x[3] = np.inf
    assert np.isfinite(net.evaluate(x, Y, MSE))
    with pytest.raises(ValueError, match="x is not finite in row 3"):
        net.fit(x, Y, loss=MSE, optimizer=fc.LBFGS())


@pytest.mark.parametrize("optimizer", [fc.LBFGS(), fc.LevenbergMarquardt()], ids=lambda o: type(o).__name__)
def test_options_of_other_optimizers_are_refused(optimizer):
    for name, value in (("clip_norm", 1.0), ("l2", 0.1), ("schedule", fc.StepLR(1)), ("max_norm", 2.0)):
        with pytest.raises(ValueError, match=f"it has no {name}"):
            setattr(optimizer, name, value)
        assert not getattr(optimizer, name)
    with pytest.raises(ValueError, match=r"groups have the options .*frozen, not 'lr'"):
        optimizer.groups = {"*": {"lr": 0.1}}
