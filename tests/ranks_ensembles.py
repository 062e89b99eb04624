"""Ensembles of test_ranks.py: what they are after a fit on several ranks, and in one process. See ranks_program.py."""

import hashlib
import os
import signal
import threading
import time
import warnings

import numpy as np

import fastfc as fc

N = 90
rng = np.random.default_rng(1)
X, NUMBERS, CLASSES = rng.normal(size=(N, 5)), rng.normal(size=(N, 2)), rng.integers(0, 3, N)
WEIGHTS = rng.uniform(size=(5, N))


def rich(seed):
    layers = [fc.Linear(5, 12, seed=seed), fc.BatchNorm1d(12), fc.ReLU(), fc.Dropout(0.1 * seed, seed=seed)]
    return fc.Sequential([*layers, fc.Linear(12, 2, seed=seed)])


def mlp(seed):
    return fc.MLP([5, 8, 3], "tanh", seed=seed, dtype=np.float64)


def small(seed):
    return fc.MLP([5, 2], seed=seed)


class Trace(fc.Callback):
    """Looks at the whole ensemble after each epoch, and changes it."""

    def on_epoch(self, run):
        worst = int(np.argmax([net.history.loss[-1] for net in run.network]))
        run.network.params[worst] *= 0.9
        run.optimizer[worst].lr *= 0.5


def each():
    schedule = fc.ReduceLROnPlateau(patience=1, monitor="val_loss")
    options = {"validation_split": 0.2, "metrics": ["mae"], "callbacks": [fc.EarlyStopping(patience=2)], "epochs": 9}
    return fc.Ensemble(rich, 5), NUMBERS, fc.MSELoss(), fc.Adam(0.05, schedule=schedule), options


def jointly():
    options = {"joint_callbacks": [fc.EarlyStopping("val_accuracy", patience=2)], "metrics": ["accuracy"], "epochs": 9}
    options |= {"validation_data": (X[:20], CLASSES[:20]), "bootstrap": True}
    return fc.Ensemble(mlp, 5), CLASSES, fc.CrossEntropyLoss(), fc.AdamW(0.1, average=0.9), options


def changed():
    options = {"joint_callbacks": [Trace()], "metrics": ["r2"], "drop_last": True, "subset": 0.7}
    return fc.Ensemble(small, 7), NUMBERS, fc.MSELoss(), fc.SGD(0.1, momentum=0.9), options


def divergent():
    optimizers = [fc.SGD(1e30 if k in (1, 4) else 0.1, groups={"0.bias": {"lr": 0.01}}) for k in range(5)]
    options = {
        "sample_weight": WEIGHTS,
        "validation_split": 0.2,
        "seed": [5, 1, 2, 7, 4],
        "shuffle": False,
        "metrics": ["mae"],
    }
    return fc.Ensemble(small, 5), NUMBERS, fc.MSELoss(), optimizers, options


def few():
    return fc.Ensemble(small, 2), NUMBERS, fc.MSELoss(), fc.LBFGS(), {"seed": np.random.default_rng(3)}


CASES = {case.__name__: case for case in (each, jointly, changed, divergent, few)}


def digest(team, history, caught=()):
    """Of all that a fit leaves: parameters, optimizers, histories without their seconds, who was left out."""
    histories = [[row | {"seconds": 0} for row in net.history.rows] for net in (team, *team)]
    arrays = [team.params, team.grads, team.buffers]
    for optimizer in team.optimizers:
        arrays += [optimizer.state, optimizer.count, optimizer.hyper]
    texts = [str(warning.message) for warning in caught]
    states = [optimizer.fit_state() | {"epochs": optimizer.epochs} for optimizer in team.optimizers]
    rest = histories, history is team.history, states, texts, sorted(team.left_out), [net.rng_step for net in team]
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays) + repr(rest).encode()).hexdigest()[:16]


def trained(name, comm=None):
    """The ensemble of a case, after two fits with a copied member between them, and what was warned of."""
    team, y, loss, optimizer, options = CASES[name]()
    options = {"loss": loss, "epochs": 3, "batch_size": 16, "seed": 1, "comm": comm} | options
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        team.fit(X, y, optimizer=optimizer, **options)
        team.copy_member(0, 1)
        history = team.fit(X, y, optimizer=list(team.optimizers), **options)
    return team, history, caught


def ensembles(place):
    """The digest of each case."""
    return {name: digest(*trained(name, place.comm)) for name in CASES}


def ensemble_outputs(place):
    """Whether predictions and scores on all ranks are what one process gives."""
    team, loss, result = fc.Ensemble(mlp, 3, loss=fc.CrossEntropyLoss()), fc.CrossEntropyLoss(), {}
    for name, options in {
        "mean": {}, "std": {"return_std": True}, "quantile": {"quantiles": 0.3}, "quantiles": {"quantiles": [0.1, 0.9]},
        "members": {"members": [2, 0]},
    }.items():  # fmt: skip
        for x in (X, X[:2], X[0]):
            both = (team.predict(x, comm=comm, **options) for comm in (None, place.comm))
            result[f"{name}, {x.shape}"] = np.array_equal(*both)
    weights, own = WEIGHTS[0], slice(N * place.rank // place.size, N * (place.rank + 1) // place.size)
    expected = team.evaluate(X, CLASSES, loss, metrics=["accuracy"], sample_weight=weights)
    same = team.evaluate(X, CLASSES, loss, metrics=["accuracy"], sample_weight=weights, comm=place.comm)
    local = {"metrics": ["accuracy"], "sample_weight": weights[own], "comm": place.comm, "rows": "local"}
    result |= {"same": same == expected, "local": team.evaluate(X[own], CLASSES[own], loss, **local) == expected}
    candidates, net = rng.normal(size=(5, team[0].params.size)), team[0]
    for x in (X, X[0]):
        for few in (candidates, candidates[:1], candidates.tolist()):
            found = net.predict(x, params=few, comm=place.comm)
            result[f"candidates {len(few)}, {x.shape}"] = np.array_equal(found, net.predict(x, params=few))
    return {name: bool(value) for name, value in result.items()}


def raised(place, function):
    """What a call raises, as text."""
    try:
        function()
    except (Exception, KeyboardInterrupt) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def ensemble_failures(place):
    """What each rank raises where one fails or is not like the others, and what the ensemble then is on each."""
    last, found = place.rank == place.size - 1, {}

    def at(epoch, act):
        def callback(run):
            # of the last member, or of the ensemble on the last rank
            if last and run.history["epoch"][-1] == epoch:
                act(run)

        return callback

    def fail(run):
        raise OSError("no space left")

    def freeze(run):
        run.network[0].frozen = True

    def add(run):
        run.network.params[:] += 1

    def press(run):
        signal.raise_signal(signal.SIGINT)

    def metric(y, prediction):
        return 1 // (not last)

    def fit(key, **options):
        team = options.pop("team", None) or fc.Ensemble(small, 5)
        options = {"loss": fc.MSELoss(), "optimizer": fc.Adam(), "epochs": 3, "comm": place.comm, "seed": 0} | options
        text = raised(place, lambda: team.fit(X, NUMBERS, **options))
        optimizers = [optimizer.count.tolist() for optimizer in team.optimizers]
        # all ranks hold the same, whatever has happened
        found[key] = text, hashlib.sha256(team.params.tobytes() + repr(optimizers).encode()).hexdigest()[:8]
        return team

    start = time.perf_counter()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    fit("callback", callbacks=[at(2, fail)])
    fit("joint", joint_callbacks=[at(2, fail)])
    fit("end", callbacks=[Ending(last)])
    fit("interrupt", callbacks=[at(2, press)])
    fit("frozen", callbacks=[at(2, freeze)])
    fit("changed", joint_callbacks=[at(1, add)])
    undone = fit("metric", metrics=[metric])
    found["undone"] = bool((undone.params == fc.Ensemble(small, 5).params).all())
    found["stopped"] = len(fit("stop", joint_callbacks=[at(1, lambda run: run.stop())]).history)
    fit("seed", seed=int(last))
    fit("optimizer", optimizer=[fc.SGD(0.1 + (last and k == 3)) for k in range(5)])
    fit("members", team=fc.Ensemble(small, 5 + last))
    fit("network", team=fc.Ensemble.of([fc.MLP([5, 8 + last, 2])]))
    fit("subset", subset=0.5 if last else None)
    fit("weights", sample_weight=WEIGHTS + last)
    fit("metrics", metrics=["mae"] if last else [])
    fit("joint callbacks", joint_callbacks=[fc.EarlyStopping("loss")] if last else [])
    fit("argument", subset=7.0 if last else 0.7)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit("unseeded", team=fc.Ensemble(lambda: fc.MLP([5, 2]), 5), seed=None, bootstrap=True)
        fit("diverged", optimizer=fc.SGD(1e30))
    found["warnings"] = [str(warning.message).partition(";")[0] for warning in caught]
    return found | {"seconds": time.perf_counter() - start}


def estimators():
    """Unfitted estimators of several networks, and their targets."""
    from fastfc.sklearn import MLPClassifier, MLPRegressor, RealMLPClassifier, RealMLPRegressor

    mlp, real = {"hidden_layer_sizes": (6,), "max_iter": 4, "batch_size": 16}, {"epochs": 3, "hidden": [8]}
    drawn, labels = np.random.RandomState(3), np.array(["a", "b", "c"])[CLASSES]
    return {
        "members": (MLPClassifier(**mlp, n_estimators=5, random_state=0, warm_start=True), labels),
        "folds": (MLPRegressor(**mlp, n_cv=3, n_estimators=2, random_state=drawn, early_stopping=True), NUMBERS),
        "lbfgs": (MLPRegressor(**mlp | {"solver": "lbfgs"}, n_estimators=2, random_state=1), NUMBERS),
        "RealMLPs": (RealMLPClassifier("td-s", **real, n_ens=2, n_cv=2, random_state=0), labels),
        "RealMLP": (RealMLPRegressor("td-s", **real, random_state=0), NUMBERS[:, 0]),
    }


def fitted(place):
    """The digest of what estimators give after two fits, and of what they remember."""
    result = {}
    for name, (estimator, y) in estimators().items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for _ in range(2):
                estimator.fit(X, y, WEIGHTS[0], **({} if place.comm is None else {"comm": place.comm}))
        parts = [getattr(estimator, "predict_proba", estimator.predict)(X)]
        parts += [getattr(estimator, what, None) for what in ("cv_scores_", "oof_outputs_", "best_epochs_", "n_iter_")]
        histories = estimator.histories_ if hasattr(estimator, "histories_") else [estimator.history_]
        parts += [[row | {"seconds": 0} for row in history.rows] for history in histories]
        parts += [estimator.random_state.randint(1 << 30) if name == "folds" else None]
        text = b"".join(part.tobytes() if isinstance(part, np.ndarray) else repr(part).encode() for part in parts)
        result[name] = hashlib.sha256(text).hexdigest()[:16]
    return result


def estimator_failures(place):
    """What each rank raises where a fit fails on one, or is not the same, and how long it takes."""
    from sklearn.base import clone

    start, last, found = time.perf_counter(), place.rank == place.size - 1, {}

    def fail(run):
        if last:
            raise OSError("no space left")

    def fit(key, what, change=None, **samples):
        estimator, y = estimators()[what]
        estimator = clone(estimator).set_params(**change or {})
        samples = {"X": X, "y": y} | samples
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found[key] = raised(place, lambda: estimator.fit(**samples, comm=place.comm))

    long = {"max_iter": 10**6, "n_iter_no_change": 10**6, "tol": 0.0}
    fit("callback", "members", long | {"callbacks": [fail]})
    fit("real callback", "RealMLPs", {"epochs": 10**6, "callbacks": [fail]})
    fit("parameters", "members", {"alpha": 0.1 if last else 0.2})
    fit("real parameters", "RealMLPs", {"lr": 0.1 if last else None})
    fit("targets", "folds", y=NUMBERS + last)
    fit("argument", "RealMLPs", {"n_ens": 0})
    return found | {"seconds": time.perf_counter() - start}


class Ending(fc.Callback):
    """Fails at its end, on the rank of the last member."""

    def __init__(self, last):
        self.last = last

    def on_end(self, run):
        if self.last:
            raise OSError("too late")


def ctrl_c(place):
    """What a Ctrl-C leaves that each rank gets at another time, as from mpiexec, in a training without end."""
    from fastfc.sklearn import MLPRegressor

    def team():
        net = fc.Ensemble(small, 3)
        options = {"loss": fc.MSELoss(), "optimizer": fc.Adam(), "epochs": 10**6, "comm": place.comm, "seed": 0}
        return raised(place, lambda: net.fit(X, NUMBERS, **options))[:17], net.params, len(net.history)

    def estimator():
        long = {"max_iter": 10**6, "n_iter_no_change": 10**6, "n_estimators": 3, "random_state": 0}
        own = MLPRegressor(hidden_layer_sizes=(8,), **long)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # an estimator warns, and is trained so far
            text = raised(place, lambda: own.fit(X, NUMBERS, comm=place.comm))
        return text, own.predict(X), own.n_iter_

    signal.signal(signal.SIGINT, signal.default_int_handler)
    found = []
    for delay in (0.0, 0.003, 0.02):
        for function in (team, estimator):
            place.comm.Barrier()
            seconds = 0.5 + delay * (place.rank + 1)
            timer = threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGINT))
            timer.start()
            text, array, epochs = function()
            found.append([text, hashlib.sha256(array.tobytes()).hexdigest()[:8], epochs])
            raised(place, lambda timer=timer: [timer.join(), time.sleep(0.01)])  # it may come after the end
    return found


def ensemble_killed(place):
    """The last rank dies in the second epoch."""

    def die(run):
        if place.rank == place.size - 1 and len(run.history) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    team = fc.Ensemble(small, 4)
    options = {"loss": fc.MSELoss(), "optimizer": fc.Adam(), "epochs": 10**6, "comm": place.comm}
    return raised(place, lambda: team.fit(X, NUMBERS, callbacks=[die], **options))
