import copy
import pickle

import numpy as np
import pytest
from numba import njit
from numba.core.dispatcher import Dispatcher
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc
from fastfc import reference
from fastfc.kernels.optim import schedules as rules
from fastfc.kernels.simd.compiler import Helper

ONE_CYCLE = {"total_steps": 80, "pct_start": 0.3, "linear": False, "div_factor": 25, "final_div_factor": 1e4}

# a schedule, its formula with its numbers, and PyTorch's
SCHEDULES = {
    "StepLR": (
        lambda **unit: fc.StepLR(7, gamma=0.5, **unit),
        {"step_size": 7, "gamma": 0.5},
        lambda torch, o: torch.StepLR(o, 7, gamma=0.5),
    ),
    "MultiStepLR": (
        lambda **unit: fc.MultiStepLR([30, 5, 5, 80], **unit),
        {"milestones": (30, 5, 5, 80), "gamma": 0.1},
        lambda torch, o: torch.MultiStepLR(o, [30, 5, 5, 80]),
    ),
    "ExponentialLR": (
        lambda **unit: fc.ExponentialLR(0.95, **unit),
        {"gamma": 0.95},
        lambda torch, o: torch.ExponentialLR(o, 0.95),
    ),
    "CosineAnnealingLR": (
        lambda **unit: fc.CosineAnnealingLR(40, eta_min=0.01, **unit),  # goes up again after 40
        {"T_max": 40, "eta_min": 0.01},
        lambda torch, o: torch.CosineAnnealingLR(o, 40, eta_min=0.01),
    ),
    "CosineAnnealingWarmRestarts": (
        lambda **unit: fc.CosineAnnealingWarmRestarts(5, T_mult=2, eta_min=0.001, **unit),
        {"T_0": 5, "T_mult": 2, "eta_min": 0.001},
        lambda torch, o: torch.CosineAnnealingWarmRestarts(o, 5, T_mult=2, eta_min=0.001),
    ),
    "CosineAnnealingWarmRestarts, all alike": (
        lambda **unit: fc.CosineAnnealingWarmRestarts(9, **unit),
        {"T_0": 9, "T_mult": 1, "eta_min": 0},
        lambda torch, o: torch.CosineAnnealingWarmRestarts(o, 9),
    ),
    "OneCycleLR": (
        lambda **unit: fc.OneCycleLR(0.1, 101, **unit),
        {**ONE_CYCLE, "total_steps": 101, "three_phase": False},
        lambda torch, o: torch.OneCycleLR(o, 0.1, total_steps=101),
    ),
    "OneCycleLR, straight in three phases": (
        lambda **unit: fc.OneCycleLR(None, 120, 0.35, "linear", 4, 50, True, **unit),
        {
            "total_steps": 120,
            "pct_start": 0.35,
            "linear": True,
            "div_factor": 4,
            "final_div_factor": 50,
            "three_phase": True,
        },
        lambda torch, o: torch.OneCycleLR(
            o, 0.1, total_steps=120, pct_start=0.35, anneal_strategy="linear", div_factor=4, final_div_factor=50,
            three_phase=True,
        ),
    ),
    "LinearLR": (
        lambda **unit: fc.LinearLR(0.2, 0.9, 50, **unit),
        {"total": 50, "start": 0.2, "end": 0.9},
        lambda torch, o: torch.LinearLR(o, 0.2, 0.9, total_iters=50),
    ),
    "FlatCosineLR": (
        lambda **unit: fc.FlatCosineLR(100, **unit),
        {"total": 100},
        lambda torch, o: torch.SequentialLR(
            o, [torch.ConstantLR(o, 1.0), torch.CosineAnnealingLR(o, 50)], [50]
        ),
    ),
    "CosLogLR": (
        lambda **unit: fc.CosLogLR(100, **unit),
        {"total": 100, "c": 4},
        lambda torch, o: torch.LambdaLR(o, lambda t: 0.5 - 0.5 * np.cos(2 * np.pi * np.log2(1 + 15 * t / 100))),
    ),
    "CosLogLR, two cycles": (
        lambda **unit: fc.CosLogLR(101, cycles=2, **unit),
        {"total": 101, "c": 2},
        lambda torch, o: torch.LambdaLR(o, lambda t: 0.5 - 0.5 * np.cos(2 * np.pi * np.log2(1 + 3 * t / 101))),
    ),
    "LinearWarmup": (
        lambda **unit: fc.LinearWarmup(10, start_factor=0.2, **unit),
        {"n": 10, "start": 0.2, "after": lambda t: 0.1},
        lambda torch, o: torch.LinearLR(o, 0.2, total_iters=10),
    ),
    "LinearWarmup, then another": (
        lambda **unit: fc.LinearWarmup(10, after=fc.MultiStepLR([20, 40], **unit), **unit),
        {"n": 10, "start": 1 / 3, "after": lambda t: 0.1 * 0.1 ** ((t >= 20) + (t >= 40))},
        lambda torch, o: torch.SequentialLR(
            o, [torch.LinearLR(o, 1 / 3, total_iters=10), torch.MultiStepLR(o, [20, 40])], [10]
        ),
    ),
}  # fmt: skip

table = pytest.mark.parametrize("name", SCHEDULES)


def formula(name):
    return reference.SCHEDULES[name.split(",")[0]]


def steps_of(optimizer, count, layer=None):
    """The learning rates of some updates, as the update itself uses them: of gradient 1 they are what is subtracted."""
    layer = layer or fc.Linear(1, 1, init="zeros", dtype=np.float64)
    rates = []
    for _ in range(count):
        before, layer.grads[:] = layer.params.copy(), 1
        optimizer.step(layer)
        rates.append((before - layer.params)[0])
    return rates


@table
def test_against_the_formula(name):
    make, numbers, _ = SCHEDULES[name]
    expected = [formula(name)(0.1, t, **numbers) for t in range(101)]
    assert_allclose([make().rate(0.1, t) for t in range(101)], expected, rtol=1e-13, atol=1e-17)
    optimizer = fc.SGD(0.1, schedule=make())
    assert optimizer.current_lr == make().rate(0.1, 0)
    assert_allclose(steps_of(optimizer, 101), expected, rtol=1e-9, atol=1e-15)
    assert_allclose(optimizer.current_lr, make().rate(0.1, 101), rtol=1e-15)


def test_rates_in_python_compile_nothing():
    """Which took a second of each process that fits with a schedule."""
    source = rules.scheduled_rate.kernel.function
    waiting, seen = [source], set()
    while waiting:
        function = waiting.pop()
        seen.add(function.__name__)
        called = [function.__globals__.get(name) for name in function.__code__.co_names]
        assert not any(isinstance(value, Dispatcher) for value in called), function
        waiting += [value.py_func for value in called if isinstance(value, Helper) and value.__name__ not in seen]
    assert seen == {"scheduled_rate", "between", "one_cycle", "epochs"}


@table
def test_against_pytorch(name):
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = SCHEDULES[name][2](torch.optim.lr_scheduler, optimizer)
    ours = SCHEDULES[name][0]()
    for t in range(101):
        assert_allclose(ours.rate(0.1, t), optimizer.param_groups[0]["lr"], rtol=1e-9, atol=1e-15)
        if t < 100:
            optimizer.step()
            schedule.step()


def test_one_cycle_stays_where_it_ends():
    schedule = fc.OneCycleLR(1.0, 10)
    assert_allclose([schedule.rate(5.0, t) for t in (9, 10, 1000)], 1 / 25 / 1e4)
    for steps in range(1, 12):  # phases of no length too
        for three in (False, True):
            for start in (0, 0.3, 0.5, 1):
                cycle = fc.OneCycleLR(1.0, steps, start, three_phase=three)
                assert np.isfinite([cycle.rate(1, t) for t in range(15)]).all()


@table
def test_epochs_are_counted(name):
    make, numbers, _ = SCHEDULES[name]
    optimizer, layer = fc.SGD(0.1, schedule=make(unit="epoch")), fc.Linear(1, 1, init="zeros", dtype=np.float64)
    with pytest.raises(ValueError, match=r"counts epochs; train with fit, or assign optimizer\.steps_per_epoch"):
        optimizer.step(layer)
    optimizer.steps_per_epoch = 3
    rates = steps_of(optimizer, 15, layer)
    optimizer.steps_per_epoch = 2  # such as a fit with larger batches: the epochs so far count
    rates += steps_of(optimizer, 6, layer)
    expected = [formula(name)(0.1, t, **numbers) for t in range(8)]
    assert_allclose(rates, np.repeat(expected, [3] * 5 + [2] * 3), rtol=1e-9, atol=1e-15)


def test_fit_counts_epochs():
    x, y = np.zeros((25, 1)), np.ones((25, 1))  # the bias's gradient is 2 (b − 1)
    net = fc.MLP([1, 1], init="zeros", dtype=np.float64)
    optimizer = fc.SGD(0.25, schedule=fc.StepLR(2, gamma=0.5, unit="epoch"))
    for epochs, batch_size in ((1, 10), (2, 25), (1, 5)):
        net.fit(x, y, loss=fc.MSELoss(), optimizer=optimizer, epochs=epochs, batch_size=batch_size)
    error = 0.5**3 * 0.5 * 0.75 * 0.75**5  # 1 − 2 η each: three steps, one and one by halved rates, and five
    assert_allclose(1 - net[0].bias[0], error, rtol=1e-12)


def test_the_base_rate_may_change():
    optimizer = fc.SGD(1.0, schedule=fc.StepLR(2, gamma=0.5))
    layer = fc.Linear(1, 1, init="zeros", dtype=np.float64)
    rates = steps_of(optimizer, 3, layer)
    optimizer.lr = 8.0
    assert rates + steps_of(optimizer, 2, layer) == [1, 1, 0.5, 4, 2]
    optimizer.schedule = None
    assert steps_of(optimizer, 1, layer) == [8]
    assert optimizer.current_lr == optimizer.lr == 8


def test_another_schedule_is_seen_by_the_shortest_way():
    net, optimizer = fc.MLP([1, 1], init="zeros", dtype=np.float64), fc.SGD(0.25)
    x, y = np.zeros((1, 1)), np.ones((1, 1))
    losses = [net.train_step(x, y, fc.MSELoss(), optimizer)]
    loss = fc.MSELoss()
    for _ in range(3):
        net.train_step(x, y, loss, optimizer)
    optimizer.schedule = fc.ExponentialLR(0.5)
    before = net[0].bias[0]
    net.train_step(x, y, loss, optimizer)
    assert_allclose(net[0].bias[0] - before, 2 * 0.25 * 0.5**4 * (1 - before), rtol=1e-12)
    assert losses == [1]


@njit
def train(net, x, y, loss, optimizer, steps):
    for _ in range(steps):
        net.train_step(x, y, loss, optimizer)


@table
def test_nopython_code_has_the_same_rates(name):
    nets, (first, second) = (
        [fc.MLP([2, 1], seed=0, dtype=np.float64) for _ in range(2)],
        [fc.SGD(0.05, momentum=0.5, schedule=SCHEDULES[name][0]()) for _ in range(2)],
    )
    x, y, loss = np.eye(2), np.ones((2, 1)), fc.MSELoss()
    nets[0].reserve(2)
    first.prepare(nets[0])
    train(nets[0], x, y, loss, first, 60)
    for _ in range(60):
        nets[1].train_step(x, y, loss, second)
    assert_array_equal(nets[0].params, nets[1].params)


@table
def test_copies_and_reprs(name):
    schedule = SCHEDULES[name][0](unit="epoch")
    names = {kind: getattr(fc, kind) for kind in fc.__all__}
    for other in (eval(repr(schedule), names), pickle.loads(pickle.dumps(schedule)), copy.deepcopy(schedule)):
        assert other == schedule and repr(other) == repr(schedule)
    optimizer = fc.SGD(0.1, schedule=schedule)
    assert repr(eval(repr(optimizer), names)) == repr(optimizer) and repr(schedule) in repr(optimizer)


def losses(seed):
    rng = np.random.default_rng(seed)
    return np.exp(-0.05 * np.arange(100)) * rng.uniform(0.9, 1.1, 100) + rng.uniform(0, 0.2, 100)


PLATEAUS = [
    {},
    {"factor": 0.5, "patience": 2},
    {"factor": 0.5, "patience": 0, "cooldown": 3, "threshold": 0.05},
    {"factor": 0.1, "patience": 1, "min_lr": 1e-3},
    {"factor": 0.7, "patience": 1, "mode": "max"},
]


@pytest.mark.parametrize("options", PLATEAUS)
def test_plateaus_against_pytorch(options):
    torch = pytest.importorskip("torch")
    theirs = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, **options)
    ours = fc.SGD(0.1, schedule=fc.ReduceLROnPlateau(**options))
    for loss in losses(0):
        schedule.step(loss)
        ours.epoch_end(loss)
        assert_allclose(ours.lr, theirs.param_groups[0]["lr"], rtol=1e-12)
    assert ours.lr < 0.1


def test_plateaus_by_hand():
    optimizer = fc.SGD(
        1.0, schedule=fc.ReduceLROnPlateau(factor=0.5, patience=1, cooldown=1, threshold=0.1, min_lr=0.3)
    )
    seen = []
    # worse, worse: halved, pause, worse, worse: at least 0.3; NaN is not better either
    for loss in (1.0, 0.95, 0.92, 2.0, 2.0, np.nan, 0.5, 0.6):
        optimizer.epoch_end(loss)
        seen.append(optimizer.lr)
    assert seen == [1, 1, 0.5, 0.5, 0.5, 0.3, 0.3, 0.3]


def test_fit_ends_epochs():
    x, y = np.ones((4, 1)), np.array([[0.0], [1.0], [0.0], [1.0]])  # no parameters do better than 0.25
    net, schedule = fc.MLP([1, 1], init="zeros"), fc.ReduceLROnPlateau(factor=0.5, patience=2)
    optimizer = fc.SGD(0.25, schedule=schedule)
    net.fit(x, y, loss=fc.MSELoss(), optimizer=optimizer, epochs=5, batch_size=4)
    assert optimizer.lr == 0.25 / 2  # epochs: 0.5, 0.25, and three that are not better
    copied = pickle.loads(pickle.dumps(optimizer))
    for _ in range(3):
        optimizer.epoch_end(1.0)
        copied.epoch_end(1.0)
    assert copied.lr == optimizer.lr == 0.25 / 4


@pytest.mark.parametrize(
    "make, error, message",
    [
        (lambda: fc.StepLR(0), ValueError, "StepLR: step_size must be at least 1, got 0"),
        (lambda: fc.StepLR(1.5), TypeError, "StepLR: step_size must be an integer"),
        (lambda: fc.StepLR(2, gamma=-1), ValueError, "StepLR: gamma must be finite and positive"),
        (lambda: fc.StepLR(2, unit="step"), ValueError, "StepLR: unit must be one of 'update', 'epoch', got 'step'"),
        (lambda: fc.MultiStepLR(3), TypeError, "MultiStepLR: milestones must be a sequence"),
        (lambda: fc.MultiStepLR([3, -1]), ValueError, "MultiStepLR: each milestone must be at least 1"),
        (lambda: fc.ExponentialLR(np.nan), ValueError, "ExponentialLR: gamma"),
        (lambda: fc.CosineAnnealingLR(10, eta_min=-1), ValueError, "CosineAnnealingLR: eta_min .* not negative"),
        (lambda: fc.CosineAnnealingWarmRestarts(10, T_mult=0), ValueError, "T_mult must be at least 1"),
        (lambda: fc.OneCycleLR(-1, 10), ValueError, "OneCycleLR: max_lr"),
        (lambda: fc.OneCycleLR(1, 10, pct_start=2), ValueError, "pct_start must lie in .0, 1."),
        (lambda: fc.OneCycleLR(1, 10, anneal_strategy="sin"), ValueError, "must be one of 'cos', 'linear', got 'sin'"),
        (lambda: fc.LinearWarmup(10, start_factor=2), ValueError, "start_factor must lie in .0, 1."),
        (lambda: fc.LinearWarmup(10, after="cosine"), TypeError, "after must be a schedule such as"),
        (lambda: fc.LinearWarmup(10, after=fc.LinearWarmup(3)), TypeError, "after must be a schedule"),
        (lambda: fc.LinearWarmup(10, after=fc.ReduceLROnPlateau()), TypeError, "after must be a schedule"),
        (lambda: fc.LinearWarmup(10, after=fc.StepLR(3, unit="epoch")), ValueError, "give both one"),
        (lambda: fc.ReduceLROnPlateau(factor=1), ValueError, "factor must be less than 1"),
        (lambda: fc.ReduceLROnPlateau(patience=-1), ValueError, "patience"),
        (lambda: fc.ReduceLROnPlateau(cooldown=0.5), TypeError, "cooldown must be an integer"),
        (lambda: fc.ReduceLROnPlateau(mode="least"), ValueError, "mode must be one of 'min', 'max'"),
        (lambda: fc.SGD(schedule="cosine"), TypeError, "SGD: schedule must be an object such as"),
        (lambda: setattr(fc.SGD(), "steps_per_epoch", 0), ValueError, "SGD: steps_per_epoch must be at least 1"),
    ],
)
def test_bad_numbers(make, error, message):
    with pytest.raises(error, match=message):
        make()
