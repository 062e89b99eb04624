import copy
import fnmatch
import pickle
from functools import partial

import numpy as np
import pytest
from nopython_code import train
from numpy.testing import assert_allclose, assert_array_equal

import fastfc as fc
from fastfc import reference
from fastfc.kernels.optim import update as update_kernels
from fastfc.nn.layer import Parameter


def layer_with_gradient(seed=0, dtype=np.float64):
    layer, rng = fc.Linear(3, 2, dtype=dtype), np.random.default_rng(seed)
    layer.params[:] = rng.integers(-8, 9, 8)
    layer.grads[:] = rng.integers(-8, 9, 8)
    return layer


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_plain_step_is_exact(dtype):
    layer = layer_with_gradient(dtype=dtype)
    before = layer.params.copy()
    fc.SGD(lr=0.25).step(layer)
    assert_array_equal(layer.params, before - 0.25 * layer.grads)
    assert layer.params.dtype == dtype


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_subnormal_memory_counts_where_it_changes_a_bit(dtype, amsgrad):
    """Elsewhere a 0 stands for it, as a processor takes several times as long to divide it or to take its root."""
    tiny = np.finfo(dtype).tiny
    grid = np.meshgrid(tiny * np.array([-1, 0.7, 1e-3, 3], dtype), [0, tiny / 4], [0, tiny, 0.5])
    m, v, p = (x.ravel().astype(dtype) for x in grid)
    layer, optimizer = fc.Linear(m.size - 1, 1, dtype=dtype), fc.Adam(lr=1e-3, amsgrad=amsgrad)
    layer.params[:], layer.grads[:] = p, 0
    state, _ = optimizer.prepare(layer)
    state[0], state[1:] = m, v
    optimizer.count[0] = 3000  # corrections are 1
    optimizer.step(layer)
    assert_array_equal(state[0], m * dtype(0.9))
    assert_array_equal(state[1], v * dtype(0.999))
    expected = p - state[0] / dtype(1e-8) * dtype(1e-3)
    assert_array_equal(layer.params[p != tiny], expected[p != tiny])
    assert_allclose(layer.params, expected, rtol=2 * np.finfo(dtype).eps)
    assert (layer.params == p).sum() == m.size // 3


def test_three_steps_by_hand():
    # w = 4, ∇L = 2 all along, λ = 1/2, μ = 1/2, lr = 1/4
    layer = fc.Linear(1, 1)
    layer.weight, layer.weight_grad = [[4]], [[2]]
    optimizer = fc.SGD(lr=0.25, momentum=0.5, weight_decay=0.5)
    seen = []
    for _ in range(3):
        optimizer.step(layer)
        seen.append(layer.weight[0, 0])
    # g = 2 + 2 = 4, v = 4, w = 3; g = 3.5, v = 5.5, w = 1.625; g = 2.8125, v = 5.5625, w = 0.234375
    assert seen == [3, 1.625, 0.234375]


@pytest.mark.parametrize("momentum", [0, 0.9])
@pytest.mark.parametrize("weight_decay", [0, 0.01])
def test_against_the_formula(momentum, weight_decay):
    layer, optimizer = layer_with_gradient(), fc.SGD(0.1, momentum, weight_decay)
    w, v, rng = layer.params.copy(), np.zeros(8), np.random.default_rng(1)
    for _ in range(10):
        layer.grads[:] = rng.standard_normal(8)
        optimizer.step(layer)
        v = momentum * v + layer.grads + weight_decay * w
        w = w - 0.1 * v
        assert_allclose(layer.params, w, rtol=1e-13, atol=1e-15)


def test_weight_decay_is_the_gradient_of_the_penalty():
    layer, lam = layer_with_gradient(), 0.25
    penalty = fc.numerical_gradient(lambda w: lam / 2 * np.sum(w**2), layer.params.copy())
    before = layer.params.copy()
    fc.SGD(lr=1, weight_decay=lam).step(layer)
    assert_allclose(layer.params, before - (layer.grads + penalty), atol=1e-8)


def test_gradients_are_left_alone():
    layer = layer_with_gradient()
    before = layer.grads.copy()
    fc.SGD(0.1, 0.9, 0.1).step(layer)
    assert_array_equal(layer.grads, before)


def test_velocity_belongs_to_one_network():
    optimizer = fc.SGD(momentum=0.5)
    optimizer.step(layer_with_gradient())
    velocity = optimizer.velocity.copy()
    for other in (fc.Linear(3, 3, dtype=np.float64), layer_with_gradient(dtype=np.float32)):
        other.grads[:] = 1
        before = other.params.copy()
        with pytest.raises(ValueError, match=r"state is for 8 float64 parameters.*new optimizer"):
            optimizer.step(other)
        assert_array_equal(other.params, before)
    assert_array_equal(optimizer.velocity, velocity)


def test_without_momentum_one_optimizer_serves_many():
    optimizer = fc.SGD(lr=1)
    for dtype in (np.float32, np.float64):
        layer = layer_with_gradient(dtype=dtype)
        before = layer.params.copy()
        optimizer.step(layer)
        assert_array_equal(layer.params, before - layer.grads)
    assert optimizer.velocity is None


def sgd_twin(w, g, s, t, lr=0.1, momentum=0.9, dampening=0.0, nesterov=False, weight_decay=0.01):
    g = g + weight_decay * w
    s[0] = momentum * s[0] + (g if t == 1 else (1 - dampening) * g)
    w -= lr * (g + momentum * s[0] if nesterov else s[0])


def nadam_twin(w, g, s, t, **numbers):
    s[2, 0] = reference.nadam(w, g, s[0], s[1], t, 1 if t == 1 else s[2, 0], **numbers)


NADAM = {"lr": 0.1, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "weight_decay": 0.01, "momentum_decay": 0.004}

RULES = {
    "dampening": (lambda: fc.SGD(0.1, 0.9, 0.01, dampening=0.25), partial(sgd_twin, dampening=0.25)),
    "nesterov": (lambda: fc.SGD(0.1, 0.9, 0.01, nesterov=True), partial(sgd_twin, nesterov=True)),
    "Adam": (
        lambda: fc.Adam(0.1, weight_decay=0.01),
        lambda w, g, s, t: reference.adam(w, g, s[0], s[1], t, 0.1, 0.9, 0.999, 1e-8, 0.01),
    ),
    "amsgrad": (
        lambda: fc.Adam(0.1, (0.5, 0.75), amsgrad=True),
        lambda w, g, s, t: reference.adam(w, g, s[0], s[1], t, 0.1, 0.5, 0.75, 1e-8, 0.0, largest=s[2]),
    ),
    "AdamW": (
        lambda: fc.AdamW(0.1, eps=1e-3),
        lambda w, g, s, t: reference.adam(w, g, s[0], s[1], t, 0.1, 0.9, 0.999, 1e-3, 0.01, decoupled=True),
    ),
    "NAdam": (lambda: fc.NAdam(0.1, weight_decay=0.01), partial(nadam_twin, **NADAM)),
    "NAdam, decoupled": (
        lambda: fc.NAdam(0.1, (0.8, 0.9), 1e-3, 0.01, momentum_decay=0.1, decoupled_weight_decay=True),
        partial(nadam_twin, **NADAM | {"beta1": 0.8, "beta2": 0.9, "eps": 1e-3, "momentum_decay": 0.1}, decoupled=True),
    ),
    "RMSprop": (
        lambda: fc.RMSprop(0.1, 0.9, weight_decay=0.01, momentum=0.5),
        lambda w, g, s, t: reference.rmsprop(w, g, s[0], s[1], 0.1, 0.9, 1e-8, 0.01, 0.5),
    ),
    "centered": (
        lambda: fc.RMSprop(0.1, 0.9, centered=True),
        lambda w, g, s, t: reference.rmsprop(w, g, s[0], s[1], 0.1, 0.9, 1e-8, 0.0, 0.0, mean=s[2]),
    ),
    "Adagrad": (
        lambda: fc.Adagrad(0.1, lr_decay=0.1, weight_decay=0.01),
        lambda w, g, s, t: reference.adagrad(w, g, s[0], t, 0.1, 0.1, 0.01, 1e-10),
    ),
    "Lion": (
        lambda: fc.Lion(0.1, weight_decay=0.01),
        lambda w, g, s, t: reference.lion(w, g, s[0], 0.1, 0.9, 0.99, 0.01),
    ),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 7, 16, 40])
@pytest.mark.parametrize("name", RULES)
def test_rules_against_the_formulas(name, size, dtype):
    make, formula = RULES[name]
    layer, optimizer, rng = fc.Linear(size, 1, dtype=dtype, seed=0), make(), np.random.default_rng(size)
    w, s = layer.params.astype(np.float64), np.zeros((3, size + 1))
    for t in range(1, 31):
        layer.grads[:] = rng.standard_normal(size + 1)
        optimizer.step(layer)
        formula(w, layer.grads.astype(np.float64), s, t)
        assert_allclose(layer.params, w, rtol=200 * np.finfo(dtype).eps, atol=200 * np.finfo(dtype).eps)
        state_tolerance = {"rtol": 1e-3 if dtype == np.float32 else 1e-9, "atol": 20 * np.finfo(dtype).eps}
        assert_allclose(optimizer.state, s[: len(optimizer.state)], **state_tolerance)
    assert optimizer.count[0] == 30


@pytest.mark.parametrize("name", RULES)
def test_epochs_are_the_loop_of_steps(name):
    x, rng = np.random.default_rng(0).standard_normal((40, 3)), np.random.default_rng(5)
    y, nets = x @ [[1.0], [2.0], [3.0]], [fc.MLP([3, 4, 1], seed=0, dtype=np.float64) for _ in range(2)]
    first, second = RULES[name][0](), RULES[name][0]()
    nets[0].fit(x, y, loss=fc.MSELoss(), optimizer=first, epochs=2, batch_size=16, seed=5)
    for _ in range(2):
        order = rng.permutation(40)
        for rows in (order[:16], order[16:32], order[32:]):
            nets[1].train_step(x[rows], y[rows], fc.MSELoss(), second)
    assert_array_equal(nets[0].params, nets[1].params)
    assert_array_equal(first.state, second.state)


@pytest.mark.parametrize("name", RULES)
def test_rules_descend(name):
    net, optimizer = fc.MLP([1, 1], init="zeros", dtype=np.float64), RULES[name][0]()
    x = np.linspace(-1, 1, 20)[:, None]
    losses = [net.train_step(x, 2 * x + 1, fc.MSELoss(), optimizer) for _ in range(200)]
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: fc.Adam(betas=(1.0, 0.999)), "Adam: beta1 must be less than 1"),
        (lambda: fc.Adam(betas=(0.9, -1)), "Adam: beta2"),
        (lambda: fc.AdamW(eps=0), "AdamW: eps must be finite and positive"),
        (lambda: fc.RMSprop(alpha=2), "RMSprop: alpha must be less than 1"),
        (lambda: fc.Adagrad(lr_decay=-1), "Adagrad: lr_decay"),
        (lambda: fc.Lion(lr=0), "Lion: lr"),
        (lambda: fc.SGD(nesterov=True), "nesterov needs a momentum"),
        (lambda: fc.NAdam(momentum_decay=-1), "NAdam: momentum_decay"),
        (lambda: fc.SGD(clip_norm=0), "SGD: clip_norm must be finite and positive"),
        (lambda: fc.SGD(clip_value=-1), "SGD: clip_value"),
        (lambda: fc.SGD(l1=-1), "SGD: l1 must be finite and not negative"),
        (lambda: fc.SGD(l2=np.inf), "SGD: l2"),
        (lambda: fc.SGD(max_norm=0), "SGD: max_norm"),
        (lambda: fc.SGD(average=1), "SGD: average must be less than 1"),
        (lambda: fc.SGD(average=0), "SGD: average must be finite and positive"),
        (lambda: fc.SGD(groups={"*": {"lr": 0}}), "SGD: lr must be finite and positive"),
        (lambda: fc.SGD(groups={"*": {"rate": 1}}), "groups have the options lr, weight_decay, .* not 'rate'"),
        (lambda: fc.SGD(groups={"2.*": {"lr": 1}}).prepare(fc.MLP([1, 1])), r"'2\.\*', which .* 0.weight, 0.bias"),
    ],
)
def test_bad_numbers(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", RULES)
def test_reprs_rebuild(name):
    names = {c.__name__: c for c in (fc.SGD, fc.Adam, fc.AdamW, fc.NAdam, fc.RMSprop, fc.Adagrad, fc.Lion)}
    optimizer = RULES[name][0]()
    twin = eval(repr(optimizer), names)
    assert repr(twin) == repr(optimizer) and twin.code == optimizer.code
    assert_array_equal(twin.hyper, optimizer.hyper)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"lr": 0}, ValueError, "lr must be finite and positive, got 0"),
        ({"lr": -1}, ValueError, "lr"),
        ({"lr": np.nan}, ValueError, "lr"),
        ({"lr": np.inf}, ValueError, "lr"),
        ({"lr": "fast"}, TypeError, "lr must be a number, got 'fast'"),
        ({"momentum": -0.1}, ValueError, "momentum must be finite and not negative"),
        ({"momentum": 1}, ValueError, "momentum must be less than 1"),
        ({"weight_decay": -1e-9}, ValueError, "weight_decay"),
        ({"weight_decay": None}, TypeError, "weight_decay"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=f"SGD: {message}"):
        fc.SGD(**options)


def test_repr_rebuilds():
    assert repr(eval(repr(fc.SGD(0.1, 0.9, 1e-4)), {"SGD": fc.SGD})) == "SGD(lr=0.1, momentum=0.9, weight_decay=0.0001)"
    assert fc.SGD(lr=np.float32(0.5)).lr == 0.5


@pytest.mark.parametrize("options", [{"groups": [1]}, {"groups": {1: {}}}, {"groups": {"*": 1}}, {"clip_norm": "all"}])
def test_options_of_a_wrong_type(options):
    with pytest.raises(TypeError, match="SGD: "):
        fc.SGD(**options)
    with pytest.raises(TypeError, match="clip"):
        fc.SGD(clip=1)


ALL = {"clip_norm": 2.0, "clip_value": 0.9, "l1": 0.01, "l2": 0.05, "max_norm": 1.2, "average": 0.9}
GROUPS = {
    "*": {"lr": 0.05},
    "0.*": {"lr": 0.02, "l1": 0.0},
    "*.bias": {"weight_decay": 0.0},
    "1.weight": {"max_norm": 0.5},
}
OPTIONS = {
    "none": {},
    "clip_norm": {"clip_norm": 1.5},
    "clip_value": {"clip_value": 0.3},
    "penalties": {"l1": 0.03, "l2": 0.2},
    "penalties with biases": {"l1": 0.03, "l2": 0.2, "penalize_bias": True},
    "max_norm": {"max_norm": 0.7},
    "average": {"average": 0.95},
    "all": ALL,
    "groups": {"groups": GROUPS},
    "all in groups": {**ALL, "groups": {**GROUPS, "2.*": {"frozen": True}}},
    "schedule": {"schedule": fc.StepLR(10, gamma=0.8)},
}


def options_of(name, groups):
    """The options of a parameter."""
    own = {}
    for pattern, some in groups.items():
        own |= some if fnmatch.fnmatchcase(name, pattern) else {}
    return own


class Twin:
    """An optimizer with options, by the reference: parameters one by one."""

    def __init__(self, net, rule, options):
        self.rule, self.options, self.t = rule, {"l1": 0.0, "l2": 0.0, "max_norm": None, "groups": {}, **options}, 0
        self.params = {name: p.astype(np.float64) for name, p, _ in net.named_parameters()}
        self.state = {name: np.zeros((3, *p.shape)) for name, p in self.params.items()}
        self.mean = {name: np.zeros(p.shape) for name, p in self.params.items()}

    def step(self, grads):
        self.t, changed = self.t + 1, {}
        rate = reference.SCHEDULES["StepLR"](1, self.t - 1, 10, 0.8) if "schedule" in self.options else 1
        for name, p in self.params.items():
            own = self.options | options_of(name, self.options["groups"])
            penalty = p.ndim == 2 or own.get("penalize_bias", False)
            g = grads[name] + penalty * reference.penalty_grad(p, own["l1"], own["l2"])
            if not own.get("frozen"):
                changed[name] = reference.clip_grad_value(g, own.get("clip_value", np.inf))
        total = np.concatenate([g.ravel() for g in changed.values()])
        shrink = reference.clip_grad_norm(total, self.options.get("clip_norm", np.inf))[0] / total[0]
        for name, p in self.params.items():
            own = self.options | options_of(name, self.options["groups"])
            if name in changed:
                decay = {"weight_decay": own["weight_decay"]} if "weight_decay" in own else {}
                self.rule(p, shrink * changed[name], self.state[name], self.t, own.get("lr", 0.1) * rate, **decay)
                if own["max_norm"] and p.ndim == 2:
                    reference.max_norm(p, own["max_norm"])
            reference.average(self.mean[name], p, self.t, own.get("average", 0.0))

    def flat(self, arrays):
        return np.concatenate([a.ravel() for a in arrays.values()])


def adamw(w, g, s, t, lr, weight_decay=0.01):
    reference.adam(w, g, s[0], s[1], t, lr, 0.9, 0.999, 1e-8, weight_decay, decoupled=True)


def sgd(w, g, s, t, lr, weight_decay=0.01):
    reference.sgd(w, g, s[0], lr, 0.9, weight_decay)


WITH_OPTIONS = {
    "SGD": (lambda **options: fc.SGD(0.1, 0.9, 0.01, **options), sgd),
    "AdamW": (lambda **options: fc.AdamW(0.1, **options), adamw),
}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rule", WITH_OPTIONS)
@pytest.mark.parametrize("name", OPTIONS)
def test_options_against_the_formulas(name, rule, dtype):
    net, rng = fc.MLP([9, 21, 5, 3], "identity", seed=0, dtype=dtype), np.random.default_rng(0)
    net = fc.Sequential([copy.deepcopy(layer) for layer in net.layers[::2]])
    optimizer, twin = WITH_OPTIONS[rule][0](**OPTIONS[name]), Twin(net, WITH_OPTIONS[rule][1], OPTIONS[name])
    tolerance = {"rtol": 2e-3, "atol": 2e-4} if dtype == np.float32 else {"rtol": 1e-9, "atol": 1e-11}
    for _ in range(30):
        net.grads[:] = rng.standard_normal(net.grads.size)
        optimizer.step(net)
        twin.step({name: g.astype(np.float64) for name, _, g in net.named_parameters()})
        assert_allclose(net.params, twin.flat(twin.params), **tolerance)
        if optimizer.average:
            assert_allclose(optimizer.average_params, twin.flat(twin.mean), **tolerance)
    assert (optimizer.average_params is None) == (optimizer.average is None)


def torch_rules(torch):
    sgd = partial(torch.optim.SGD, lr=0.1, momentum=0.9, weight_decay=0.01)
    adam, rms = torch.optim.Adam, torch.optim.RMSprop
    return {
        "dampening": partial(sgd, dampening=0.25),
        "nesterov": partial(sgd, nesterov=True),
        "Adam": partial(adam, lr=0.1, weight_decay=0.01),
        "amsgrad": partial(adam, lr=0.1, betas=(0.5, 0.75), amsgrad=True),
        "AdamW": partial(torch.optim.AdamW, lr=0.1, eps=1e-3, weight_decay=0.01),
        "NAdam": partial(torch.optim.NAdam, lr=0.1, weight_decay=0.01),
        "NAdam, decoupled": partial(
            torch.optim.NAdam,
            lr=0.1,
            betas=(0.8, 0.9),
            eps=1e-3,
            weight_decay=0.01,
            momentum_decay=0.1,
            decoupled_weight_decay=True,
        ),
        "RMSprop": partial(rms, lr=0.1, alpha=0.9, weight_decay=0.01, momentum=0.5),
        "centered": partial(rms, lr=0.1, alpha=0.9, centered=True),
        "Adagrad": partial(torch.optim.Adagrad, lr=0.1, lr_decay=0.1, weight_decay=0.01),
    }


@pytest.mark.parametrize("options", [{}, ALL], ids=["plain", "with all options"])
@pytest.mark.parametrize("name", [name for name in RULES if name != "Lion"])
def test_against_pytorch(name, options):
    torch = pytest.importorskip("torch")
    module = torch.nn.Linear(7, 5, dtype=torch.float64)
    layer = fc.Linear(7, 5, dtype=np.float64)
    layer.weight, layer.bias = module.weight.detach().numpy().T, module.bias.detach().numpy()
    theirs, ours = torch_rules(torch)[name](module.parameters()), RULES[name][0]()
    for option, value in options.items():
        if option != "average":
            setattr(ours, option, value)
    rng = np.random.default_rng(0)
    for _ in range(100):
        layer.grads[:] = rng.standard_normal(40)
        ours.step(layer)
        theirs.zero_grad()
        loss = (module.weight.T * torch.tensor(layer.weight_grad)).sum()
        loss = loss + (module.bias * torch.tensor(layer.bias_grad)).sum()
        if options:
            loss = loss + ALL["l1"] * module.weight.abs().sum() + ALL["l2"] / 2 * (module.weight**2).sum()
        loss.backward()
        if options:
            torch.nn.utils.clip_grad_value_(module.parameters(), ALL["clip_value"])
            torch.nn.utils.clip_grad_norm_(module.parameters(), ALL["clip_norm"])
        theirs.step()
        if options:
            with torch.no_grad():
                module.weight.copy_(torch.renorm(module.weight, 2, 0, ALL["max_norm"]))
        # NAdam's product of momenta is float32 there
        assert_allclose(layer.weight, module.weight.detach().numpy().T, rtol=2e-5, atol=2e-6)
        assert_allclose(layer.bias, module.bias.detach().numpy(), rtol=2e-5, atol=2e-6)


def test_averages_against_pytorch():
    torch = pytest.importorskip("torch")
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    module, rng = torch.nn.Linear(7, 1, dtype=torch.float64), np.random.default_rng(0)
    net, optimizer = fc.MLP([7, 1], dtype=np.float64), fc.SGD(average=0.9)
    mean = AveragedModel(module, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    theirs = torch.optim.SGD(module.parameters(), lr=0.01)
    net.params[:] = np.concatenate([module.weight.detach().numpy()[0], module.bias.detach().numpy()])
    x, y = rng.standard_normal((20, 7)), rng.standard_normal((20, 1))
    for _ in range(100):
        net.train_step(x, y, fc.MSELoss(), optimizer)
        theirs.zero_grad()
        torch.nn.functional.mse_loss(module(torch.tensor(x)), torch.tensor(y)).backward()
        theirs.step()
        mean.update_parameters(module)
    expected = mean(torch.tensor(x)).detach().numpy()
    assert_allclose(net.predict(x, params=optimizer.average_params), expected, rtol=1e-9)
    assert not np.allclose(net.predict(x), expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [1, 40, 2047, 4096, 10_007])
def test_norms_of_long_gradients(size, dtype):
    """More than one block of them, and each time the same bits."""
    layer, rng = fc.Linear(size, 1, init="zeros", dtype=dtype), np.random.default_rng(size)
    layer.grads[:] = rng.standard_normal(size + 1)
    norm = np.sqrt(np.sum(layer.grads.astype(np.float64) ** 2))
    results = []
    for _ in range(2):
        layer.params[:] = 0
        fc.SGD(1.0, clip_norm=norm / 4).step(layer)
        results.append(layer.params.copy())
    assert_array_equal(*results)
    expected = reference.clip_grad_norm(layer.grads.astype(np.float64), norm / 4)
    assert_allclose(results[0], -expected, rtol=20 * np.finfo(dtype).eps)
    layer.params[:] = 0
    fc.SGD(1.0, clip_norm=2 * norm).step(layer)
    assert_array_equal(layer.params, -layer.grads)


def test_clipping_of_what_is_not_finite():
    layer = fc.Linear(39, 1, init="zeros")
    for value, expected in ((np.nan, np.nan), (np.inf, -0.5), (-np.inf, 0.5)):
        layer.params[:], layer.grads[:] = 0, 0.25
        layer.grads[17] = value
        fc.SGD(1.0, clip_value=0.5).step(layer)
        assert_array_equal(layer.params[17], np.float32(expected))
        assert_array_equal(np.delete(layer.params, 17), -0.25)
    layer.grads[17] = np.nan
    fc.SGD(1.0, clip_norm=0.5).step(layer)
    assert np.isnan(layer.params).all()


def test_l1_leaves_zeros_alone_and_nan_visible():
    layer = fc.Linear(5, 1)
    layer.params[:], layer.grads[:] = [0, -0.0, 3, -3, np.nan, 1], 0
    fc.SGD(1.0, l1=0.5).step(layer)
    assert_array_equal(layer.params, [0, 0, 2.5, -2.5, np.nan, 1])  # the last one is the bias


@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (7, 16), (2, 5000), (300, 33)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_max_norm_is_of_columns(shape, dtype):
    layer = fc.Linear(*shape, dtype=dtype, seed=0)
    layer.weight[:, ::2] *= 5
    layer.bias, layer.grads[:] = np.arange(shape[1]), 0
    before = layer.weight.astype(np.float64)
    fc.SGD(max_norm=1.5).step(layer)
    expected = before.copy()
    reference.max_norm(expected, 1.5)
    assert_allclose(layer.weight, expected, rtol=30 * np.finfo(dtype).eps)
    short = np.sqrt(np.sum(before**2, axis=0)) < 1.499
    assert_array_equal(layer.weight[:, short], before[:, short])
    assert_array_equal(layer.bias, np.arange(shape[1]))


def nets_of(count=2, dtype=np.float64):
    return [fc.MLP([3, 4, 5, 2], seed=0, dtype=dtype) for _ in range(count)]


X, Y = np.random.default_rng(0).standard_normal((20, 3)), np.random.default_rng(1).standard_normal((20, 2))


@pytest.mark.parametrize("how", ["train_step", "fit", "step"])
def test_frozen_layers_are_seen_at_once(how):
    (net,), optimizer, loss = nets_of(1), fc.Adam(average=0.5), fc.MSELoss()
    net = fc.Sequential([fc.Sequential([copy.deepcopy(layer) for layer in net[:3]]), *map(copy.deepcopy, net[3:])])

    def run():
        if how == "train_step":
            for _ in range(3):
                net.train_step(X, Y, loss, optimizer)
        elif how == "fit":
            net.fit(X, Y, loss=loss, optimizer=optimizer)
        else:
            net.grads[:] = 1
            optimizer.step(net)

    def trained():
        before = net.params.copy()
        run()
        changed = (net.params != before).nonzero()[0]
        return [bool(((changed >= a) & (changed < b)).any()) for a, b in ((0, 16), (16, 41), (41, 53))]

    assert trained() == [True, True, True]
    net[0][0].frozen = True
    assert trained() == [False, True, True]
    net[-1].frozen = True
    assert trained() == [False, True, False]
    net[0].frozen = True
    assert trained() == [False, False, False]
    state = optimizer.state.copy()
    assert trained() == [False] * 3
    assert_array_equal(optimizer.state[:2], state[:2])
    net[0].frozen = net[-1].frozen = False
    assert trained() == [False, True, True]
    assert optimizer.segments.tolist() == [[16, 53, 1, -1, 0, 0, 0, 0, 53]]
    assert_array_equal(optimizer.average_params[:16], net.params[:16])


def test_a_momentum_may_come_later_and_a_state_may_be_put_back():
    (net, twin), optimizer, other, loss = nets_of(), fc.SGD(0.1, average=0.9), fc.SGD(0.1, 0.5), fc.MSELoss()
    mean = net.params.copy()
    for t in range(1, 7):
        if t == 3:
            optimizer.momentum = 0.5
            twin.params[:] = net.params
        net.train_step(X, Y, loss, optimizer)
        if t >= 3:
            twin.train_step(X, Y, loss, other)
            assert_array_equal(net.params, twin.params)
        reference.average(mean, net.params, t, 0.9)
        assert_allclose(optimizer.average_params, mean, rtol=1e-13)
    assert_array_equal(optimizer.velocity, other.velocity)
    optimizer.state = optimizer.state.copy()
    net.train_step(X, Y, loss, optimizer)
    twin.train_step(X, Y, loss, other)
    assert_array_equal(optimizer.velocity, other.velocity)


def test_options_that_change_are_seen_by_the_shortest_way():
    loss = fc.MSELoss()
    for option, value in (("l2", 0.5), ("max_norm", 0.1), ("clip_norm", 0.01), ("clip_value", 0.01), ("momentum", 0.5)):
        nets, optimizers = nets_of(), (fc.SGD(0.1), fc.SGD(0.1))
        for _ in range(3):
            for net, optimizer in zip(nets, optimizers, strict=True):
                net.train_step(X, Y, loss, optimizer)
        setattr(optimizers[0], option, value)
        for _ in range(2):
            for net, optimizer in zip(nets, optimizers, strict=True):
                net.train_step(X, Y, loss, optimizer)
        assert not np.allclose(nets[0].params, nets[1].params), option


def test_groups_follow_the_rate():
    layer = fc.Linear(2, 1, init="zeros", dtype=np.float64)
    optimizer = fc.SGD(0.5, groups={"bias": {"lr": 0.25}}, schedule=fc.StepLR(1, gamma=0.5))
    layer.grads[:] = 1
    optimizer.step(layer)
    optimizer.lr = 1.0
    optimizer.step(layer)
    assert_array_equal(layer.params, [-1, -1, -0.5])
    assert optimizer.groups == {"bias": {"lr": 0.5}}
    optimizer.groups = None
    optimizer.step(layer)
    assert_array_equal(layer.params, [-1.25, -1.25, -0.75])


def test_neighbours_that_are_treated_alike_are_one_segment():
    (net,) = nets_of(1)
    for options, count in (({}, 1), ({"l2": 0.1}, 6), ({"l2": 0.1, "penalize_bias": True}, 1), ({"max_norm": 1.0}, 6)):
        assert len(fc.SGD(**options).prepare(net)[1]) == count
    assert len(fc.SGD(groups={"0.*": {"lr": 1}}).prepare(net)[1]) == 2
    weights = [Parameter("a", 0, (3, 2)), Parameter("b", 6, (2, 2))]  # each has columns of its own
    assert len(fc.SGD(max_norm=1.0)._segments_of(net, weights)) == 2
    assert len(fc.SGD(l2=1.0)._segments_of(net, weights)) == 1
    state, segments = fc.SGD(groups={"*": {"frozen": True}}).prepare(net)
    assert segments.tolist() == [[0] * update_kernels.SIZE + [net.params.size]] and state.shape == (0, net.params.size)


def test_a_patterns_layer_may_be_frozen():
    (net,) = nets_of(1)
    net[0].frozen = True
    fc.SGD(groups={"0.weight": {"lr": 0.5}}).step(net)


EVERYTHING = {**ALL, "groups": {"0.*": {"lr": 0.01}, "*.bias": {"l2": 0.5}}, "penalize_bias": True}


@pytest.mark.parametrize("make", [lambda f: pickle.loads(pickle.dumps(f)), copy.deepcopy], ids=["pickle", "deepcopy"])
@pytest.mark.parametrize("kind", [fc.NAdam, fc.SGD, fc.Lion])
def test_copies_go_on_alike(kind, make):
    (net,), optimizer = nets_of(1), kind(schedule=fc.CosineAnnealingLR(30), **EVERYTHING)
    for _ in range(5):
        net.train_step(X, Y, fc.MSELoss(), optimizer)
    twin, other = make((net, optimizer))
    alone = make(optimizer)  # with the network as it was
    for _ in range(5):
        net.train_step(X, Y, fc.MSELoss(), optimizer)
        twin.train_step(X, Y, fc.MSELoss(), other)
    assert_array_equal(net.params, twin.params)
    assert_array_equal(optimizer.state, other.state)
    assert_array_equal(optimizer.count, other.count)
    assert alone.count[0] == 5 and repr(alone) == repr(optimizer)


@pytest.mark.parametrize("kind", [fc.NAdam, fc.SGD])
def test_nopython_code_does_the_same(kind):
    nets, optimizers = nets_of(), [kind(schedule=fc.CosineAnnealingLR(30), **EVERYTHING) for _ in range(2)]
    nets[0].reserve(20)
    nets[0].grads[:] = 0
    for net in nets:
        net[2].frozen = True
    with pytest.raises(ValueError, match=r"call optimizer.prepare\(net\) first"):
        train(nets[0], X, Y, fc.MSELoss(), optimizers[0], 1)
    optimizers[0].prepare(nets[0])
    train(nets[0], X, Y, fc.MSELoss(), optimizers[0], 9)
    for _ in range(9):
        nets[1].train_step(X, Y, fc.MSELoss(), optimizers[1])
    assert_array_equal(nets[0].params, nets[1].params)
    assert_array_equal(optimizers[0].state, optimizers[1].state)


@pytest.mark.parametrize("name", RULES)
def test_gradients_may_be_scaled(name):
    layers, optimizers = [layer_with_gradient() for _ in range(2)], [RULES[name][0]() for _ in range(2)]
    layers[1].grads *= 0.25
    for layer, optimizer, scale in zip(layers, optimizers, (0.25, 1.0), strict=True):
        state, segments = optimizer.prepare(layer)
        update_kernels.update.call(
            layer.grads, optimizer.hyper, segments, layer.params, state, optimizer.count, optimizer.code, scale, 1, 1
        )
    assert_array_equal(layers[0].params, layers[1].params)


def changed(segments, **columns):
    for name, value in columns.items():
        segments[0, getattr(update_kernels, name)] = value
    return segments


BAD_SEGMENTS = {
    "none": lambda s: s[:0],
    "too long": lambda s: changed(s, LAST=9),
    "before the first": lambda s: changed(s, FIRST=-1),
    "backwards": lambda s: changed(s, FIRST=7, LAST=6),
    "of another vector": lambda s: changed(s, SIZE=9),
    "no matrix": lambda s: changed(s, MAX_NORM=1, COLUMNS=3),
    "no columns": lambda s: changed(s, MAX_NORM=1),
}


@pytest.mark.parametrize("name", BAD_SEGMENTS)
def test_bad_segments_change_nothing(name):
    layer, optimizer = layer_with_gradient(), fc.SGD(groups={"*": {"lr": 1.0}})
    state, segments = optimizer.prepare(layer)
    before, rest = layer.params.copy(), (optimizer.count, optimizer.code, 1.0, 1, 1)
    with pytest.raises(ValueError, match=r"call optimizer.prepare\(net\) first"):
        update_kernels.update.call(
            layer.grads, optimizer.hyper, BAD_SEGMENTS[name](segments), layer.params, state, *rest
        )
    assert_array_equal(layer.params, before)
    assert optimizer.count[0] == 0


def test_options_reprs_rebuild():
    optimizer = fc.AdamW(**EVERYTHING, schedule=fc.StepLR(3))
    names = {"AdamW": fc.AdamW, "StepLR": fc.StepLR}
    assert repr(eval(repr(optimizer), names)) == repr(optimizer)
    assert "clip_norm=2.0, clip_value=0.9, l1=0.01" in repr(optimizer)
    assert repr(fc.Adam()) == "Adam(lr=0.001, betas=(0.9, 0.999), eps=1e-08, weight_decay=0.0)"


# decays that forget everything at once, nearly so, and slowly
DECAYS = [0.0, 0.01, 0.5, 0.9]
SMALL_AFTER_LARGE = {
    "Adam": (
        lambda b: fc.Adam(1.0, (b, b), 1e-30),
        lambda w, g, s, t, b: reference.adam(w, g, s[0], s[1], t, 1.0, b, b, 1e-30, 0.0),
    ),
    "amsgrad": (
        lambda b: fc.Adam(1.0, (b, b), 1e-30, amsgrad=True),
        lambda w, g, s, t, b: reference.adam(w, g, s[0], s[1], t, 1.0, b, b, 1e-30, 0.0, largest=s[2]),
    ),
    "AdamW": (
        lambda b: fc.AdamW(1.0, (b, b), 1e-30),
        lambda w, g, s, t, b: reference.adam(w, g, s[0], s[1], t, 1.0, b, b, 1e-30, 0.01, decoupled=True),
    ),
    "NAdam": (
        lambda b: fc.NAdam(1.0, (b, b), 1e-30),
        lambda w, g, s, t, b: nadam_twin(
            w, g, s, t, lr=1.0, beta1=b, beta2=b, eps=1e-30, weight_decay=0.0, momentum_decay=0.004
        ),
    ),
    "RMSprop": (
        lambda b: fc.RMSprop(1.0, b, 1e-30, momentum=b),
        lambda w, g, s, t, b: reference.rmsprop(w, g, s[0], s[1], 1.0, b, 1e-30, 0.0, b),
    ),
    "centered": (
        lambda b: fc.RMSprop(1.0, max(b, 0.01), 1e-30, momentum=b, centered=True),
        lambda w, g, s, t, b: reference.rmsprop(w, g, s[0], s[1], 1.0, max(b, 0.01), 1e-30, 0.0, b, mean=s[2]),
    ),
    "Lion": (
        lambda b: fc.Lion(1.0, (b, b)),
        lambda w, g, s, t, b: reference.lion(w, g, s[0], 1.0, b, b, 0.0),
    ),
    "SGD": (lambda b: fc.SGD(1.0, b, dampening=b), lambda w, g, s, t, b: sgd_twin(w, g, s, t, 1.0, b, b, False, 0.0)),
    "average": (lambda b: fc.SGD(1.0, average=b or 1e-30), None),
}


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("name", SMALL_AFTER_LARGE)
def test_small_gradients_after_large_ones(name, decay):
    """m + (1 - β₁)(g - m) with β₁ = 0 was 0 in float32 after the gradients 10 and 3e-7: the difference forgot g.

    All gradients have one sign, so that no sum of them cancels: each number has the error of its few roundings.
    """
    make, formula = SMALL_AFTER_LARGE[name]
    layer, optimizer = fc.Linear(20, 1, bias=False, dtype=np.float32), make(decay)
    s, mean, eps = np.zeros((3, 20)), np.zeros(20), float(np.finfo(np.float32).eps)
    exponents = np.random.default_rng(1).integers(-7, 3, (8, 20)).astype(float)
    exponents[:2] = [[1.0], [-6.5]]
    for t, gradient in enumerate(np.float32(3 * 10**exponents), 1):
        layer.params[:], w = 0, np.zeros(20)
        layer.grads[:] = gradient
        optimizer.step(layer)
        if formula is None:
            share = decay if t > 1 else 0.0
            mean = share * mean - (1 - share) * gradient
            assert_allclose(optimizer.average_params, mean, rtol=4 * t * eps)
            continue
        formula(w, gradient.astype(float), s, t, decay)
        assert_allclose(layer.params, w, rtol=16 * t * eps)
        rows = [row for row in range(len(optimizer.state)) if name != "Lion" or row == 0]
        assert_allclose(optimizer.state[rows], s[rows], rtol=16 * t * eps)


def test_variance_of_gradients_that_hardly_change():
    """v - a² of a gradient that stays the same was of either sign after 150 steps, and its root NaN."""
    for dtype, steps, tolerance in ((np.float32, 400, 1e-3), (np.float64, 400, 1e-9)):
        layer, optimizer = fc.Linear(4, 1, bias=False, dtype=dtype), fc.RMSprop(1e-3, 0.9, centered=True)
        layer.grads[:] = [1.0, 1e-3, 1e3, 3.7]
        for t in range(1, steps + 1):
            optimizer.step(layer)
            exact = layer.grads.astype(float) ** 2 * 0.9**t * (1 - 0.9**t)
            if t < 130:
                assert_allclose(optimizer.state[0], exact, rtol=tolerance)
            assert np.isfinite(layer.params).all() and (optimizer.state[0] >= 0).all()


def test_states_of_version_0_1_become_variances():
    """What it kept for RMSprop, centered, was the mean of the squares."""
    layer, optimizer, old = layer_with_gradient(), *(fc.RMSprop(0.1, centered=True) for _ in range(2))
    for _ in range(3):
        optimizer.step(layer)
    old.state, old.count[0] = optimizer.state.copy(), 3
    old.state[0] += old.state[2] ** 2
    other = copy.deepcopy(layer)
    optimizer.step(layer)
    pickle.loads(pickle.dumps(old)).step(other)
    assert_allclose(other.params, layer.params, rtol=1e-12)


TORCH_KINDS = ["SGD", "Adam", "AdamW", "NAdam", "RMSprop", "Adagrad"]


@pytest.mark.parametrize("options", [{}, {"weight_decay": 0.1}])
@pytest.mark.parametrize("name", [*TORCH_KINDS, "Lion"])
def test_maximize(name, options):
    torch = pytest.importorskip("torch")
    layer = layer_with_gradient()
    optimizer = getattr(fc, name)(lr=0.1, maximize=True, **options)
    assert optimizer.maximize and repr(eval(repr(optimizer), {name: getattr(fc, name)})) == repr(optimizer)
    weight, opposite = torch.tensor(layer.params.copy(), requires_grad=True), copy.deepcopy(layer)
    theirs = getattr(torch.optim, name)([weight], lr=0.1, maximize=True, **options) if name != "Lion" else None
    down = getattr(fc, name)(lr=0.1, **options)
    for step in range(20):
        gradient = np.random.default_rng(step).standard_normal(8)
        layer.grads[:], opposite.grads[:] = gradient, -gradient
        optimizer.step(layer)
        down.step(opposite)
        if theirs is not None:
            weight.grad = torch.tensor(gradient)
            theirs.step()
            assert_allclose(layer.params, weight.detach().numpy(), rtol=1e-10, atol=1e-6 if name == "NAdam" else 0)
    assert_array_equal(layer.params, opposite.params)


def test_maximize_leaves_penalties_and_clipping():
    layer, optimizer = layer_with_gradient(), fc.SGD(1.0, l2=0.5, clip_value=2.0, maximize=True)
    before = layer.params.copy()
    optimizer.step(layer)
    penalty = np.where(np.arange(8) < 6, 0.5 * before, 0)
    assert_allclose(layer.params, before - np.clip(-layer.grads + penalty, -2, 2))
    with pytest.raises(ValueError, match="LBFGS: it has no maximize"):
        fc.LBFGS().maximize = True


def test_initial_accumulator_value():
    with pytest.raises(ValueError, match="Adagrad: initial_accumulator_value must be finite and not negative"):
        fc.Adagrad(initial_accumulator_value=-1)
    layer, optimizer = layer_with_gradient(), fc.Adagrad(initial_accumulator_value=4.0, average=0.9)
    before, gradient = layer.params.copy(), layer.grads
    optimizer.step(layer)
    assert_allclose(layer.params, before - 0.01 * gradient / (np.sqrt(4 + gradient**2) + 1e-10))
    assert_array_equal(optimizer.state[0], 4 + gradient**2)
    assert repr(optimizer).endswith("initial_accumulator_value=4.0, average=0.9)")
