"""Choices read a second time: over a line's tokens, without regular expressions.

Written from docs/answers.md, to be compared with star_jax's own reader on random sentences.
"""
# ruff: noqa: RUF001  typographic signs are what it reads

import itertools

from tests.slow_numbers import is_letter, is_word

# A line becomes a list of tokens; "_" is the text of a choice next to its label.
DENIERS = (
    "not", "never", "cannot", "unlike", "neither", "nor", "except", "except for", "apart from",
    "aside from", "instead of", "in place of", "opposed to", "compared to", "compared with",
    "versus", "anything but", "everything but", "nothing but", "all but", "any but", "none but",
)  # fmt: skip
REJECTING = (
    *(f"{stem}{end}" for stem in ("eliminat",) for end in ("e", "es", "ed", "ing")),
    *(f"{stem}{end} out" for stem in ("rul",) for end in ("e", "es", "ed", "ing")),
    *(f"{stem}{end}" for stem in ("reject", "discard") for end in ("", "s", "ed", "ing")),
    *(f"dismiss{end}" for end in ("", "es", "ed", "ing")),
    "exclude", "excludes", "excluded", "cross out", "crosses out", "crossed out", "crossing out",
)  # fmt: skip
BETWEEN_TWO = ("over", "without", "excluding", "besides", "beats", "beating")
REASONS = ("because", "since", "as", "for", "which", "while", "whereas")
ARTICLES = ("a", "an", "the", "also", "both", "option", "choice")
CLOSERS = " .!?:;,\"'”’*)]}$"
END_OF_SENTENCE = "\"'”’*)]}$"


class Token:
    """A label "(x)", a word or another character."""

    def __init__(self, kind, text, start, end):
        self.kind, self.text, self.start, self.end = kind, text, start, end

    def __repr__(self):
        return f"{self.text}"


def tokens_of(line, choices):
    found, i = [], 0
    while i < len(line):
        j = i + 1
        wrapped = wrapped_letter(line, i)
        if wrapped:
            letter, j = wrapped
            found.append(Token("label", letter, i, j))
        elif line[i].isspace():
            pass
        elif is_word(line[i]) or line[i] in "'’-":
            while j < len(line) and (is_word(line[j]) or line[j] in "'’-"):
                j += 1
            found.append(Token("word", line[i:j].lower(), i, j))
        else:
            found.append(Token("sign", line[i], i, j))
        i = j
    for k, token in enumerate(found):
        if token.kind == "label" and choices.get(token.text):
            text = choices[token.text].lower().split()
            for i in (k - len(text), k + 1):
                if i >= 0 and [t.text for t in found[i : i + len(text)]] == text:
                    for t in found[i : i + len(text)]:
                        t.kind = "mask"
    return found


def wrapped_letter(line, i):
    """(letter, end) of a label at i, as (b), \\boxed{B}, $B$, **B** and [B]."""
    for opening, closing in (("(", ")"), ("\\boxed{", "}"), ("$", "$"), ("**", "**"), ("[", "]")):
        if line.startswith(opening, i):
            j = i + len(opening)
            letter = line[j : j + 1]
            if letter and is_letter(letter) and line.startswith(closing, j + 1):
                return letter.lower(), j + 1 + len(closing)
    return None


def same_sentence(line, left, right):
    """Whether no sentence ends from one place of the line to another."""
    for i in range(left, right):
        if line[i] in ".!?":
            j = i + 1
            while j < len(line) and line[j] in END_OF_SENTENCE:
                j += 1
            if j <= right and (j == len(line) or line[j].isspace()):
                return False
    return True


def words_before(tokens, k):
    """The words directly before token k, the nearest last; a choice's text is one word."""
    words = []
    while k and tokens[k - 1].kind in ("word", "mask"):
        k -= 1
        if not (tokens[k].kind == "mask" and tokens[k + 1].kind == "mask"):
            words.insert(0, "_" if tokens[k].kind == "mask" else tokens[k].text)
    return words


def preceded(words, phrases, most):
    """Whether one of the phrases is followed by at most `most` words up to the end."""
    return any(
        words[i : i + len(phrase.split())] == phrase.split()
        and len(words) - i - len(phrase.split()) <= most
        for phrase in phrases
        for i in range(len(words))
    )


def is_denied(line, tokens, k):
    words = words_before(tokens, k)
    if preceded(words, (*DENIERS, *REJECTING), 3) or preceded(words, ("than",), 6):
        return True
    if any(word.endswith("n't") and len(words) - i - 1 <= 3 for i, word in enumerate(words)):
        return True
    earlier = [t for t in tokens[:k] if t.kind == "label"]
    another = bool(earlier) and same_sentence(line, earlier[-1].end, tokens[k].start)
    return another and preceded(words, BETWEEN_TWO, 3)


def is_list(tokens, k, m):
    """Whether the labels k and m are two of a list: "(a) or (b)", "(a), (b)", "(a) and (b)"."""
    between = []
    for token in tokens[k + 1 : m]:
        if token.kind != "mask":
            between.append(token.text)
        elif between[-1:] != ["_"]:
            between.append("_")
    if between[:1] == [","] and between[1:2] in (["or"], ["nor"], ["/"]):
        between = between[1:]
    if between[:1] in (["or"], ["nor"], ["/"]):
        return len(between) <= 5 and all(is_word(x[0]) for x in between[1:])
    if between[:1] == [","]:
        between = between[1:]
        if between[:1] in (["and"], ["&"]):
            between = between[1:]
        elif between[:3] == ["as", "well", "as"]:
            between = between[3:]
    elif between[:1] in (["and"], ["&"], [";"]):
        between = between[1:]
    elif between[:3] == ["as", "well", "as"]:
        between = between[3:]
    while between and between[0] in ARTICLES:
        between = between[1:]
    return between in ([], ["_"])


def firm_labels(line, tokens):
    """The places of labels that are neither denied nor in a list with another letter."""
    places = [k for k, token in enumerate(tokens) if token.kind == "label"]
    out = {k for k in places if is_denied(line, tokens, k)}
    for k, m in itertools.pairwise(places):
        if tokens[k].text != tokens[m].text and is_list(tokens, k, m):
            out |= {k, m}
    return [k for k in places if k not in out]


def statements_of(tokens):
    """The places after each "the answer is"."""
    found, k = [], 0
    while k < len(tokens):
        end = None
        if tokens[k].text in ("answer", "choice", "option") and tokens[k].kind == "word":
            for j in range(k + 1, min(k + 6, len(tokens))):
                rest = [t.text for t in tokens[j : j + 2]]
                if rest[:1] in ([":"], ["="], ["is"]):
                    end = j + 1
                elif rest in (["would", "be"], ["must", "be"], ["should", "be"]):
                    end = j + 2
                is_plain = tokens[j].kind != "label" and all(map(is_word, tokens[j].text))
                if end or not is_plain:
                    break
                if j == k + 1 and tokens[j].text == "choices":
                    break
        if end:
            found.append(end)
        k = end or k + 1
    return found


def conclusion(line, choices):
    """(letter or None, whether it is stated) of a line."""
    tokens = tokens_of(line, choices)
    firm = firm_labels(line, tokens)
    places = [k for k, token in enumerate(tokens) if token.kind == "label"]
    last = places[-1] if places else None
    if last is not None and line[tokens[last].end :].strip(CLOSERS):
        last = None
    stated, is_said = [], False
    for place in statements_of(tokens):
        start = tokens[place - 1].end
        in_scope = [k for k in places if k >= place and same_sentence(line, start, tokens[k].start)]
        is_said |= last in in_scope
        said = [k for k in firm if k in in_scope]
        if said:
            reason = min(
                [
                    j
                    for j in range(said[0], len(tokens))
                    if tokens[j].text in (*REASONS, ";", "—") and tokens[j].kind != "mask"
                ],
                default=len(tokens),
            )
            letters = {tokens[k].text for k in said if k < reason}
            end = max(tokens[k].end for k in said if k < reason)
            if len(letters) == 1:
                stated.append((sentence_end(line, end), letters.pop()))
        elif found := bare_letter(line, tokens, place):
            stated.append(found)
    for end, letter in reversed_statements(line, tokens, firm):
        after = last is not None and tokens[last].start >= end
        is_said |= after and same_sentence(line, end, tokens[last].start)
        stated += [(sentence_end(line, end), letter)] if letter else []
    if last in firm and last is not None and not is_said:
        return tokens[last].text, bool(stated)
    if stated:
        letters = {letter for end, letter in stated if end == max(stated)[0]}
        return (letters.pop() if len(letters) == 1 else None), True
    if (
        last is not None
        and last not in firm
        and not preceded(words_before(tokens, last), REJECTING, 3)
    ):
        letters = {
            tokens[k].text for k in firm if same_sentence(line, tokens[k].end, tokens[last].start)
        }
        if len(letters) == 1:
            return letters.pop(), False
    return None, False


def bare_letter(line, tokens, place):
    """The letter without parentheses that a statement says."""
    while place < len(tokens) and tokens[place].text in ('"', ":", "*"):
        place += 1
    named = False
    if place < len(tokens) and tokens[place].text == "the":
        place += 1
    if place < len(tokens) and tokens[place].text in ("option", "choice", "letter"):
        named, place = True, place + 1
    if place == len(tokens) or not (len(tokens[place].text) == 1 and is_letter(tokens[place].text)):
        return None
    token, rest = tokens[place], line[tokens[place].end :]
    if token.kind != "word" or (line[token.start] == "a" and not named and rest[:1] != ")"):
        return None
    marks = len(rest) - len(rest.lstrip("]}$.:,;!?\"'”’*"))
    following = [t.text for t in tokens[place + 1 :]]
    marked = rest[:1] == ")" or (marks and (not rest[marks:] or rest[marks].isspace()))
    spaced = (
        rest[:1].isspace()
        and following[:1]
        and (following[0] in ("because", "since", "as", "(", "-") or following[0][0] == "-")
    )
    if not (marked or not rest.strip() or spaced):
        return None
    after = tokens[place + 1 :]
    while after and after[0].text in tuple(CLOSERS) and after[0].text != ",":
        after = after[1:]
    if after and after[0].text in (",", "/", "&", "and", "or") and after[0].kind != "mask":
        after = after[1:]
        if after and after[0].text in ("and", "or"):
            after = after[1:]
        ends = len(after) == 1 or (after and not is_word(after[1].text[0]))
        is_one = after and len(after[0].text) == 1 and is_letter(after[0].text)
        if is_one and (ends or after[0].kind == "label"):
            return None
    end = token.end + marks
    if not marks and not rest.strip():
        end = len(line)
    if same_sentence(line, token.end, end) or line[token.end] not in ".!?":
        end = sentence_end(line, end)
    return end, token.text


def sentence_end(line, place):
    """Where the sentence around a place ends; the place itself if it does not end."""
    for i in range(max(0, place - 1), len(line)):
        if line[i] in ".!?":
            j = i + 1
            while j < len(line) and line[j] in END_OF_SENTENCE:
                j += 1
            if j == len(line) or line[j].isspace():
                return j
    return place


def reversed_statements(line, tokens, firm):
    """(end, letter or None) of each "(b) is the answer" and "option B is correct"."""
    found, begin = [], 0
    for k, token in enumerate(tokens):
        before = tokens[k - 1] if k else None
        named = before and before.kind == "word" and before.text in ("option", "choice", "letter")
        opened = before is None or (before.text in tuple(".:,!?") and before.end < token.start)
        opened |= bool(before) and before.kind == "word" and before.text in (
            "so", "thus", "therefore", "hence", "and", "or"
        )  # fmt: skip
        is_bare = token.kind == "word" and len(token.text) == 1 and is_letter(token.text)
        if token.start < begin:
            continue
        if token.kind == "label":
            end = says_so(line, tokens, range(k + 1, len(tokens)), token.end)
            if end:
                found.append((end, token.text if k in firm else None))
        elif is_bare and (named or (opened and line[token.start].isupper())):
            end = says_so(line, tokens, range(k + 1, k + 2), token.end)
            words = words_before(tokens, k - 1) if k else []
            denied = (
                preceded(words, (*DENIERS, *REJECTING), 3)
                or preceded(words, ("than",), 6)
                or any(w.endswith("n't") and len(words) - i <= 4 for i, w in enumerate(words))
            )
            if end:
                found.append((end, None if denied else token.text))
        else:
            end = None
        begin = end or begin
    return found


def says_so(line, tokens, places, start):
    """Where "is the answer", "is correct" or "is right" ends, "is" being at one of the places."""
    for j in places:
        if j >= len(tokens) or tokens[j].kind == "label" or tokens[j].text in (".", "(", ")"):
            return None
        if tokens[j].text == "is" and tokens[j].start - start <= 60:
            rest = tokens[j + 1 : j + 5]
            for i, token in enumerate(rest):
                if token.text in ("answer", "correct", "right") and i <= 2 + (
                    rest[0].text == "the"
                ):
                    return token.end
                if (
                    token.kind == "label"
                    or token.text == "not"
                    or not all(map(is_word, token.text))
                ):
                    break
    return None


def only_a_choice(line, choices):
    """The letter of a line with nothing but a letter, or with its choice's text."""
    words = [token for token in tokens_of(line, {}) if token.kind != "sign"]
    texts = [token.text for token in words]
    ways = [(texts[0], texts[1:])] if words else []
    ways += [(texts[-1], texts[:-1])] if words and words[-1].kind == "label" else []
    for letter, rest in ways:
        is_one = len(letter) == 1 and is_letter(letter)
        if is_one and (not rest or rest == choices.get(letter, "").lower().split()):
            return letter
    return None


def choice(completion, choices):
    """The letter of a completion's conclusion, None without one."""
    lines = completion.split("\n\n")[0].split("\n")
    alone = [only_a_choice(line, choices) for line in lines]
    repeats = len(set(alone) - {None}) > 1
    found, first = None, True
    for line, letter in zip(lines, alone, strict=True):
        reading, stated = conclusion(line, choices)
        if first and letter and not reading:
            reading = letter
        first = first and not line.strip()
        if reading and not (repeats and letter):
            found = reading
        if stated:
            break
    return found if found in choices else None
