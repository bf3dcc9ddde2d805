"""Texts compared a second time, character by character, without regular expressions."""
# ruff: noqa: RUF001  typographic signs are what it reads

import unicodedata

SAME = {"‘": "'", "’": "'", "“": '"', "”": '"', "‐": "-", "‑": "-", "–": "-", "—": "-", "−": "-"}
PAIRS = ('"', "'", "*", "`", "$")


def same(left, right):
    return simple(left) == simple(right)


def simple(text):
    """The text in lower case with plain signs and single spaces, without what surrounds it."""
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFD", text).casefold())
    out = ""
    for c in text:
        c = " " if c.isspace() else SAME.get(c, c)
        out += "" if c == " " and (not out or out[-1] == " ") else c
    return without_marks(out.rstrip())


def without_marks(text):
    less = once(text)
    return text if not less or less == text else without_marks(less)


def once(text):
    while text[:1] in (":", " "):
        text = text[1:]
    text = text[2:] if text[:2] == "**" else text
    text = text[:-2] if text[-2:] == "**" else text
    while text[-1:] in tuple(" .,:;?"):
        text = text[:-1]
    end = len(text)
    while end and text[end - 1] == "!":
        end -= 1
    if end >= 2 and text[end - 1].isalpha() and text[end - 2].isalpha():
        text = text[:end]
    inner = text[1:-1]
    for mark in PAIRS:
        if text[:1] == mark == text[-1:] and inner.strip() and mark not in inner:
            return inner.strip()
    if text[:1] + text[-1:] in ("()", "[]") and all(map(str.isalpha, inner.split())):
        return inner.strip()
    return text.strip()
