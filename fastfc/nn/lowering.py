"""Lowering: layers record what they do as steps, and the steps become the table that the kernels run.

The table's columns are explained in kernels/program/interpreter.py.
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


@dataclass
class Op:
    """y = the step's operation on the values a and b; values are numbers of the Lowering."""

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

    def reads(self) -> tuple[int, ...]:
        return (self.a, self.b) if self.op in (program_table.ADD, program_table.MULTIPLY) else (self.a,)

    def needs_output(self) -> bool:
        """Whether its derivative is in terms of y."""
        return self.code != IDENTITY and not self.of_input

    def needs_inputs(self) -> bool:
        """Whether its derivative is in terms of a and b."""
        return (
            self.op in (program_table.PRODUCT, program_table.MULTIPLY, program_table.EMBEDDING, *program_table.NORMS)
            or self.of_input
        )


class Program(NamedTuple):
    """What a network is to the kernels."""

    table: NDArray[np.int64]
    inputs: int
    outputs: int
    numbers: int  # of space per sample, for training
    multiplications: int  # per sample, of all products
    largest: int  # of the largest product

    def has(self, op: int) -> bool:
        """Whether there is such a step."""
        return op in self.table[1 : 1 + self.table[0, program_table.N_OPS], program_table.OP]

    def load(self, dtypes: Iterable[Any]) -> None:
        """Compile, or load, what this program needs that not every one does."""
        steps = self.table[1 : 1 + self.table[0, program_table.N_OPS]]
        needed = [
            function
            for op in set(steps[:, program_table.OP].tolist())
            for function in interpreter.OPTIONAL_KERNELS.get(op, ())
        ]
        for code in set(steps[:, program_table.CODE].tolist()) - {IDENTITY}:
            needed += kernels_of(code)
        for dtype in dtypes:
            for function in needed:
                function.compile_or_load(dtype)

    def workspace_size(self, n: int) -> int:
        """Numbers of space that training in batches of n needs."""
        return (self.numbers + 3 * self.outputs + self.inputs) * (-n // 16 * -16)


@dataclass
class Lowering:
    """The steps of a network in topological order, and the widths of its values."""

    widths: list[int] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    weights: dict[Any, int] = field(default_factory=dict)  # where those of a layer begin, for layers that share them

    def value(self, width: int) -> int:
        self.widths.append(width)
        return len(self.widths) - 1

    def op(self, op: int, a: int, b: int | None = None, width: int | None = None, **rest: Any) -> int:
        """Record a step; the new value that it gives."""
        y = self.value(self.widths[a] if width is None else width)
        self.ops.append(Op(op, a, a if b is None else b, y, **rest))
        return y

    def activation(self, a: int, function: Activation, alone: bool = True) -> int:
        """y = f(a), fused with the product that gives a if it can be and nobody else reads a.

        In training only if its derivative is in terms of y; else in a prediction.
        """
        if function.code == IDENTITY:
            return a if alone else self.op(program_table.CONCAT, a)
        maker = next((step for step in self.ops if step.y == a), None)
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
        """A step that keeps so many numbers per sample for backward, in a value of its own."""
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
        steps, widths = self.ops, self.widths
        for i, v in enumerate(outputs):
            # each needs a place of its own in the output, and an activation can't be from columns of it to others
            to_output = any(step.op == program_table.ACTIVATION and step.a == v and step.y in outputs for step in steps)
            if v in inputs or v in outputs[:i] or to_output:
                outputs[i] = self.op(program_table.CONCAT, v)
        n_steps, end = len(steps), 2 * len(steps)
        columns = [side_by_side(values, widths) for values in (inputs, outputs)]
        made = {step.y: i for i, step in reversed(list(enumerate(steps)))}
        read: dict[int, list[int]] = {v: [] for v in range(len(widths))}
        for i, step in enumerate(steps):
            for v in step.reads():
                read[v].append(i)

        # when each value and each gradient is needed; the backward of step i happens at time end − i
        # what an activation in a product reads in training is, in a prediction, never there: it shares the place of y,
        # and its gradient that of y's gradient
        outer = {step.a: step.y for step in steps if step.in_product}
        inner = {y: a for a, y in outer.items()}
        predicting, training = {}, {}
        for v in made.keys() - set(outputs):
            if v in outer:
                training[v, "value"] = made[v], end
                continue
            predicting[v] = made[inner.get(v, v)], max(read[v])
            used = any(steps[i].needs_inputs() for i in read[v])
            used = used or any(step.y == v and step.needs_output() for step in steps)
            training[v, "value"] = made[v], end if used else max(read[v])  # backward may run again
            training[v, "gradient"] = end - max(read[v]), end - made[inner.get(v, v)]
        for i, step in enumerate(steps):
            if step.op in program_table.NORMS:
                predicting[step.b] = i, i
                training[step.b, "value"] = i, end
        predict_places, predict_numbers = pack(predicting, lambda v: widths[v])
        train_places, train_numbers = pack(training, lambda key: widths[key[0]])

        rows = np.zeros((1 + n_steps + len(widths) + len(outputs), program_table.COLUMNS), np.int64)
        rows[0, program_table.PARTS], rows[len(rows) - len(outputs) :, program_table.WIDTH] = (
            len(outputs),
            [widths[v] for v in outputs],
        )
        rows[0, [program_table.N_OPS, program_table.INPUTS, program_table.OUTPUTS]] = (
            n_steps,
            sum_of(widths, inputs),
            sum_of(widths, outputs),
        )
        rows[
            0,
            [program_table.PARAMETERS, program_table.TRAINED, program_table.VALUES, program_table.BUFFERS][
                : len(sizes)
            ],
        ] = sizes
        rows[0, program_table.WHOLE] = any(
            step.op == program_table.BATCH_NORM and step.number == program_table.NOWHERE for step in steps
        )
        rows[0, [program_table.PREDICT_WORKSPACE, program_table.TRAIN_WORKSPACE]] = predict_numbers, train_numbers
        of_value = 1 + n_steps
        for row, step in zip(rows[1:of_value], steps, strict=True):
            row[[program_table.OP, program_table.CODE]] = step.op, step.code
            row[[program_table.A, program_table.B, program_table.Y]] = of_value + np.array([step.a, step.b, step.y])
            row[[program_table.WEIGHT, program_table.BIAS, program_table.NUMBER]] = step.weight, step.bias, step.number
            row[[program_table.OF_INPUT, program_table.IN_PRODUCT]] = step.of_input, step.in_product
            row[[program_table.FACTOR, program_table.FACTOR_2]] = np.array([step.factor, step.factor_2]).view(np.int64)
            row[program_table.TRANSPOSED] = step.transposed
        for v, row in enumerate(rows[of_value : of_value + len(widths)]):
            row[program_table.WIDTH] = widths[v]
            w = outer.get(v, v)
            for purpose, value, place in [
                (program_table.PREDICTING, w, predict_places.get(w, 0)),
                (program_table.TRAINING, v, train_places.get((v, "value"), 0)),
                (program_table.GRADIENT, w, train_places.get((w, "gradient"), 0)),
            ]:
                where = (program_table.IN_WORKSPACE, place)
                for buffer, known in zip((program_table.IN_X, program_table.IN_OUTPUT), columns, strict=True):
                    if value in known:
                        where = buffer, known[value]
                row[purpose : purpose + 2] = where
        begun = set(outputs)  # gradients that have something to be added to
        trained: set[int] = set()
        for row, step in zip(rows[of_value - 1 : 0 : -1], steps[::-1], strict=True):
            row[program_table.ADD_A] = step.a in begun
            begun.add(step.a)
            row[program_table.ADD_B] = step.b in begun
            begun |= set(step.reads())
            if step.op in (program_table.PRODUCT, program_table.EMBEDDING, *program_table.NORMS):
                row[[program_table.ADD_WEIGHT, program_table.ADD_BIAS]] = step.weight in trained, step.bias in trained
                trained |= {step.weight, step.bias}
        for row, step in zip(rows[1:of_value], steps, strict=True):
            maker = made.get(step.a, -1)
            alone = maker >= 0 and len(read[step.a]) == 1 and step.a not in outputs
            derivable = alone and (steps[maker].op == program_table.PRODUCT or steps[maker].in_product)
            if step.op == program_table.PRODUCT and derivable and steps[maker].code != IDENTITY:
                row[program_table.DERIVE_A] = 1 + maker
                rows[1 + maker, program_table.DERIVED] = 1
        rows.flags.writeable = False
        products = [widths[step.a] * widths[step.y] for step in steps if step.op == program_table.PRODUCT]
        n_inputs, n_outputs = sum_of(widths, inputs), sum_of(widths, outputs)
        return Program(rows, n_inputs, n_outputs, train_numbers, sum(products), max(products, default=0))


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
