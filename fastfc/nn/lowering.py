"""Lowering: layers record what they do as ops, and the ops become the table that the kernels run.

The table's columns are explained in kernels/program/table.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fastfc.kernels.ops.activation_rules import IDENTITY, ROWWISE, Activation, of_input
from fastfc.kernels.ops.activations import kernels_of
from fastfc.kernels.program import interpreter
from fastfc.kernels.program import table as program_table
from fastfc.kernels.program.table import Column, Header, Value
from fastfc.kernels.runtime.native import compile_or_load_all
from fastfc.kernels.runtime.threads import ELEMENT_WORK

# Ops with a weight, beside the norms and those with a parameter for each feature.
WITH_WEIGHT = (
    program_table.PRODUCT,
    program_table.EMBEDDING,
    program_table.NUMERIC_EMBEDDING,
    program_table.MEMBER_PRODUCT,
)


@dataclass
class Op:
    """y = an operation on the values a and b; values are numbers of the Lowering."""

    op: int
    a: int
    b: int
    y: int
    code: int = IDENTITY
    weight: int = 0
    bias: int = program_table.NOWHERE
    number: int = 0
    factor: float = 1.0
    transposed: bool = False
    factor_2: float = 0.0
    of_input: bool = False
    in_product: bool = False
    skipped: bool = False
    after: float = 1.0

    def reads(self) -> tuple[int, ...]:
        return (self.a, self.b) if self.op in (program_table.ADD, program_table.MULTIPLY) else (self.a,)

    def has_weight(self) -> bool:
        return self.op in (*WITH_WEIGHT, *program_table.NORMS, *program_table.PER_FEATURE)

    def needs_output(self) -> bool:
        """Whether its derivative is in terms of y."""
        return self.code != IDENTITY and not self.of_input

    def needs_inputs(self) -> bool:
        """Whether its derivative is in terms of a and b."""
        without_weight = program_table.MULTIPLY, program_table.POLYGON, program_table.CLAMP
        return self.op in without_weight or self.has_weight() or self.of_input


class Program(NamedTuple):
    """What a network is to the kernels."""

    table: NDArray[np.int64]
    inputs: int
    outputs: int
    numbers: int  # of workspace per sample, for the values and gradients of training
    multiplications: int  # per sample, of all products

    def ops(self) -> NDArray[np.int64]:
        """The rows of the ops."""
        return self.table[1 : 1 + self.table[0, Header.N_OPS]]

    def has(self, op: int) -> bool:
        """Whether there is such an op."""
        return op in self.ops()[:, Column.OP]

    @property
    def whole(self) -> bool:
        """Whether the prediction for a row depends on other rows."""
        return bool(self.table[0, Header.WHOLE])

    def load(self, dtypes: Iterable[Any]) -> None:
        """Compile, or load, what this program needs that not every one does."""
        kinds, codes = (set(self.ops()[:, column].tolist()) for column in (Column.OP, Column.CODE))
        needed = [kernel for op in kinds for kernel in interpreter.OPTIONAL_KERNELS.get(op, ())]
        needed += [kernel for code in codes - {IDENTITY} for kernel in kernels_of(code)]
        for dtype in dtypes:
            compile_or_load_all(needed, dtype)

    def work(self, n: int) -> int:
        """Multiplications for n samples, and what the time to read the weights is worth."""
        return self.multiplications * (n + ELEMENT_WORK)

    def serial_rows(self, work: int) -> int:
        """The most samples whose work is less than this."""
        return (work - 1) // max(self.multiplications, 1) - ELEMENT_WORK

    def workspace_size(self, n: int) -> int:
        """Numbers in the workspace that training in batches of n needs."""
        return int(interpreter.workspace_size(self.table, n))


class Places(NamedTuple):
    """Where values are in the workspace, by the first number per sample; and how many numbers that takes."""

    predicting: dict[int, int]
    training: dict[int, int]
    gradients: dict[int, int]
    predict_numbers: int
    train_numbers: int


@dataclass
class Lowering:
    """The ops of a network in topological order, and the widths of its values."""

    widths: list[int] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    weights: dict[Any, int] = field(default_factory=dict)  # where those of a layer begin, for layers that share them

    def value(self, width: int) -> int:
        self.widths.append(width)
        return len(self.widths) - 1

    def op(self, op: int, a: int, b: int | None = None, width: int | None = None, **rest: Any) -> int:
        """Record an op; the new value that it gives."""
        y = self.value(self.widths[a] if width is None else width)
        self.ops.append(Op(op, a, a if b is None else b, y, **rest))
        return y

    def activation(self, a: int, function: Activation, alone: bool = True) -> int:
        """y = f(a), fused with the product that gives a if it can be and nobody else reads a.

        In training only if its derivative is in terms of y; else in a prediction.
        """
        if function.code == IDENTITY:
            return a if alone else self.op(program_table.CONCAT, a)
        maker = next((op for op in self.ops if op.y == a), None)
        fused = alone and maker and (maker.op, maker.code) == (program_table.PRODUCT, IDENTITY)
        of_a, in_product = of_input(function), bool(fused and function.code not in ROWWISE)
        code, factor, factor_2 = function
        if maker and in_product:
            maker.code, maker.factor, maker.factor_2, maker.of_input = code, factor, factor_2, of_a
            if not of_a:
                return a
        rest = {"code": code, "factor": factor, "factor_2": factor_2, "of_input": of_a, "in_product": in_product}
        return self.op(program_table.ACTIVATION, a, **rest)

    def norm(self, op: int, a: int, numbers: float, **rest: Any) -> int:
        """An op that keeps so many numbers per sample for backward, in a value of its own."""
        return self.op(op, a, self.value(math.ceil(numbers)), **rest)

    def concatenate(self, values: list[int]) -> int:
        y, first = self.value(sum(self.widths[a] for a in values)), 0
        for a in values:
            self.ops.append(Op(program_table.CONCAT, a, a, y, number=first))
            first += self.widths[a]
        return y

    def program(self, inputs: list[int], outputs: list[int], *sizes: int) -> Program:
        """The table. In x the inputs stand side by side, and so do the outputs in the output.

        sizes are the numbers of parameters, of those to be trained, of all values, and of buffers.
        """
        widths = self.widths
        self.separate_outputs(inputs, outputs)
        self.fuse_dropouts(outputs)
        places = self.places(outputs)
        rows = np.zeros((1 + len(self.ops) + len(widths) + len(outputs), len(Column)), np.int64)
        n_inputs, n_outputs = sum_of(widths, inputs), sum_of(widths, outputs)
        values = rows[1 + len(self.ops) :]
        rows[0] = self.header(n_inputs, n_outputs, places, len(outputs), sizes)
        self.write_ops(rows[1 : 1 + len(self.ops)])
        self.write_values(values[: len(widths)], inputs, outputs, places)
        values[len(widths) :, Value.WIDTH] = [widths[v] for v in outputs]
        self.write_accumulation(rows[1 : 1 + len(self.ops)], outputs)
        self.write_derivatives(rows, outputs)
        rows.flags.writeable = False
        products = [widths[op.a] * widths[op.y] for op in self.ops if op.op == program_table.PRODUCT]
        products += [
            widths[op.a] * widths[op.y] // op.number for op in self.ops if op.op == program_table.MEMBER_PRODUCT
        ]
        return Program(rows, n_inputs, n_outputs, places.train_numbers, sum(products))

    def separate_outputs(self, inputs: list[int], outputs: list[int]) -> None:
        """Replace outputs by copies where they are not values of their own or an activation makes one of another."""
        for i, v in enumerate(outputs):
            to_output = any(op.op == program_table.ACTIVATION and op.a == v and op.y in outputs for op in self.ops)
            if v in inputs or v in outputs[:i] or to_output:
                outputs[i] = self.op(program_table.CONCAT, v)

    def fuse_dropouts(self, outputs: list[int]) -> None:
        """Let dropouts do what scales one, and predictions skip them where they would only copy.

        A dropout takes over the factor of a scale that alone reads it; in a prediction, a parametric activation that
        it alone reads takes it over in turn.
        """
        made, read, gone = self.makers(), self.readers(), set[int]()
        alone = lambda v: v in made and len(read[v]) == 1 and v not in outputs
        for i, op in enumerate(self.ops):
            if op.op == program_table.DROPOUT:
                op.weight = 1 + i
            if op.op == program_table.SCALE and alone(op.a) and self.ops[made[op.a]].op == program_table.DROPOUT:
                dropout = self.ops[made[op.a]]
                dropout.factor_2, dropout.y = op.factor, op.y
                gone.add(i)
        for op in self.ops:
            if op.op == program_table.DROPOUT and alone(op.a):
                maker = self.ops[made[op.a]]
                if maker.op == program_table.PARAMETRIC:
                    maker.after = op.factor_2
                op.skipped = op.factor_2 == 1 or maker.op == program_table.PARAMETRIC
        self.ops = [op for i, op in enumerate(self.ops) if i not in gone]

    def makers(self) -> dict[int, int]:
        """The first op that writes each value."""
        return {op.y: i for i, op in reversed(list(enumerate(self.ops)))}

    def readers(self) -> list[list[int]]:
        """The ops that read each value."""
        result: list[list[int]] = [[] for _ in self.widths]
        for i, op in enumerate(self.ops):
            for v in op.reads():
                result[v].append(i)
        return result

    def in_products(self) -> dict[int, int]:
        """What an activation in a product reads -> y.

        In a prediction that value is never there: it shares the place of y, and its gradient that of y's gradient.
        """
        return {op.a: op.y for op in self.ops if op.in_product}

    def of_skipped(self) -> dict[int, int]:
        """What an op reads that predictions skip -> what the last of such ops gives, whose place it shares there."""
        result: dict[int, int] = {}
        for op in reversed(self.ops):
            if op.in_product or op.skipped:
                result[op.a] = result.get(op.y, op.y)
        return result

    def places(self, outputs: list[int]) -> Places:
        """Places of values and gradients that share memory if they are needed at different times.

        Op i happens at time i, and its backward at time 2 len(ops) − i.
        """
        made, read, outer, end = self.makers(), self.readers(), self.in_products(), 2 * len(self.ops)
        inner = {y: a for a, y in outer.items()}
        written = {v: made[inner.get(v, v)] for v in made}
        shared, first = self.of_skipped(), dict[int, int]()
        for v, i in made.items():
            first[shared.get(v, v)] = min(i, first.get(shared.get(v, v), i))
        predicting: dict[Any, tuple[int, int]] = {}
        training: dict[Any, tuple[int, int]] = {}
        for v in made.keys() - set(outputs):
            if v not in shared:
                predicting[v] = first[v], max(read[v])
            if v in outer:
                training[v, "value"] = made[v], end
                continue
            used = any(self.ops[i].needs_inputs() for i in read[v])
            used = used or any(op.y == v and op.needs_output() for op in self.ops)
            training[v, "value"] = made[v], end if used else max(read[v])  # backward may run again
            training[v, "gradient"] = end - max(read[v]), end - written[v]
        for i, op in enumerate(self.ops):
            if op.op in program_table.NORMS:
                predicting[op.b] = i, i
                training[op.b, "value"] = i, end
        predict_places, predict_numbers = pack(predicting, lambda v: self.widths[v])
        train_places, train_numbers = pack(training, lambda key: self.widths[key[0]])
        values, gradients = (
            {v: place for (v, what), place in train_places.items() if what == kind} for kind in ("value", "gradient")
        )
        return Places(predict_places, values, gradients, predict_numbers, train_numbers)

    def header(
        self, n_inputs: int, n_outputs: int, places: Places, n_parts: int, sizes: tuple[int, ...]
    ) -> NDArray[np.int64]:
        """Row 0."""
        row = np.zeros(len(Column), np.int64)
        row[[Header.N_OPS, Header.INPUTS, Header.OUTPUTS]] = len(self.ops), n_inputs, n_outputs
        row[[Header.PARAMETERS, Header.TRAINED, Header.VALUES, Header.BUFFERS][: len(sizes)]] = sizes
        row[[Header.PREDICT_WORKSPACE, Header.TRAIN_WORKSPACE]] = places.predict_numbers, places.train_numbers
        row[Header.WHOLE] = any(
            op.op == program_table.BATCH_NORM and op.number == program_table.NOWHERE for op in self.ops
        )
        row[Header.PARTS] = n_parts
        return row

    def write_ops(self, rows: NDArray[np.int64]) -> None:
        first_value = 1 + len(self.ops)
        for row, op in zip(rows, self.ops, strict=True):
            row[[Column.OP, Column.CODE]] = op.op, op.code
            row[[Column.A, Column.B, Column.Y]] = first_value + np.array([op.a, op.b, op.y])
            row[[Column.WEIGHT, Column.BIAS, Column.NUMBER]] = op.weight, op.bias, op.number
            numbers = np.array([op.factor, op.factor_2, op.after])
            row[[Column.FACTOR, Column.FACTOR_2, Column.AFTER]] = numbers.view(np.int64)
            row[[Column.TRANSPOSED, Column.OF_INPUT]] = op.transposed, op.of_input
            row[Column.SKIPPED] = op.in_product or op.skipped

    def write_values(self, rows: NDArray[np.int64], inputs: list[int], outputs: list[int], places: Places) -> None:
        """Width and places of each value."""
        outer, shared = self.in_products(), self.of_skipped()
        in_x, in_output = (side_by_side(values, self.widths) for values in (inputs, outputs))
        for v, row in enumerate(rows):
            row[Value.WIDTH] = self.widths[v]
            for purpose, value, known in (
                (Value.PREDICTING, shared.get(v, v), places.predicting),
                (Value.TRAINING, v, places.training),
                (Value.GRADIENT, outer.get(v, v), places.gradients),
            ):
                where = program_table.IN_WORKSPACE, known.get(value, 0)
                if value in in_x:
                    where = program_table.IN_X, in_x[value]
                if value in in_output:
                    where = program_table.IN_OUTPUT, in_output[value]
                row[purpose : purpose + 2] = where

    def write_accumulation(self, rows: NDArray[np.int64], outputs: list[int]) -> None:
        """Which gradients are there already when an op's backward comes, in reverse order, so that it adds to them."""
        begun, trained = set(outputs), set[int]()
        for row, op in zip(rows[::-1], self.ops[::-1], strict=True):
            row[Column.ADD_A] = op.a in begun
            begun.add(op.a)
            row[Column.ADD_B] = op.b in begun
            begun |= set(op.reads())
            if op.has_weight():
                row[[Column.ADD_WEIGHT, Column.ADD_BIAS]] = op.weight in trained, op.bias in trained
                trained |= {op.weight, op.bias}

    def write_derivatives(self, rows: NDArray[np.int64], outputs: list[int]) -> None:
        """Which products apply the derivative of the activation before them, as they pass the gradient on."""
        made, read = self.makers(), self.readers()
        for row, op in zip(rows[1:], self.ops, strict=False):
            maker = made.get(op.a, -1)
            alone = maker >= 0 and len(read[op.a]) == 1 and op.a not in outputs
            derivable = alone and (self.ops[maker].op == program_table.PRODUCT or self.ops[maker].in_product)
            if op.op == program_table.PRODUCT and derivable and self.ops[maker].code != IDENTITY:
                row[Column.DERIVE_A] = 1 + maker
                rows[1 + maker, Column.DERIVED] = 1


def sum_of(widths: list[int], values: list[int]) -> int:
    return sum(widths[v] for v in values)


def side_by_side(values: list[int], widths: list[int]) -> dict[int, int]:
    """The first column of each value."""
    return {v: sum_of(widths, values[:i]) for i, v in enumerate(values)}


def pack(times: dict[Any, tuple[int, int]], width: Any) -> tuple[dict[Any, int], int]:
    """Places for things that are each needed from one time to another, so that they share little memory.

    Things that are needed one after another fit best at the two ends in turn. If that takes more than what is needed
    at one time, the first place that is free may do better, for things in the order of times or the widest first.
    """
    by_time = sorted(times, key=lambda key: times[key])
    begins = [(begin, 0, width(key)) for key, (begin, _) in times.items()]
    ends = [(end, 1, -width(key)) for key, (_, end) in times.items()]
    least = max(accumulate(change for _, _, change in sorted(begins + ends)), default=0)
    best: tuple[dict[Any, int], int] = {}, 0
    for order, sides in ((by_time, 2), (by_time, 1), (sorted(by_time, key=width, reverse=True), 1)):
        places: dict[Any, int] = {}
        for i, key in enumerate(order):
            begin, end = times[key]
            alive = [other for other in places if times[other][0] <= end and begin <= times[other][1]]
            gaps, low = [], 0
            for place, other in sorted((places[other], other) for other in alive):
                gaps.append((low, place))
                low = max(low, place + width(other))
            gaps.append((low, least))
            fitting = [(a, b) for a, b in gaps if b - a >= width(key)]
            if not fitting:
                places[key] = low
            else:
                places[key] = fitting[-1][1] - width(key) if i % sides else fitting[0][0]
        total = max((place + width(key) for key, place in places.items()), default=0)
        if not best[0] or total < best[1]:
            best = places, total
        if total == least:
            break
    return best
