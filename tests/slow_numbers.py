"""Numbers read a second time: slowly, character by character, without regular expressions.

Written from docs/answers.md, to be compared with star_jax's own reader on random texts.
"""
# ruff: noqa: RUF001  typographic signs are what it reads

import unicodedata
from fractions import Fraction

DIGITS = "0123456789"
OPERATORS_BEFORE = "-+/^×÷·⋅±√~≈<≤≥≠"
OPERATORS_AFTER = "!^=+×÷·⋅±√≈≠≤≥:π∞"


def listed(words):
    return tuple(words.split())


HARMLESS = listed("""boxed box fboxed fbox framebox text textbf textit textrm math mathbf mathit
    mathrm mbox bf rm large Large left right displaystyle quad qquad degree circ""")
SCALES = listed("""hundred hundreds thousand thousands million millions billion billions trillion
    trillions quadrillion quadrillions lakh lakhs crore crores mil mio mn mln bn bln tn trn squared
    cubed factorial half halves thirds fourths fifths sixths sevenths eighths ninths tenths
    hundredths thousandths""")
SPELLED = SCALES + listed("""one two three four five six seven eight nine ten eleven twelve thirteen
    fourteen fifteen sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy
    eighty ninety quarter third""")


def is_word(character):
    return character.isalnum() or character == "_"


def is_letter(character):
    return character.isascii() and character.isalpha()


def folded(text):
    out = ""
    for c in text:
        if 0xFF01 <= ord(c) <= 0xFF5E:
            c = unicodedata.normalize("NFKC", c)
        if c.isdecimal():
            out += str(int(c))
        elif c in "²³":
            out += c
        elif unicodedata.category(c) in ("No", "Nl"):
            out += "½"
        else:
            out += {"−": "-", "–": "-", "\u2009": "\u00a0", "\u202f": "\u00a0"}.get(c, c)
    return out


def without_calculations(line):
    out, i = "", 0
    while i < len(line):
        if line.startswith("<<", i):
            j = i + 2
            while j < len(line) and line[j] not in "<>":
                j += 1
            if j == len(line) or line.startswith((">>", "<<"), j):
                j += 2 * line.startswith(">>", j)
                out += " " * (j - i - 1) + "\x1e"  # ends the line if the number precedes it
                i = j
                continue
        out += line[i]
        i += 1
    return out


def without_commands(line):
    for degree in ("^{\\circ}", "^\\circ"):
        line = line.replace(degree, " " * len(degree))
    out, i = "", 0
    while i < len(line):
        j = i + 1
        while line[i] == "\\" and j < len(line) and is_letter(line[j]):
            j += 1
        name = line[i + 1 : j]
        out += (" " if name in HARMLESS else "½") * (j - i) if name else line[i]
        i = j
    return out


def number(text):
    """The value on the line of `text`, which is what follows the mark; None without one."""
    line = folded(text.split("\n")[0].split("####")[0])
    line = without_commands(without_calculations(line))
    first = next((i for i, c in enumerate(line) if c in DIGITS + "½²³"), None)
    if first is None or line[first] not in DIGITS:
        return None
    start = first - 1 if line[:first].endswith(".") else first
    if start and (is_word(line[start - 1]) or line[start - 1] == "."):
        return None
    value, end, decimals = positive(line, start)
    before, negative, currency = prefix(line[:start])
    after = tail(line[end:])
    if value is None or before is None or changed_before(before) or changed_after(after):
        return None
    metres = after[1:] if after[:1].isspace() else after
    if currency and metres[:1] == "m" and not is_word(metres[1:2] or " "):
        return None
    if decimals and after.startswith(("…", "..")):
        return None
    if not closed(before, after):
        return None
    value = -value if negative else value
    return value if is_short(value) else None


def is_short(value):
    """At most 64 characters, as a decimal where that is exact, or else as a fraction."""
    twos_and_fives = value.denominator
    for prime in (2, 5):
        while twos_and_fives % prime == 0:
            twos_and_fives //= prime
    if twos_and_fives != 1:
        return len(str(value)) <= 64
    places = 0
    while (value * 10**places).denominator != 1:
        places += 1
    digits = str(abs(int(value * 10**places))).rjust(places + 1, "0")
    return (value < 0) + len(digits) + (places > 0) <= 64


def run(line, i):
    """Where the digits from i end."""
    while i < len(line) and line[i] in DIGITS:
        i += 1
    return i


def positive(line, start):
    """(value, end, has decimals) of the number without sign at `start`."""
    end = run(line, start)
    over = end + 1
    if end > start and line[end : end + 1] == " " and run(line, over) > over:
        slash = run(line, over)
        under = run(line, slash + 1)
        if line[slash : slash + 1] == "/" and under > slash + 1:
            if int(line[slash + 1 : under]) == 0:
                return None, percent(line, under), False
            part = Fraction(int(line[over:slash]), int(line[slash + 1 : under]))
            return int(line[start:end]) + part, percent(line, under), False
    digits = line[start:end]
    if 1 <= len(digits) <= 3 and digits[0] != "0":
        for separator in (",\\!", ",", "{,}", "\\,", "_", "\u00a0"):
            groups, i = digits, end
            while (
                line.startswith(separator, i)
                and run(line, i + len(separator)) == i + len(separator) + 3
            ):
                i += len(separator) + 3
                groups += line[i - 3 : i]
            if i > end:
                digits, end = groups, i
                break
    decimals = ""
    if line[end : end + 1] == "." and run(line, end + 1) > end + 1:
        decimals = line[end + 1 : run(line, end + 1)]
        end = run(line, end + 1)
    value = Fraction(int(digits or 0)) + Fraction(int(decimals or 0), 10 ** len(decimals))
    if line[end : end + 1] in ("e", "E"):
        i = end + 1 + (line[end + 1 : end + 2] in ("+", "-"))
        if 1 <= run(line, i) - i <= 2:
            value *= Fraction(10) ** int(line[end + 1 : run(line, i)])
            end = run(line, i)
    i = end + (line[end : end + 1].isspace())
    if line[i : i + 1] == "/":
        i += 1 + line[i + 1 : i + 2].isspace()
        if run(line, i) > i:
            divisor, end = int(line[i : run(line, i)]), run(line, i)
            value = value / divisor if divisor else None
    return value, percent(line, end), "." in line[start:end]


def percent(line, end):
    """The end with a percent sign, if there is one."""
    rest = line[end:]
    i = rest[:1].isspace() + 0
    i += rest[i : i + 1] == "\\"
    return end + i + 1 if rest[i : i + 1] == "%" else end


def prefix(before):
    """(what precedes sign and currency, is negative, has a currency); None for two signs."""
    inner = before.endswith("-")
    body = before[:-1] if inner else before
    close = body[:-1] if body[-1:].isspace() else body
    bodies = [(body, False)]
    if close[-1:] in tuple("$€£¥₹"):
        bodies.append((close[:-1], True))
        if close[:-1].endswith("\\"):
            bodies.append((close[:-2], True))
    found = [(before, "", False, "")]
    for text, currency in bodies:
        found += [(text, "", currency, "")] if currency or inner else []
        found += [(ahead, sign, currency, gap) for ahead, sign, gap in signs_before(text)]
    for ahead, sign, currency, gap in sorted(found, key=lambda each: len(each[0])):
        if ahead != before and glue(ahead):
            continue
        has_inner = inner and ahead != before
        spaced = gap == " " and sign in ("-", "+")
        if (sign and has_inner) or (spaced and ahead.strip() and is_word(ahead.rstrip()[-1])):
            return None, True, currency
        return ahead, has_inner or sign not in ("", "+"), currency
    return None, False, False


def signs_before(text):
    """(what precedes the sign, the sign, the space after it) of each way to end in a sign."""
    gaps = [text[len(text) - n :] for n in (0, 1, 2) if text[len(text) - n :].isspace() or not n]
    for gap in gaps:
        ahead = text[: len(text) - len(gap)]
        if len(gap) < 2 and ahead[-1:] in ("-", "+"):
            yield ahead[:-1], ahead[-1], gap
        for word in ("minus", "negative"):
            if gap and ahead.lower().endswith(word):
                yield ahead[: -len(word)], word, gap


def glue(ahead):
    return bool(ahead) and (is_word(ahead[-1]) or ahead[-1] == ".")


def tail(after):
    """What follows the number in its sentence, without the powers of units."""
    after = after.split("\x1e")[0]
    for i, c in enumerate(after):
        rest = after[i + 1 :]
        if (
            c in ".!?"
            and rest[:1].isspace()
            and rest.lstrip()[:1] in tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
        ):
            after = after[: i + 1]
            break
    for unit in ("cm", "dm", "km", "mm", "m", "in", "ft", "yd", "mi", "unit", "units"):
        for power in "23":
            i = after.find(unit + power)
            while i >= 0:
                j = i + len(unit) + 1
                if not (i and is_letter(after[i - 1])) and not is_word(after[j : j + 1] or " "):
                    after = after[:i] + " " * (j - i) + after[j:]
                i = after.find(unit + power, i + 1)
    out, i = "", 0
    while i < len(after):
        c, j = after[i], i
        if out and (is_letter(after[i - 1]) or after[i - 1] == "}"):
            if c in "²³":
                j = i + 1
            else:
                k = i + c.isspace()
                if after[k : k + 1] == "^":
                    k += 1 + after[k + 1 : k + 2].isspace()
                    k += after[k : k + 1] == "{"
                    if after[k : k + 1] in ("2", "3"):
                        j = k + 1 + (after[k + 1 : k + 2] == "}")
        out += " " * (j - i) if j > i else c
        i = max(j, i + 1)
    return out


def changed_before(before):
    text = before.rstrip()
    if any(c in DIGITS + "½²³" for c in text):
        return True
    low, last = text.lower(), text[-1:]
    if (last and last in OPERATORS_BEFORE) or text.endswith(("!=", "<=", ">=")):
        return True
    if last == ">" and not (text[-2:-1] and (is_word(text[-2]) or text[-2] in "\"'/|=-")):
        return True
    if last == "*" and len(text) > 1 and is_word(text[-2]):
        return True
    if (
        last == "*"
        and text != before
        and text[-2:-1].isspace()
        and is_word(text[:-1].rstrip()[-1:] or " ")
    ):
        return True
    inner = text.rstrip("([{")
    if inner != text and inner and (is_word(inner[-1]) or inner[-1] in ")]}"):
        return True
    if low.endswith(("n't", "n’t")):
        return True
    return any(
        low.endswith(w) and not is_word(low[: -len(w)][-1:] or " ")
        for w in ("not", "than", "minus", "negative")
    )


def changed_after(after):
    if any(c in DIGITS + "½²³" for c in after):
        return True
    text = after.lstrip()
    n_spaces = len(after) - len(text)
    first, second, third = after[:1], after[1:2], after[2:3]
    if text[:1] and text[0] in OPERATORS_AFTER:
        return True
    if text[:1] in ("<", ">") and (text[1:2].isspace() or text[1:2] == "="):
        return True
    if first in tuple("([{\\") and second and is_word(second):
        return True
    if first == "*" and second and (is_letter(second) or second == "("):
        return True
    if n_spaces and text[:1] == "*" and text[1:2].isspace():
        return True
    if text[:1] in tuple("-/~"):
        rest = text[1:].lstrip()
        rest = (rest[1:] if rest[:1] in ("{", "(") else rest).lstrip()
        if not (rest and is_letter(rest[0])):
            return True
        rest = text[1:].lstrip()
        if text[0] in "-/" and rest[:1] in tuple("xyzn") and not is_word(rest[1:2] or " "):
            return True
    if first in tuple("xXyznie") and not is_letter(second or " "):
        return True
    if first.isspace() and second == "x" and not is_word(third or " "):
        return True
    scale = after[1:] if first.isspace() else after
    if scale[:1] in tuple("kKMB") and not is_letter(scale[1:2] or " "):
        return True
    return is_scaled(after)


def is_scaled(after):
    """Whether words make it another number: "million", "and a half", "repeating"."""
    words, i = [], 0  # (word, start, end)
    while i < len(after):
        j = i
        while j < len(after) and is_letter(after[j]):
            j += 1
        if j > i:
            words.append((after[i:j].lower(), i, j))
        i = max(j, i + 1)

    def whole(k, names):
        return (
            k < len(words) and words[k][0] in names and not is_word(after[words[k][2] :][:1] or " ")
        )

    def spaced(k):
        return k + 1 < len(words) and after[words[k][2] : words[k + 1][1]].isspace()

    k = 1 if words and words[0][0] == "and" and spaced(0) else 0
    after_article = (
        k < len(words) and words[k][0] in ("a", "an", "one", "two", "three") and spaced(k)
    )
    if whole(k + 1 if after_article else k, SCALES):
        return True
    for k, (word, start, _) in enumerate(words):
        alone = not (start and is_word(after[start - 1]))
        if word in ("repeating", "recurring") and alone and whole(k, (word,)):
            return True
        if word == "and" and alone and spaced(k):
            if whole(k + 1, SPELLED):
                return True
            if words[k + 1][0] in ("a", "an") and spaced(k + 1) and whole(k + 2, SPELLED):
                return True
    return False


def closed(before, after):
    """Whether brackets that are open before the number are closed after it."""
    depth = 0
    for c in before:
        depth = depth + 1 if c in "([{" else max(0, depth - 1) if c in ")]}" else depth
    for c in after:
        if depth:
            depth += (c in "([{") - (c in ")]}")
    return depth == 0
