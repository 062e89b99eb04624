"""sin and cos of a Vector, at most 4 ulp from exact in float32 and float64, for every finite argument; NaN for ±∞.

x = n π/2 + r with |r| <= π/4, but for rounding. Up to LIMIT, n π/2 is taken off in parts of π/2 whose products with n
are exact (Cody and Waite). Beyond, 2/π is multiplied by x modulo 4 (Payne and Hanek 1983): a table has 2ᵉ 2/π modulo 4
for each exponent e, as a sum of four float64. That branch is taken only if a lane needs it.
"""

import functools

from llvmlite import ir

from fastfc.kernels.simd.elementary import ROUND
from fastfc.kernels.simd.formula import Operand, formula, formula_of_two
from fastfc.kernels.simd.isa import host_isa
from fastfc.kernels.simd.llvm import I32, I64
from fastfc.kernels.simd.vector import absolute, by_dtype, copysign, elementwise, fma, polynomial, where_less

# (sin r − r) / r³ in r², for |r| <= 1.004 π/4: error of sin r 1e-8 and 2e-17
sin_tail = polynomial(
    {
        "float32": (-0.166666641831398, 0.008332738652825356, -0.00019585872360039502),
        "float64": (
            -0.16666666666666666,
            0.00833333333333085,
            -0.00019841269836612423,
            2.7557316027045593e-06,
            -2.5051116171098062e-08,
            1.5917004559631616e-10,
        ),
    }
)
# (cos r − 1 + r²/2) / r⁴ in r², there too: error of cos r 8e-10 and 1e-18
cos_tail = polynomial(
    {
        "float32": (0.0416666641831398, -0.0013888293178752065, 2.4545919586671516e-05),
        "float64": (
            0.041666666666666664,
            -0.0013888888888887337,
            2.480158729867426e-05,
            -2.7557317224493937e-07,
            2.087613646297672e-09,
            -1.1381928798322259e-11,
        ),
    }
)
TWO_OVER_PI = 0.6366197723675814
HALF_PI, HALF_PI_REST = 1.5707963267948966, 6.123233995736766e-17
# π/2 as a sum: of float32, whose products with n are exact in a fused multiply-add;
FLOAT32_PARTS = 1.5707963705062866, -4.371138828673793e-08, -1.7151245100058819e-15
# and of numbers of 33 bits, whose products with n < 2²⁰ are exact in float64.
FLOAT64_PARTS = 1.5707963267341256, 6.077100506303966e-11, 2.0222662487111665e-21, 8.4784276603689e-32
LIMIT = by_dtype(float32=2.0**16, float64=2.0**20)
SPLITTER = 2.0**27 + 1.0  # of a float64 in two halves (Dekker 1971)
DOUBLE = ir.DoubleType()
PARTS = 4


@functools.cache
def reduction_table(exponents, mantissa):
    """2ᵏ 2/π modulo 4 as a sum of PARTS float64, for k = −mantissa, …, exponents − 1 − mantissa."""
    bits = 1400
    two_over_pi = (1 << (2 * bits + 1)) // pi_times_power_of_two(bits)
    rows = []
    for e in range(exponents):
        rest = (two_over_pi << e) % (4 << (bits + mantissa))
        for _ in range(PARTS):
            cut = max(rest.bit_length() - 53, 0)
            rows.append(((rest >> cut) << cut) / (1 << (bits + mantissa)))
            rest -= (rest >> cut) << cut
    return rows


def pi_times_power_of_two(bits):
    """π 2ᵇⁱᵗˢ, by Machin's formula π/4 = 4 arctan 1/5 − arctan 1/239."""

    def arctan_of_inverse(k):
        total, term, n = 0, (1 << (bits + 64)) // k, 1
        while term:
            total += term // n if n % 4 == 1 else -(term // n)
            term, n = term // (k * k), n + 2
        return total

    return (16 * arctan_of_inverse(5) - 4 * arctan_of_inverse(239)) >> 64


def widened(x):
    """A register as float64."""
    kind = ir.VectorType(DOUBLE, x.value.type.count)
    return Operand(x.builder, x.builder.fpext(x.value, kind)) if x.is_single else x


def narrowed(x, like):
    return Operand(x.builder, x.builder.fptrunc(x.value, like.value.type)) if like.is_single else x


def without_multiples(x, n, parts):
    """x − n Σ parts"""
    for part in parts:
        x = fma(n, 0.0 - part, x)
    return x


def reduced_near(x):
    """n and r for |x| <= LIMIT."""
    n = fma(x, TWO_OVER_PI, ROUND(x)) - ROUND(x)
    if x.is_single and host_isa().fma:
        return n, without_multiples(x, n, FLOAT32_PARTS)
    return n, narrowed(without_multiples(widened(x), widened(n), FLOAT64_PARTS), x)


def exact_product(a, b):
    """a b as a sum of two numbers."""
    product = a * b
    if host_isa().fma:
        return product, fma(a, b, 0.0 - product)
    (a_high, a_low), (b_high, b_low) = halves(a), halves(b)
    return product, a_low * b_low - (((product - a_high * b_high) - a_low * b_high) - a_high * b_low)


def halves(a):
    scaled = a * SPLITTER
    high = scaled - (scaled - a)
    return high, a - high


def exact_sum(a, b):
    """a + b as a sum of two numbers, the first of which it is rounded to (Knuth)."""
    total = a + b
    shift = total - a
    return total, (a - (total - shift)) + (b - shift)


def parts_by_exponent(x, exponents, mantissa):
    """m and the row of the table for k, with x = m 2ᵏ and an integer m of mantissa + 1 bits, for x not below 1."""
    builder, count = x.builder, x.value.type.count
    constant = lambda value: ir.Constant(ir.VectorType(I64, count), [value] * count)
    bits = builder.bitcast(x.value, constant(0).type)
    e = builder.sub(builder.and_(builder.lshr(bits, constant(52)), constant(2047)), constant(1023))
    e = builder.select(builder.icmp_signed("<", e, constant(0)), constant(0), e)
    e = builder.select(builder.icmp_signed(">", e, constant(exponents - 1)), constant(exponents - 1), e)
    m = builder.or_(builder.and_(bits, constant(-(2047 << 52) - 1)), constant((1023 + mantissa) << 52))
    table = constant_table(builder, exponents, mantissa)
    columns = [ir.Constant(x.value.type, ir.Undefined)] * PARTS
    for i in range(count):
        lane = ir.Constant(I32, i)
        first = builder.mul(builder.extract_element(e, lane), ir.Constant(I64, PARTS))
        for k in range(PARTS):
            place = builder.gep(table, [ir.Constant(I64, 0), builder.add(first, ir.Constant(I64, k))])
            columns[k] = builder.insert_element(columns[k], builder.load(place), lane)
    return Operand(builder, builder.bitcast(m, x.value.type)), *(Operand(builder, column) for column in columns)


def constant_table(builder, exponents, mantissa):
    name = f"fastfc.reduction_table.{mantissa}"
    if name in builder.module.globals:
        return builder.module.globals[name]
    rows = reduction_table(exponents, mantissa)
    kind = ir.ArrayType(DOUBLE, len(rows))
    table = ir.GlobalVariable(builder.module, kind, name)
    table.initializer = ir.Constant(kind, [ir.Constant(DOUBLE, number) for number in rows])
    table.linkage, table.global_constant = "internal", True
    return table


def reduced_far(x):
    """n, but for a multiple of 4, and r for |x| >= 1; both are NaN for ±∞."""
    wide = widened(x)
    m, *parts = parts_by_exponent(wide, *((128, 23) if x.is_single else (1024, 52)))
    (first, first_rest), (second, second_rest), (third, third_rest) = (exact_product(m, part) for part in parts[:3])
    multiple_of_32 = ROUND(wide) * 32.0
    first = first - ((first + multiple_of_32) - multiple_of_32)
    total, rest = exact_sum(first, first_rest)
    total, more = exact_sum(total, second)
    n = (total + ROUND(wide)) - ROUND(wide)
    rest, least = exact_sum(rest, more)
    more, less = exact_sum(second_rest, third)
    rest, more = exact_sum(rest, more)
    least = (least + less) + (more + fma(m, parts[3], third_rest))
    total, rest = exact_sum(total - n, rest)
    total, rest = exact_sum(total, rest + least)
    r = fma(total, HALF_PI, fma(total, HALF_PI_REST, rest * HALF_PI)) + (wide - wide)
    return narrowed(n, x), narrowed(r, x)


def reduced(x):
    """n, of which only n modulo 4 counts, and r."""
    builder, (n, r) = x.builder, reduced_near(x)
    count = x.value.type.count
    is_far = builder.fcmp_ordered(">", absolute(x).value, LIMIT(x).value)
    any_far = builder.icmp_unsigned("!=", builder.bitcast(is_far, ir.IntType(count)), ir.Constant(ir.IntType(count), 0))
    before = builder.block
    with builder.if_then(any_far, likely=False):
        far = [builder.select(is_far, a.value, b.value) for a, b in zip(reduced_far(x), (n, r), strict=True)]
        inside = builder.block
    results = [builder.phi(n.value.type) for _ in far]
    for phi, near, other in zip(results, (n, r), far, strict=True):
        phi.add_incoming(near.value, before)
        phi.add_incoming(other, inside)
    return tuple(Operand(builder, phi) for phi in results)


def emit_quadrant(builder, shifted, sine, cosine):
    """sin(n π/2 + r) from sin r and cos r; `shifted` = n + ROUND, whose lowest mantissa bits hold n as an integer."""
    vector = shifted.type
    bits = 32 if isinstance(vector.element, ir.FloatType) else 64
    ints = ir.VectorType(ir.IntType(bits), vector.count)
    constant = lambda value: ir.Constant(ints, [value] * vector.count)
    n = builder.bitcast(shifted, ints)
    is_odd = builder.icmp_unsigned("!=", builder.and_(n, constant(1)), constant(0))
    sign = builder.shl(builder.and_(n, constant(2)), constant(bits - 2))
    chosen = builder.bitcast(builder.select(is_odd, cosine, sine), ints)
    return builder.bitcast(builder.xor(chosen, sign), vector)


quadrant = elementwise(emit_quadrant)


def sin_and_cos_near_zero(r):
    """sin r and cos r for |r| <= π/4."""
    square = r * r
    return fma(r * square, sin_tail(square), r), fma(square, fma(square, cos_tail(square), -0.5), 1.0)


@formula
def sin_vector(x):
    n, r = reduced(x)
    return where_less(absolute(x), 1e-18, x, quadrant(n + ROUND(x), *sin_and_cos_near_zero(r)))


@formula
def cos_vector(x):
    n, r = reduced(x)
    return quadrant(n + (ROUND(x) + 1.0), *sin_and_cos_near_zero(r))


@formula_of_two
def sin_and_cos_of_turns(t):
    """sin 2πt and cos 2πt: whole turns are taken off without rounding, whatever t is."""
    whole = copysign(ROUND(t) * (2.0 / 3.0), t)
    # adding 2²³ or 2⁵² rounds to an integer; beyond, t is one
    rest = t - ((t + whole) - whole)
    rest = where_less(absolute(rest), 1.0, rest, t - t)
    shifted = fma(rest, 4.0, ROUND(t))
    sine, cosine = sin_and_cos_near_zero((rest * 4.0 - (shifted - ROUND(t))) * HALF_PI)
    return quadrant(shifted, sine, cosine), quadrant(shifted + 1.0, sine, cosine)
