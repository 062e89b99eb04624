"""What a kernel returns: statuses, and what each of them means."""

from collections.abc import Callable
from typing import Any, NamedTuple

from numba import types
from numba.extending import intrinsic

from fastfc.kernels.simd.compiler import helper

OK, BAD_SHAPE, OVERLAP, BAD_LABEL, BAD_PROBABILITY, NO_STATE, NO_MEMORY = range(7)
BAD_PREDICTION, BAD_INDEX, ONE_SAMPLE, NO_RESIDUALS, BAD_WEIGHT = range(7, 12)


class Meaning(NamedTuple):
    """What a status means.

    Attributes
    ----------
    error : type
        The exception that it becomes.
    text : str
        Its text in nopython code, behind "fastfc: ", and from Python behind the kernel's name.
    details : callable, optional
        (kernel, arrays) -> a text that says more, for Python, or nothing.
    """

    error: type[Exception]
    text: str
    details: Callable[[Any, Any], str | None] | None = None


# A kernel that returns OVERLAP has written nothing yet: see Kernel.answer, which relies on that.
STATUSES: dict[int, Meaning] = {
    BAD_SHAPE: Meaning(
        ValueError,
        "the shapes of the arrays do not fit; call the kernel from Python for details",
        lambda kernel, arrays: kernel.wrong_shape(arrays),
    ),
    OVERLAP: Meaning(ValueError, "an output overlaps an input in memory; give it an array of its own"),
    BAD_LABEL: Meaning(
        ValueError,
        "a class index is negative, or not below the number of columns",
        lambda kernel, arrays: kernel.wrong_label(arrays),
    ),
    BAD_PROBABILITY: Meaning(
        ValueError, "a target is not in [0, 1]", lambda kernel, arrays: "target must lie in [0, 1], all of it"
    ),
    NO_STATE: Meaning(
        ValueError,
        "the optimizer has no memory for this network yet; call optimizer.prepare(net) first, in Python, before @njit "
        "code trains it, and again after a change of its options or of what is frozen",
    ),
    NO_MEMORY: Meaning(MemoryError, "no memory left for copies of blocks of the matrices"),
    BAD_PREDICTION: Meaning(
        ValueError,
        "a prediction is out of range: BCELoss takes probabilities in [0, 1] (put Sigmoid() last, or use "
        "BCEWithLogitsLoss), GaussianNLLLoss variances that are not negative (make them with Softplus())",
    ),
    BAD_INDEX: Meaning(
        ValueError,
        "an Embedding was given what is not a whole number, or not the number of a row of its table",
        lambda kernel, arrays: kernel.wrong_index and kernel.wrong_index(*arrays),
    ),
    ONE_SAMPLE: Meaning(ValueError, "BatchNorm1d needs at least two samples for their variance"),
    NO_RESIDUALS: Meaning(
        ValueError,
        "LevenbergMarquardt is for least squares of samples one by one: it takes MSELoss() and a network without "
        "BatchNorm1d and Dropout",
    ),
    BAD_WEIGHT: Meaning(
        ValueError,
        "a sample's weight is negative or not a number; for negative ones use reduction='sum', as means divide",
    ),
}
UNKNOWN = Meaning(RuntimeError, "a kernel returned a status that has no meaning, which is a fault of fastfc")


@intrinsic
def raise_meaning(typingctx, status):
    """Raise what the table says of a status other than OK."""

    def codegen(context, builder, signature, args):
        [given] = args

        def give_up(meaning):
            context.call_conv.return_user_exc(builder, meaning.error, (f"fastfc: {meaning.text}",))

        for code, meaning in STATUSES.items():
            with builder.if_then(builder.icmp_signed("==", given, given.type(code))):
                give_up(meaning)
        with builder.if_then(builder.icmp_signed("!=", given, given.type(OK))):
            give_up(UNKNOWN)
        return context.get_dummy_value()

    return types.void(types.int64), codegen


@helper
def check(status):
    """In nopython code: raise what a status means."""
    if status != OK:
        raise_meaning(status)
