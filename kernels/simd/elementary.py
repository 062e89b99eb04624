"""Elementary functions of a Vector, at most 4 ulp from exact in float32 and float64.

Polynomials are interpolated at Chebyshev nodes; beside each stands its relative error in float32 and float64.
"""

import math

from fastfc.kernels.simd.formula import formula, formula_of_two
from fastfc.kernels.simd.vector import (
    absolute,
    binary_exponent,
    by_dtype,
    copysign,
    fma,
    polynomial,
    power_of_two,
    significand,
    where_less,
    where_less_equal,
)

# (eʳ − 1 − r) / r² on |r| <= ln(2) / 2: error of eʳ 5e-9 and 2e-17
exp_tail = polynomial(
    {
        "float32": (0.5, 0.1666657702559799, 0.041666554662050534, 0.008363173074513711, 0.001392617611993558),
        "float64": (
            0.5000000000000001,
            0.16666666666666669,
            0.041666666666624164,
            0.008333333333330065,
            0.0013888888917196719,
            0.00019841269863040545,
            2.4801521322368692e-05,
            2.7557268480310024e-06,
            2.7620075879983367e-07,
            2.5100375832561234e-08,
        ),
    }
)
# (eʳ − 1 − r − r²/2) / r³, there too: error of eʳ − 1 2e-9 and 2e-18
expm1_tail = polynomial(
    {
        "float32": (
            0.1666666716337204,
            0.041666556149721146,
            0.00833332072943449,
            0.0013926175888627768,
            0.00019882690685335547,
        ),
        "float64": (
            0.16666666666666669,
            0.041666666666666664,
            0.008333333333330065,
            0.0013888888888886554,
            0.00019841269863040545,
            2.4801587317135164e-05,
            2.7557268480310024e-06,
            2.755728298405588e-07,
            2.5100375832561234e-08,
            2.091122972975856e-09,
        ),
    }
)
# (2 artanh s − 2 s) / s³ in s², for |s| <= (√2 − 1) / (√2 + 1): error of the logarithm 3e-9 and 5e-18
log_tail = polynomial(
    {
        "float32": (0.6666668653488159, 0.3998878002166748, 0.29579949378967285),
        "float64": (
            0.666666666666667,
            0.39999999999899505,
            0.28571428625975487,
            0.2222221113479508,
            0.18182889125261723,
            0.15331721600556042,
            0.14616449685043406,
        ),
    }
)
# the same for |s| <= 1/3: 1e-9 and 2e-18
log_tail_to_one = polynomial(
    {
        "float32": (
            0.6666666865348816,
            0.3999970555305481,
            0.285923570394516,
            0.2170657515525818,
            0.23224329948425293,
        ),
        "float64": (
            0.6666666666666666,
            0.40000000000000013,
            0.2857142857142194,
            0.22222222223331986,
            0.18181818086005655,
            0.15384620253804163,
            0.13333176949138179,
            0.11767997767241035,
            0.10480399234365274,
            0.09942024896554735,
            0.06334110851770246,
            0.15231262619428984,
        ),
    }
)
# erf(x) / x in x², for |x| <= 1/2: 1e-9 and 4e-18
erf_near_zero = polynomial(
    {
        "float32": (
            1.1283791065216064,
            -0.37612608075141907,
            0.1128283143043518,
            -0.026757732033729553,
            0.004719082731753588,
        ),
        "float64": (
            1.1283791670955126,
            -0.37612638903183476,
            0.11283791670925353,
            -0.026866170632887928,
            0.00522397737302147,
            -0.0008548297753674966,
            0.00012053335124353741,
            -1.4845849259707869e-05,
            1.4725865480556744e-06,
        ),
    }
)
# e^(t²/2) (1 − Φ(t)) as a quotient, where Φ is the normal distribution, for 0 <= t: 7e-9 and 5e-17
tail_above = polynomial(
    {
        "float32": (
            0.7186803221702576,
            0.6262336373329163,
            0.26059964299201965,
            0.05747045949101448,
            0.005778278689831495,
        ),
        "float64": (
            0.5,
            0.774019130041241,
            0.5928084052095882,
            0.2884488637853629,
            0.09730286423403955,
            0.023501351505903486,
            0.0040636111738458726,
            0.00048670261117600763,
            3.691699660904763e-05,
            1.3706992461447531e-06,
        ),
    }
)
tail_below = polynomial(
    {
        "float32": (
            1.4373606443405151,
            2.399315595626831,
            1.7168899774551392,
            0.6674726009368896,
            0.1440676897764206,
            0.014483790844678879,
        ),
        "float64": (
            1.0,
            2.3459228208853378,
            2.5573924100389953,
            1.710401757276447,
            0.7795378782475547,
            0.25390298662562893,
            0.06012226348976156,
            0.010278499840910048,
            0.0012234183602150477,
            9.25371875123215e-05,
            3.4358334864135066e-06,
        ),
    }
)
LOG2_E = 1.4426950408889634
SQRT_2 = 1.4142135623730951
# ln 2 in two parts; the first has so few bits that n times it is exact
LN2_HIGH = by_dtype(float32=0.693145751953125, float64=6.93147180369123816490e-01)
LN2_LOW = by_dtype(float32=1.42860682030941723212e-6, float64=1.90821492927058770002e-10)
# adding it rounds to an integer, which then stands in the lowest bits of the mantissa
ROUND = by_dtype(float32=1.5 * 2**23, float64=1.5 * 2**52)
# e^x is 0 below, infinite above
EXP_LOWEST = by_dtype(float32=-104.0, float64=-746.0)
EXP_HIGHEST = by_dtype(float32=89.0, float64=710.0)
# e^x is just so small that its power of two is written as 0
EXP_ZERO = by_dtype(float32=-88.0, float64=-709.1)
# e^(−x²/2) is just so small that its power of two is written as 0, and so is 1 − Φ(x)
NORMAL_HIGHEST = by_dtype(float32=13.27, float64=37.66)
SMALLEST_NORMAL = by_dtype(float32=2.0**-126, float64=2.0**-1022)


@formula
def maximum(x, bound):
    """The greater of the two; NaN if x is."""
    return where_less(x, bound, bound, x)


@formula
def minimum(x, bound):
    """The smaller of the two; NaN if x is."""
    return where_less(bound, x, bound, x)


def split_exponent(x):
    """n + ROUND, n, and r and what rounding it lost, with x = n ln 2 + r, |r| <= ln(2) / 2 (Cody and Waite)."""
    shifted = fma(x, LOG2_E, ROUND(x))
    n = shifted - ROUND(x)
    before = fma(n, 0.0 - LN2_HIGH(x), x)
    r = fma(n, 0.0 - LN2_LOW(x), before)
    return shifted, n, r, fma(n, 0.0 - LN2_LOW(x), before - r)


@formula
def expm1_near_zero(r):
    """eʳ − 1"""
    return fma(r * r, exp_tail(r), r)


@formula
def exp_vector(x):
    return exp_bounded(minimum(maximum(x, EXP_LOWEST(x)), EXP_HIGHEST(x)))


@formula
def exp_of_minus(x):
    """e^−|x|"""
    return exp_bounded(maximum(0.0 - absolute(x), EXP_LOWEST(x)))


@formula
def exp_below(x):
    """eˣ for x <= 0, but 0 where it would be subnormal."""
    shifted, _, r, _ = split_exponent(maximum(x, EXP_ZERO(x)))
    return (expm1_near_zero(r) + 1.0) * power_of_two(shifted)


@formula
def exp_bounded(x):
    """eˣ for x between EXP_LOWEST and EXP_HIGHEST."""
    _, n, r, _ = split_exponent(x)
    return times_power(expm1_near_zero(r) + 1.0, n)


@formula
def exp_of_minus_rounded(x):
    """e^−|x|, hardly more than half a unit from exact."""
    _, n, r, lost = split_exponent(maximum(0.0 - absolute(x), EXP_LOWEST(x)))
    near = r + 1.0
    return times_power(near + fma(r * r, exp_tail(r), r - (near - 1.0) + lost), n)


@formula
def times_power(x, n):
    """x 2ⁿ, by two factors: 2ⁿ may be out of range where the product is not."""
    shifted = fma(n, 0.5, ROUND(x))
    rest = n - (shifted - ROUND(x))
    return x * power_of_two(shifted) * power_of_two(rest + ROUND(x))


@formula
def expm1_vector(x):
    """eˣ − 1, by eʳ − 1 so that small x keep all their digits."""
    _, n, r, lost = split_exponent(minimum(maximum(x, -40.0), EXP_HIGHEST(x)))
    # 2ⁿ⁻¹ is in range where 2ⁿ is not
    half = power_of_two(n - 1.0 + ROUND(x))
    # the leading parts, r + r²/2 and then 2ⁿ⁻¹ (r + r²/2) + 2ⁿ⁻¹ − 1/2, and what rounding them lost
    square = r * r
    near = fma(square, 0.5, r)
    lost = fma(fma(r, r, 0.0 - square), 0.5, fma(square, 0.5, r - near) + lost)
    start = half - 0.5
    total = fma(half, near, start)
    lost = fma(half, fma(square * r, expm1_tail(r), lost), fma(half, near, start - total))
    return where_less(absolute(x), 1e-30, x, (total + lost) * 2.0)


@formula
def expm1_below(x):
    """eˣ − 1 for x <= 0."""
    shifted, _, r, _ = split_exponent(maximum(x, -40.0))
    power = power_of_two(shifted)
    return fma(power, expm1_near_zero(r), power - 1.0)


@formula
def tanh_vector(x):
    """(e²ˣ − 1) / (e²ˣ + 1), by e²ˣ − 1 so that small x keep all their digits."""
    shifted, _, r, _ = split_exponent(minimum(absolute(x) * 2.0, 40.0))
    power = power_of_two(shifted)
    less_one = fma(power, expm1_near_zero(r), power - 1.0)
    return copysign(less_one / (less_one + 2.0), x)


@formula
def sigmoid_vector(x):
    e = exp_of_minus(x)
    return where_less(x, 0.0, e, 1.0) / (e + 1.0)


@formula_of_two
def sigmoid_and_slope(x):
    """σ and σ′ = σ (1 − σ), which keeps its digits where σ is nearly 1."""
    e = exp_of_minus(x)
    inverse = 1.0 / (e + 1.0)
    return where_less(x, 0.0, e, 1.0) * inverse, e * inverse * inverse


@formula
def add_exponent(k, f):
    """k ln 2 + log(1 + f) for 1 + f between √½ and √2 (as in fdlibm)."""
    s = f / (f + 2.0)
    z, half = s * s, f * f * 0.5
    rest = fma(s, fma(z, log_tail(z), half), k * LN2_LOW(f))
    return fma(k, LN2_HIGH(f), f - (half - rest))


@formula
def log_vector(x):
    tiny = SMALLEST_NORMAL(x)
    normal = where_less(x, tiny, x * (2.0**54), x)
    k = binary_exponent(normal)
    result = add_exponent(where_less(x, tiny, k - 54.0, k), significand(normal) - 1.0)
    result = where_less(x, math.inf, result, x)
    return where_less_equal(x, 0.0, where_less(x, 0.0, math.nan, -math.inf), result)


@formula
def log_normal(x):
    """log x for normal x > 0; NaN stays."""
    return add_exponent(binary_exponent(x), significand(x) - 1.0 + (x - x))


@formula
def log1p_finite(x):
    """log(1 + x) for finite x > −1; NaN stays."""
    u = x + 1.0
    k = binary_exponent(u)
    lost = x - (u - 1.0)
    f = fma(lost, power_of_two(ROUND(x) - minimum(k, 64.0)), significand(u) - 1.0)
    return add_exponent(k, f)


@formula
def log1p_to_one(x):
    """log(1 + x) for 0 <= x <= 1; NaN stays."""
    s, square = x / (x + 2.0), x * x
    z, near = s * s, fma(square, -0.5, x)
    lost = fma(fma(x, x, 0.0 - square), -0.5, fma(square, -0.5, x - near))
    return near + fma(s, fma(z, log_tail_to_one(z), square * 0.5), lost)


@formula
def log1p_vector(x):
    result = where_less(x, math.inf, copysign(log1p_finite(x), x), x)
    return where_less_equal(x, -1.0, where_less(x, -1.0, math.nan, -math.inf), result)


@formula
def softplus_vector(x):
    """log(1 + eˣ)"""
    return maximum(x, 0.0) + log1p_to_one(exp_of_minus_rounded(x))


@formula_of_two
def normal_tail(x):
    """1 − Φ(|x|), Φ the normal distribution, to all digits; and e^(−x²/2)."""
    t = minimum(absolute(x), NORMAL_HIGHEST(x))
    # x² is never rounded: it would cost e^(−x²/2) as many units as it is large
    half = t * -0.5
    shifted = fma(half * LOG2_E, t, ROUND(x))
    n = shifted - ROUND(x)
    r = fma(n, 0.0 - LN2_LOW(x), fma(half, t, n * (0.0 - LN2_HIGH(x))))
    e = (expm1_near_zero(r) + 1.0) * power_of_two(shifted)
    return e * tail_above(t) / tail_below(t), e


@formula_of_two
def normal_vector(x):
    """Φ(x), its lower tail to all digits; and e^(−x²/2)."""
    tail, e = normal_tail(x)
    return where_less(x, 0.0, tail, 1.0 - tail), e


@formula
def erf_vector(x):
    tail, _ = normal_tail(x * SQRT_2)
    far = copysign(fma(tail, -2.0, 1.0), x)
    return where_less(absolute(x), 0.5, x * erf_near_zero(x * x), far)
