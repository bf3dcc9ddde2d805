r"""Expressions in LaTeX, parsed into a normal form in which equal ones are equal tuples.

Fractions and decimals are one rational (see `products`), factors and summands are sorted. Nothing
is evaluated by Python, and every size is limited.
"""

import re
from fractions import Fraction

from star_jax.tasks.readers.products import Node, Product, Unread, atom, number, power, root, times

DEEPEST = 24  # brackets within brackets
TOKEN = re.compile(r"\\begin\{[a-z]+\*?\}|\\end\{[a-z]+\*?\}|\\[A-Za-z]+|\\.|[^\s]")
NUMERAL = re.compile(r"\d+(?:\.\d+)?|\.\d+")
GREEK = frozenset(
    re.findall(
        "[A-Za-z]+",
        """alpha beta gamma delta epsilon varepsilon zeta eta theta vartheta iota kappa lambda mu nu
        xi pi rho sigma tau phi varphi chi psi omega Gamma Delta Theta Lambda Xi Pi Sigma Phi Psi
        Omega infty emptyset ell""",
    )
)
FUNCTIONS = frozenset(
    re.findall(
        "[a-z]+",
        """sin cos tan cot sec csc arcsin arccos arctan sinh cosh tanh log ln lg exp gcd lcm min max
        det""",
    )
)
WRAPPERS = frozenset(("overline", "vec", "hat", "bar", "mathbb", "mathcal", "widehat"))
RELATIONS = frozenset(("=", "<", ">", "\\le", "\\ge", "\\ne", "\\in", "\\approx", "\\equiv"))
FLIPPED = {">": "<", "\\ge": "\\le"}
OPENING, CLOSING = frozenset(("(", "[", "\\{", "{")), frozenset((")", "]", "\\}", "}"))
STOPS = frozenset((",", "&", "\\\\", "+", "-", "\\pm", "\\cup", "\\cap", "\\setminus", "|", "/"))
TIMES = frozenset(("\\cdot", "\\times", "*"))


def parse(text: str) -> Node | None:
    """The normal form; None of what is no expression that this module knows."""
    try:
        return _Parser(text).whole()
    except (Unread, RecursionError):
        return None


class _Parser:
    """Recursive descent over the tokens of one element; every method returns a Product."""

    def __init__(self, text: str):
        self.tokens = TOKEN.findall(text)
        self.place = 0
        self.depth = 0

    def whole(self) -> Node:
        found = self.relation()
        if self.peek():
            raise Unread(self.peek())
        return found

    def peek(self) -> str:
        return self.tokens[self.place] if self.place < len(self.tokens) else ""

    def take(self, *wanted: str) -> str:
        token = self.peek()
        if not token or (wanted and token not in wanted):
            raise Unread(token)
        self.place += 1
        return token

    def relation(self) -> Node:
        sides, signs = [self.union()], []
        while self.peek() in RELATIONS:
            signs.append(self.take())
            sides.append(self.union())
        if not signs:
            return sides[0]
        if signs[0] in FLIPPED and all(sign in FLIPPED for sign in signs):
            sides, signs = sides[::-1], [FLIPPED[sign] for sign in signs[::-1]]
        if signs == ["="] or signs == ["\\ne"]:
            sides.sort(key=repr)
        return ("relation", *signs, *sides)

    def union(self) -> Node:
        sets, signs = [self.sum()], set()
        while self.peek() in ("\\cup", "\\cap", "\\setminus"):
            signs.add(self.take())
            sets.append(self.sum())
        if signs in ({"\\cup"}, {"\\cap"}):
            sets.sort(key=repr)
        return ("sets", *sorted(signs), *sets) if signs else sets[0]

    def sum(self) -> Product:
        terms: list[Node] = []
        signs = []
        while not terms or self.peek() in ("+", "-", "\\pm"):
            sign = self.take() if self.peek() in ("+", "-", "\\pm") else "+"
            signs.append(sign)
            term = self.term()
            terms.append(times(number(-1), term) if sign == "-" else term)
            if sign == "\\pm":
                terms[-1] = atom("\\pm", term)
        if len(terms) == 1 and signs != ["\\pm"]:
            return self.product_of(terms[0])
        return atom("+", *sorted(terms, key=repr))

    @staticmethod
    def product_of(node: Node) -> Product:
        return node if isinstance(node, Product) else atom(node)

    def term(self) -> Product:
        found = self.factor()
        while True:
            token = self.peek()
            if token in TIMES:
                self.take()
                found = times(found, self.factor())
            elif token in ("/", "\\div"):
                self.take()
                found = times(found, power(self.factor(), Fraction(-1)), fold=True)
            elif not token or token in STOPS | RELATIONS | CLOSING or token.startswith("\\end"):
                return found
            else:
                found = self.juxtaposed(found)

    def juxtaposed(self, left: Product) -> Product:
        r"""The next factor without an operator; of 1\frac{2}{3}, the mixed number."""
        is_fraction = self.peek() == "\\frac"
        right = self.factor()
        numbers = not left.factors and not right.factors
        if numbers and is_fraction and left.coefficient.denominator == 1 and left.coefficient > 0:
            return number(left.coefficient + right.coefficient)
        return times(left, right)

    def factor(self) -> Product:
        if self.peek() == "-":
            self.take()
            return times(number(-1), self.factor())
        found = self.base()
        while self.peek() in ("^", "_", "!", "'"):
            sign = self.take()
            if sign == "^" and self.peek() == "\\circ":
                self.take()
                found = times(found, atom("degree"), fold=True)
            elif sign == "^":
                exponent = self.argument()
                is_number = isinstance(exponent, Product) and not exponent.factors
                found = (
                    power(found, exponent.coefficient) if is_number else atom("^", found, exponent)
                )
            else:
                found = atom(sign, found, *((self.argument(),) if sign == "_" else ()))
        return found

    def argument(self) -> Product:
        """What a command or ^ applies to: a group in braces, or one token."""
        if self.peek() == "{" or self.peek().startswith("\\"):
            return self.base()
        if self.peek() == "-":  # as in x^-1, which is no TeX
            self.take()
            return times(number(-1), self.argument())
        token = self.take()
        if token.isdecimal() and token.isascii():
            return number(int(token))
        if not token.isalpha():
            raise Unread(token)
        return atom(token)

    def base(self) -> Product:
        token = self.peek()
        if token.isascii() and (token.isdecimal() or token == "."):
            return self.numeral()
        self.take()
        if token.isascii() and token.isalpha():
            return atom(token)
        if token in OPENING or token == "|":
            return self.bracketed(token)
        if not token.startswith("\\"):
            raise Unread(token)
        return self.command(token[1:])

    def numeral(self) -> Product:
        digits = ""
        while self.peek() and self.peek() in ".0123456789":
            digits += self.take()
        if not NUMERAL.fullmatch(digits):
            raise Unread(digits)
        return number(Fraction(digits))

    def command(self, name: str) -> Product:
        if name in GREEK:
            return atom("\\" + name)
        if name == "frac":
            over, under = self.argument(), self.argument()
            return times(over, power(under, Fraction(-1)), fold=True)
        if name == "sqrt":
            degree = self.bracketed(self.take("[")) if self.peek() == "[" else number(2)
            return root(self.argument(), degree)
        if name in FUNCTIONS:
            return self.function(name)
        if name in WRAPPERS:
            return atom(name, self.argument())
        if name == "binom":
            return atom(name, self.argument(), self.argument())
        if name.startswith("begin"):
            return self.matrix(name.removeprefix("begin"))
        raise Unread(name)

    def function(self, name: str) -> Product:
        above = below = None
        while self.peek() in ("^", "_"):
            if self.take() == "^":
                above = self.argument()
            else:
                below = self.argument()
        found = self.factor()
        while (token := self.peek()) and token not in STOPS | RELATIONS | CLOSING | TIMES:
            if token[1:] in FUNCTIONS or token in ("(", "["):
                break
            found = self.juxtaposed(found)
        return atom(name, above, below, found)

    def bracketed(self, opening: str) -> Product:
        """A group; with commas inside, or of [ and (, a tuple or interval."""
        self.depth += 1
        if self.depth > DEEPEST:
            raise Unread("too deep")
        items = [self.relation()]
        while self.peek() == ",":
            self.take()
            items.append(self.relation())
        end = self.take("|") if opening == "|" else self.take(*CLOSING)
        self.depth -= 1
        pair = opening + end
        if len(items) == 1 and pair in ("()", "{}", "[]"):
            return self.product_of(items[0])
        if pair == "\\{\\}":
            items.sort(key=repr)
        elif pair not in ("()", "(]", "[)", "[]", "||") or (pair == "||" and len(items) > 1):
            raise Unread(pair)
        return atom(pair, *items)

    def matrix(self, name: str) -> Product:
        rows: list[list[Node]] = [[self.relation()]]
        while self.peek() in ("&", "\\\\"):
            if self.take() == "\\\\":
                if self.peek().startswith("\\end"):
                    break
                rows.append([])
            rows[-1].append(self.relation())
        self.take("\\end" + name)
        kind = "determinant" if name == "{vmatrix}" else "matrix"
        return atom(kind, *(tuple(row) for row in rows))
