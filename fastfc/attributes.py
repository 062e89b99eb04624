"""Attributes of our objects: which may be assigned, and what an unknown name should have been."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from itertools import count
from typing import Any, ClassVar, TypeVar, dataclass_transform

Class = TypeVar("Class", bound=type)

NO_MODE = "there is no mode to set: predict never trains; forward, train_step and fit do"
NO_DEVICE = "fastfc computes on the processor, where all arrays are"
NO_CLEARING = "backward and train_step overwrite the gradients, so that there is nothing to clear"
NO_DTYPE = "a layer has the dtype that it is made with, such as Linear(2, 3, dtype=np.float64)"
NO_HOOKS = "layers call no functions of yours; net[0].predict(x) gives what a layer computes"
FREEZE = "assign layer.frozen = True, or False to train it again"
OF_OPTIMIZER = "it is of an optimizer, such as Adam(lr=1e-3)"
LAYERS = "net.layers are the layers of a network"
GIVE_NETWORK = (
    "an optimizer gets the network in net.fit(…) or net.train_step(x, y, loss, optimizer); the arrays are net.params "
    "and net.named_parameters()"
)
NEW_NETWORK = "layers are fixed when a network is made; make a new one, such as Sequential([*net, Linear(3, 1)])"
COMPILE = "give loss and optimizer to net.fit(x, y, loss=MSELoss(), optimizer=Adam())"

# What users of other packages look for, and what to do here.
OF_LAYERS = {
    "cuda": NO_DEVICE,
    "cpu": NO_DEVICE,
    "device": NO_DEVICE,
    "to": f"{NO_DEVICE}; {NO_DTYPE}",
    "half": "fastfc has float32 and float64; " + NO_DTYPE,
    "bfloat16": "fastfc has float32 and float64; " + NO_DTYPE,
    "float": NO_DTYPE,
    "double": NO_DTYPE,
    "type": NO_DTYPE,
    "eval": NO_MODE,
    "train": NO_MODE,
    "training": NO_MODE,
    "zero_grad": NO_CLEARING,
    "grad": "grads holds all gradients, weight_grad and bias_grad those of a layer",
    "parameters": GIVE_NETWORK,
    "state_dict": "net.save(path) writes everything to a file; named_parameters() and named_buffers() give arrays",
    "load_state_dict": "call fc.load_state_dict(net, state_dict); what net.save wrote is read by fc.load(path)",
    "requires_grad": FREEZE,
    "requires_grad_": FREEZE,
    "trainable": FREEZE,
    "freeze": FREEZE,
    "unfreeze": FREEZE,
    "modules": LAYERS,
    "children": LAYERS,
    "named_modules": LAYERS,
    "named_children": LAYERS,
    "lr": OF_OPTIMIZER,
    "learning_rate": OF_OPTIMIZER,
    "apply": LAYERS + "; loop over them",
    "named_grads": "named_parameters() gives (name, parameter, gradient)",
    "register_forward_hook": NO_HOOKS,
    "register_full_backward_hook": NO_HOOKS,
    "register_backward_hook": NO_HOOKS,
    "register_buffer": "layers have the buffers of their kind, see named_buffers()",
    "register_parameter": "layers have the parameters of their kind, see named_parameters()",
    "append": NEW_NETWORK,
    "extend": NEW_NETWORK,
    "insert": NEW_NETWORK,
    "add": NEW_NETWORK,
    "add_module": NEW_NETWORK,
    "compile": COMPILE,
    "get_weights": "params holds all of them, named_parameters() each by its name",
    "set_weights": "assign params, or layer.weight and layer.bias",
    "trainable_weights": GIVE_NETWORK,
    "gradient": "grads holds all gradients, weight_grad and bias_grad those of a layer",
    "partial_fit": "net.train_step(x, y, loss, optimizer) is one step on a batch; partial_fit is of fastfc.sklearn",
    "score": "net.evaluate(x, y, loss, metrics=['accuracy']) gives scores; score is of fastfc.sklearn",
}
OF_NETWORKS = OF_LAYERS | dict.fromkeys(
    ("weight", "weights", "bias", "biases", "coefs_", "intercepts_"),
    "it is of layers, as net[0].weight and net[0].bias; net.params holds all parameters",
)
OF_OPTIMIZERS = {
    "zero_grad": NO_CLEARING,
    "param_groups": "options of some parameters are groups={'*.bias': {'lr': 0.01}}, all others attributes such as lr",
    "add_param_group": "assign groups, such as {'*.bias': {'lr': 0.01}}",
    "state_dict": "net.save(path, optimizer=optimizer) writes its state too, for fc.load_checkpoint(path)",
    "load_state_dict": "fc.load_checkpoint(path) reads network and optimizer",
    "learning_rate": "its name is lr",
    "epsilon": "its name is eps",
    "decay": "its name is weight_decay",
    "wd": "its name is weight_decay",
    "minimize": GIVE_NETWORK,
    "apply_gradients": "optimizer.step(network) makes a step by the gradients that backward has left",
}
OF_LOSSES = {
    "backward": "value, grad = loss(prediction, target) gives the gradient; net.train_step does all of it",
    "item": "value, grad = loss(prediction, target); the value is a float",
    "forward": "call the loss: value, grad = loss(prediction, target)",
    "to": NO_DEVICE,
    "cuda": NO_DEVICE,
    "size_average": "reduction is 'mean', 'sum' or 'none'",
    "reduce": "reduction is 'mean', 'sum' or 'none'",
}
# For who looks into a package, as in PyTorch.
HERE_AND_IN_FASTFC = (
    "layers, losses, optimizers and schedules are in fastfc itself: fc.Linear, fc.Sequential, fc.MSELoss, fc.Adam"
)
NO_TENSORS = "fastfc takes and gives NumPy arrays, and also takes lists, data frames and tensors of other packages"
OF_FASTFC = {
    "no_grad": "no gradients are recorded: net.predict(x) saves nothing, only forward keeps what backward needs",
    "enable_grad": "no gradients are recorded: forward keeps what backward needs",
    "inference_mode": "no gradients are recorded: net.predict(x) saves nothing",
    "functional": "call layers and losses: fc.ReLU().predict(x), fc.MSELoss()(prediction, target)",
    "tensor": NO_TENSORS,
    "Tensor": NO_TENSORS,
    "as_tensor": NO_TENSORS,
    "from_numpy": NO_TENSORS,
    "randn": "numpy.random.default_rng(0).normal(size=(2, 3)) gives random numbers; " + NO_TENSORS,
    "device": NO_DEVICE,
    "cuda": NO_DEVICE,
    "backends": NO_DEVICE,
    "float32": "dtypes are NumPy's: np.float32 and np.float64",
    "float64": "dtypes are NumPy's: np.float32 and np.float64",
    "manual_seed": "layers, MLP and fit take seed=…",
    "save": "net.save(path) writes a network",
    "utils": "net.fit takes arrays, data frames, and batches of a torch DataLoader",
    "DataLoader": "net.fit takes arrays with batch_size=… and shuffle=…, and batches of a torch DataLoader",
    "Module": "fc.Graph connects layers freely, fc.Sequential one after another",
    "Dense": "its name is Linear(in_features, out_features)",
    "Conv2d": "fastfc has fully connected layers only",
    "compile": "kernels are compiled by themselves, once for all networks; `fastfc warmup` does so ahead",
    "set_num_threads": "assign net.n_threads",
    "argmax": "NumPy has it: np.argmax(net.predict(x), axis=1)",
}


class Elsewhere:
    """An attribute that does not exist, as a descriptor: `hasattr` is False, and the error says what to do here.

    A `__getattr__` would do the same, but slow down every other attribute.
    """

    def __init__(self, name: str, advice: str) -> None:
        self.name, self.advice = name, advice

    def __get__(self, thing: Any, kind: type) -> Any:
        if thing is None:
            return self
        raise AttributeError(f"{kind.__name__} has no attribute {self.name!r}: {self.advice}")


class Guarded:
    """Base of our public classes: an unknown attribute can't be assigned, and what is fixed is not replaced.

    A subclass that is not ours may have attributes of its own. Names that begin with an underscore are free.
    """

    _fixed: ClassVar[Mapping[str, str]] = {}  # what is set when an object is made, and why it is not assigned later
    _elsewhere: ClassVar[Mapping[str, str]] = {}  # what users of other packages look for, and what to do here
    _internal: ClassVar[frozenset[str]] = frozenset()  # for other modules of fastfc, not for users: not in dir()

    def __init_subclass__(cls) -> None:
        for name, advice in vars(cls).get("_elsewhere", {}).items():
            setattr(cls, name, Elsewhere(name, advice))
        own = [vars(base) for base in reversed(cls.__mro__)]
        cls._internal = frozenset({"internal_names"}).union(*(base.get("_internal", ()) for base in own))
        cls._fixed = {name: why for base in own for name, why in base.get("_fixed", {}).items()}

    @classmethod
    def internal_names(cls) -> frozenset[str]:
        """The names that other modules of fastfc use, and users do not."""
        return cls._internal

    def _fix(self, **values: Any) -> None:
        """Set attributes that are fixed from then on."""
        for name, value in values.items():  # without vars, which makes all later attributes slower
            object.__setattr__(self, name, value)

    def _check_assignable(self, name: str) -> None:
        """Raise AttributeError unless this attribute may be assigned."""
        kind = type(self)
        if not is_ours(kind):
            return
        if name in self._fixed:
            raise AttributeError(f"{kind.__name__}: {name} is fixed: {self._fixed[name]}")
        there = getattr(kind, name, None)
        if isinstance(there, property) and there.fset is None:
            raise AttributeError(f"{kind.__name__}: {name} can be read but not assigned")
        if name in self._internal and not isinstance(there, property):
            there = None
        if callable(there):
            raise AttributeError(f"{kind.__name__}: {name} is a method; a class derived from it may have another")
        if isinstance(there, Elsewhere | None) and name not in names_of(kind):
            text = f"{kind.__name__} has no attribute {name!r}"
            raise AttributeError(suggestion(text, name, names_of(kind), self._elsewhere))

    def __setattr__(self, name: str, value: Any) -> None:
        if name[:1] != "_":
            self._check_assignable(name)
        object.__setattr__(self, name, value)

    def __delattr__(self, name: str) -> None:
        if name[:1] != "_" and is_ours(type(self)) and hasattr(self, name):
            raise AttributeError(f"{type(self).__name__}: {name} can't be deleted")
        object.__delattr__(self, name)

    def __dir__(self) -> list[str]:
        names = (name for name in object.__dir__(self) if name not in self._internal)
        return [name for name in names if name.startswith("_") or hasattr(self, name)]


VERSIONS = count(1)


class Versioned(Guarded):
    """A Guarded whose `version` is another number after each change that something derived from it must know of.

    No number comes twice, for any object: what was derived holds as long as the version is the one it was derived from.
    Every setter raises the version; what depends on it compares, and is not told.
    """

    version: int = 0

    _internal = frozenset({"version", "raise_version"})

    def raise_version(self) -> None:
        object.__setattr__(self, "version", next(VERSIONS))


def is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == __name__.partition(".")[0]


def names_of(kind: type) -> set[str]:
    """What a class says that its objects have."""
    names: set[str] = set()
    for base in kind.__mro__:
        names |= {name for name, value in vars(base).items() if not isinstance(value, Elsewhere)}
        names |= set(vars(base).get("__annotations__", ()))
    if issubclass(kind, Guarded):
        names -= kind.internal_names()
    return {name for name in names if not name.startswith("_")}


def suggestion(text: str, name: str, known: set[str], elsewhere: Mapping[str, str]) -> str:
    """The text, and what the name should have been."""
    if name in elsewhere:
        return f"{text}: {elsewhere[name]}"
    plain = {other.lower().replace("_", ""): other for other in sorted(known)}
    import difflib  # only mistakes need it

    nearest = difflib.get_close_matches(name.lower().replace("_", ""), plain, 1, 0.5)
    return f"{text}; did you mean {plain[nearest[0]]!r}?" if nearest else text


def values_of(frozen: Any) -> dict[str, Any]:
    return {field.name: getattr(frozen, field.name) for field in fields(frozen)}


def represent(self: Any) -> str:
    shown = ", ".join(f"{name}={value!r}" for name, value in values_of(self).items())
    return f"{type(self).__qualname__}({shown})"


def are_equal(self: Any, other: object) -> bool:
    return values_of(self) == values_of(other) if type(self) is type(other) else NotImplemented


def hash_of(self: Any) -> int:
    return hash(tuple(values_of(self).values()))


@dataclass_transform(frozen_default=True)
def frozen(kind: Class) -> Class:
    """A frozen dataclass whose errors say what to do; a subclass that is not ours may have attributes of its own."""
    made: Any = dataclass(frozen=True, repr=False, eq=False)(kind)  # what it writes takes time at each import
    made.__repr__, made.__eq__, made.__hash__ = represent, are_equal, hash_of

    def put(self: Any, name: str, value: Any) -> None:
        refuse(self, name)
        object.__setattr__(self, name, value)

    def remove(self: Any, name: str) -> None:
        refuse(self, name)
        object.__delattr__(self, name)

    def refuse(self: Any, name: str) -> None:
        owner, known = type(self).__name__, names_of(type(self))
        if name in known:
            raise AttributeError(f"{owner}: {name} is fixed; make a new one, with dataclasses.replace(…, {name}=…)")
        if is_ours(type(self)) and not name.startswith("_"):
            raise AttributeError(suggestion(f"{owner} has no attribute {name!r}", name, known, {}))

    made.__setattr__, made.__delattr__ = put, remove
    return kind
