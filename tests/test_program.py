from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numba import njit
from numpy.testing import assert_array_equal

import fastfc as fc
from fastfc.kernels.ops.activation_rules import IDENTITY, RELU, SOFTMAX
from fastfc.kernels.program import interpreter, table
from fastfc.kernels.program.table import (
    ACTIVATION,
    ADD,
    BATCH_NORM,
    CONCAT,
    DROPOUT,
    LAYER_NORM,
    MULTIPLY,
    NORMS,
    PRODUCT,
    SCALE,
)
from fastfc.kernels.runtime import native
from fastfc.nn.lowering import Lowering, pack


def steps_of(layer, width=3):
    """(op, code) of each step."""
    rows = layer._lower(width).table
    return [tuple(row[[table.Column.OP, table.Column.CODE]]) for row in rows[1 : 1 + rows[0, table.Header.N_OPS]]]


class Memory:
    """Who wrote each number last, while a program runs; reading what another one wrote is an error."""

    def __init__(self, program):
        self.rows, self.slots = program.table, {}

    def span(self, value, purpose, columns=slice(None)):
        """The numbers of a value, or of some of its columns."""
        where, first = self.rows[value, purpose : purpose + 2]
        width = self.rows[value, table.Value.WIDTH]
        if where == table.IN_WORKSPACE:
            size = self.rows[
                0, table.Header.PREDICT_WORKSPACE if purpose == table.Value.PREDICTING else table.Header.TRAIN_WORKSPACE
            ]
            assert first >= 0 and first + width <= size
        buffer = (where, purpose == table.Value.GRADIENT and where != table.IN_WORKSPACE)
        return [(buffer, i) for i in range(first, first + width)[columns]]

    def write(self, value, purpose, columns=slice(None)):
        owner = value, purpose == table.Value.GRADIENT
        self.slots |= dict.fromkeys(self.span(value, purpose, columns), owner)

    def read(self, value, purpose):
        owner = value, purpose == table.Value.GRADIENT
        assert {self.slots.get(cell) for cell in self.span(value, purpose)} == {owner}

    def columns(self, row):
        first = row[table.Column.NUMBER]
        return (
            slice(first, first + self.rows[row[table.Column.A], table.Value.WIDTH])
            if row[table.Column.OP] == CONCAT
            else slice(None)
        )

    def operands(self, row):
        return (
            {row[table.Column.A], row[table.Column.B]}
            if row[table.Column.OP] in (ADD, MULTIPLY)
            else {row[table.Column.A]}
        )

    def forward(self, inputs, purpose):
        for value in inputs:
            self.write(value, purpose)
        for row in self.steps():
            if row[table.Column.OP] in NORMS:
                self.write(row[table.Column.B], purpose)
            self.write(row[table.Column.Y], purpose, self.columns(row))
            for value in self.operands(row):  # after y, of which parts may be written before all is read
                self.read(value, purpose)

    def backward(self, outputs):
        written = set(outputs)
        for value in outputs:
            self.write(value, table.Value.GRADIENT)
        for row in self.steps()[::-1]:
            a, b, y = row[[table.Column.A, table.Column.B, table.Column.Y]]
            both = row[table.Column.OP] in (ADD, MULTIPLY)
            for value, flag in (
                ((a, table.Column.ADD_A), (b, table.Column.ADD_B)) if both else ((a, table.Column.ADD_A),)
            ):
                assert row[flag] == (value in written)
                if row[flag]:
                    self.read(value, table.Value.GRADIENT)
                self.write(value, table.Value.GRADIENT)
                written.add(value)
            needed = self.operands(row) if row[table.Column.OP] in (PRODUCT, MULTIPLY, *NORMS) else set()
            needed |= {b} if row[table.Column.OP] in NORMS else set()
            for value in needed | ({y} if row[table.Column.CODE] != IDENTITY else set()):
                self.read(value, table.Value.TRAINING)
            self.read(y, table.Value.GRADIENT)

    def steps(self):
        return self.rows[1 : 1 + self.rows[0, table.Header.N_OPS]]


@st.composite
def recorded(draw):
    """Random steps between some inputs and outputs."""
    lowering = Lowering()
    width = st.integers(1, 9)
    inputs = [lowering.value(w) for w in draw(st.lists(width, min_size=1, max_size=3))]
    values = list(inputs)
    for _ in range(draw(st.integers(0, 12))):
        a = draw(st.sampled_from(values))
        alike = [v for v in values if lowering.widths[v] == lowering.widths[a]]
        op = draw(st.sampled_from([PRODUCT, ACTIVATION, ADD, MULTIPLY, SCALE, CONCAT, DROPOUT, LAYER_NORM, BATCH_NORM]))
        if op == PRODUCT:
            made = lowering.op(op, a, width=draw(width), code=draw(st.sampled_from([IDENTITY, RELU])))
        elif op == ACTIVATION:
            made = lowering.op(op, a, code=draw(st.sampled_from([RELU, SOFTMAX])))
        elif op in (ADD, MULTIPLY):
            made = lowering.op(op, a, draw(st.sampled_from(alike)))
        elif op in (SCALE, DROPOUT):
            made = lowering.op(op, a, factor=2.0)
        elif op in NORMS:
            made = lowering.norm(op, a, draw(st.floats(0.1, 5)))
        else:
            made = lowering.concatenate(draw(st.lists(st.sampled_from(values), min_size=1, max_size=3)))
        values.append(made)
    read = {v for step in lowering.ops for v in step.reads()}
    outputs = [v for v in values if v not in read]
    outputs += draw(st.lists(st.sampled_from(values), min_size=0 if outputs else 1, max_size=3))
    return lowering, inputs, outputs


@given(recorded())
def test_places_that_are_needed_at_the_same_time_never_overlap(case):
    lowering, inputs, outputs = case
    program = lowering.program(inputs, outputs, 0, 0)
    first = 1 + program.table[0, table.Header.N_OPS]
    inputs, outputs = [first + v for v in inputs], [first + v for v in outputs]
    Memory(program).forward(inputs, table.Value.PREDICTING)
    memory = Memory(program)
    memory.forward(inputs, table.Value.TRAINING)
    for value in outputs:
        memory.read(value, table.Value.TRAINING)
    memory.backward(outputs)
    memory.backward(outputs)
    spans = [memory.span(value, table.Value.TRAINING) for value in outputs]
    assert [i for span in spans for _, i in span] == list(range(program.outputs))
    assert program.inputs == sum(lowering.widths[: len(inputs)])


@given(recorded())
def test_no_activation_goes_from_columns_of_the_output_to_others(case):
    """They overlap in memory, as the kernel sees them."""
    rows = case[0].program(*case[1:], 0, 0).table
    for row in rows[1 : 1 + rows[0, table.Header.N_OPS]]:
        if row[table.Column.OP] == ACTIVATION:
            for purpose in (table.Value.PREDICTING, table.Value.TRAINING, table.Value.GRADIENT):
                places = rows[row[[table.Column.A, table.Column.Y]], purpose]
                assert places[0] != places[1] or places[0] == table.IN_WORKSPACE


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20), st.integers(1, 9)), max_size=15))
def test_pack(things):
    times = {i: (min(a, b), max(a, b)) for i, (a, b, _) in enumerate(things)}
    width = lambda i: things[i][2]
    places, total = pack(times, width)
    assert places.keys() == times.keys()
    most = 0
    for t in range(21):
        alive = [i for i, (begin, end) in times.items() if begin <= t <= end]
        numbers = [number for i in alive for number in range(places[i], places[i] + width(i))]
        assert len(set(numbers)) == len(numbers) and all(0 <= number < total for number in numbers)
        most = max(most, len(numbers))
    assert most <= total <= sum(width(i) for i in times)


@given(st.lists(st.integers(1, 50), min_size=2, max_size=9), st.sampled_from(["relu", "tanh", "identity"]))
def test_memory_of_a_chain(sizes, activation):
    program = fc.MLP(sizes, activation=activation)._lower(sizes[0])
    hidden = sizes[1:-1]
    neighbours = max(sum(pair) for pair in pairwise([0, *hidden, 0]))
    assert program.table[0, table.Header.PREDICT_WORKSPACE] == neighbours
    assert program.numbers == program.table[0, table.Header.TRAIN_WORKSPACE] == sum(hidden) + neighbours


def test_memory_of_a_residual_network_does_not_grow_with_depth():
    def space(blocks):
        x = h = fc.Input(8)
        for _ in range(blocks):
            h = h + fc.ReLU()(fc.Linear(8, 8)(h))
        return fc.Graph(x, h)._lower(8).table[0, table.Header.PREDICT_WORKSPACE]

    assert space(20) == space(3) <= 3 * 8


@njit
def reserved(table, n):
    return interpreter.workspace_size(table, n)


@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 300])
def test_space_is_what_the_kernel_reserves(n):
    program = fc.MLP([3, 7, 2])._lower(3)
    assert program.workspace_size(n) == reserved(program.table, n)
    assert program.workspace_size(n) == (7 + 7 + 3 * 2 + 3) * -(-n // 16) * 16


def test_which_steps():
    product, softmax = (PRODUCT, IDENTITY), (ACTIVATION, SOFTMAX)
    assert steps_of(fc.MLP([3, 4, 2])) == [(PRODUCT, RELU), product]
    assert steps_of(fc.MLP([3, 4, 2], activation="identity")) == [product, product]
    assert steps_of(fc.MLP([3, 4], output_activation="softmax")) == [product, softmax]
    assert steps_of(fc.ReLU()) == [(ACTIVATION, RELU)]
    assert steps_of(fc.Identity()) == [(CONCAT, IDENTITY)]
    net = fc.Sequential([fc.ReLU(), fc.Linear(3, 3), fc.Identity(), fc.ReLU(), fc.ReLU(), fc.Softmax()])
    assert steps_of(net) == [(ACTIVATION, RELU), (PRODUCT, RELU), (ACTIVATION, RELU), softmax]
    inner = fc.Sequential([fc.Linear(3, 3), fc.Sequential([fc.ReLU()])])
    assert steps_of(inner) == [(PRODUCT, RELU)]
    x = fc.Input(3)
    h = fc.Linear(3, 4)(x)
    assert steps_of(fc.Graph(x, [fc.ReLU()(h), h])) == [product, (ACTIVATION, RELU), (CONCAT, IDENTITY)]
    assert steps_of(fc.Graph(x, fc.ReLU()(fc.Linear(3, 4)(x)))) == [(PRODUCT, RELU)]
    assert steps_of(fc.Graph(x, -(x * x))) == [(MULTIPLY, IDENTITY), (SCALE, IDENTITY)]


def test_header_and_parameters():
    net = fc.MLP([3, 5, 2])
    program = net._lower(3)
    header = program.table[0, [table.Header.N_OPS, table.Header.INPUTS, table.Header.OUTPUTS, table.Header.PARAMETERS]]
    assert_array_equal(header, [2, 3, 2, 32])
    assert_array_equal(program.table[1:3, [table.Column.WEIGHT, table.Column.BIAS]], [[0, 15], [20, 30]])
    assert (program.inputs, program.outputs, program.multiplications) == (3, 2, 25)
    assert program.table.dtype == np.int64 and not program.table.flags.writeable


def test_a_shared_layer_overwrites_its_gradient_once():
    x, layer = fc.Input(3), fc.Linear(3, 3)
    rows = fc.Graph(x, layer(layer(layer(x))))._lower(3).table
    assert_array_equal(rows[1:4, table.Column.ADD_WEIGHT], [1, 1, 0])


def compiled():
    """How many signatures there are of each native function."""
    return {name: len(function.loaded_types()) for name, function in native.compiled_kernels.items()}


def test_new_networks_compile_nothing():
    """Of other sizes and another structure, with activations and losses that were used before."""
    activations = ["relu", "tanh", "sigmoid", "softmax", "identity"]
    rng, losses = np.random.default_rng(0), [fc.MSELoss(), fc.CrossEntropyLoss(), fc.BCEWithLogitsLoss()]
    before, few = None, fc.MLP([40, 40, 40], seed=0)
    for n in range(1, 5):  # what few rows need is loaded when they first come
        few.train_step(np.ones((n, 40)), np.ones((n, 40)), losses[0], fc.SGD(1e-4))
    for trial in range(36):
        sizes = rng.integers(1, 40, rng.integers(2, 7)).tolist()
        activation = activations[trial % 5]
        net, n = fc.MLP(sizes, activation=activation, seed=trial), int(rng.integers(1, 100))
        if trial % 3 == 0:
            a, b = fc.Input(sizes[0]), fc.Input(1)
            net = fc.Graph([a, b], fc.concatenate([0.5 * net(a) * net(a), b]))
        x = rng.random((n, sizes[0])), rng.random((n, 1))
        x = x if trial % 3 == 0 else x[0]
        y = rng.random((n, net.out_features))
        net.fit(x, y, loss=losses[trial % 3], optimizer=fc.SGD(1e-4, momentum=0.9), batch_size=int(rng.integers(1, 50)))
        net.train_step(x, y, losses[trial % 3], fc.SGD(1e-4))
        net.backward(net.forward(x))
        net.predict(x)
        if trial == 14:  # each activation with each loss
            before = compiled()
    assert before is not None and compiled() == before
    assert min(before["train_steps"], before["predict"]) >= 1
