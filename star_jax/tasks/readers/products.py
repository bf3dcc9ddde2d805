"""Products in a normal form: a rational times powers of what is no rational.

Roots have no squares in them, and nothing else is calculated; every size is limited.
"""

from collections.abc import Iterable
from fractions import Fraction
from typing import NamedTuple, TypeAlias

Node: TypeAlias = tuple[object, ...]

LARGEST_ROOT = 10**9  # of a number, to be split into its prime factors
LARGEST_POWER = 64  # of a prime that a root was taken of


class Product(NamedTuple):
    """A rational times powers of what is no rational, sorted; a number has no factors."""

    coefficient: Fraction
    factors: tuple[tuple[Node, Fraction], ...] = ()


class Unread(ValueError):
    """A text that is no expression that this module knows."""


def number(value: Fraction | int) -> Product:
    """A rational number."""
    return Product(Fraction(value))


def atom(*parts: object) -> Product:
    """What is no rational: a letter, a sum, a function of something."""
    return Product(Fraction(1), ((parts, Fraction(1)),))


def times(left: Product, right: Product, *, fold: bool = False) -> Product:
    """The product. Two numbers are not multiplied unless `fold`, as the parts of a fraction are."""
    if not fold and _is_numeral(left) and _is_numeral(right):
        return atom("*", left, right)
    powers = dict(left.factors)
    for factor, exponent in right.factors:
        powers[factor] = powers.get(factor, Fraction(0)) + exponent
    return _normal(left.coefficient * right.coefficient, powers.items())


def _is_numeral(node: Product) -> bool:
    return not node.factors and abs(node.coefficient) != 1


def _normal(coefficient: Fraction, powers: Iterable[tuple[Node, Fraction]]) -> Product:
    """Sorted, without powers of 0; of a prime's exponent, the whole part is in the coefficient."""
    factors = []
    for factor, exponent in powers:
        if factor[0] == "prime":
            whole = exponent.numerator // exponent.denominator
            if abs(whole) > LARGEST_POWER:
                raise Unread("too large")
            coefficient *= Fraction(int(str(factor[1]))) ** whole
            exponent -= whole
        if exponent:
            factors.append((factor, exponent))
    return Product(coefficient, tuple(sorted(factors, key=repr)))


def power(base: Product, exponent: Fraction) -> Product:
    """The power of a base; 2^10 is not calculated, and what may change a sign is left alone."""
    if exponent == 1:
        return base
    if exponent == -1:
        if base.coefficient == 0:
            raise Unread("division by 0")
        return _normal(1 / base.coefficient, [(factor, -p) for factor, p in base.factors])
    if not base.factors and exponent.denominator > 1:
        found = root(base, number(exponent.denominator))
        return found if exponent.numerator == 1 else atom("^", base, exponent)
    if base.factors and base.coefficient == 1 and exponent.denominator == 1:
        return _normal(Fraction(1), [(factor, p * exponent) for factor, p in base.factors])
    return atom("^", base, exponent)


def root(base: Node, degree: Node) -> Product:
    """A root; of a number, without powers of whole numbers in it: the root of 8 is 2 root 2."""
    if not isinstance(base, Product) or not isinstance(degree, Product):
        raise Unread("root of a relation")
    n, value = degree.coefficient, base.coefficient
    if degree.factors or n.denominator != 1 or not 2 <= n <= 20:
        return atom("root", base, degree)
    if base.factors or value <= 0 or max(value.numerator, value.denominator) > LARGEST_ROOT:
        return atom("^", base, 1 / n)
    over, under = _primes(value.numerator), _primes(value.denominator)
    powers = [(p, e / n) for p, e in over.items()] + [(p, -e / n) for p, e in under.items()]
    return _normal(Fraction(1), [(("prime", p), Fraction(e)) for p, e in powers])


def _primes(number: int) -> dict[int, Fraction]:
    found: dict[int, Fraction] = {}
    divisor = 2
    while number > 1:
        if divisor * divisor > number:
            divisor = number
        while number % divisor == 0:
            found[divisor] = found.get(divisor, Fraction(0)) + 1
            number //= divisor
        divisor += 1
    return found
