"""A page of text as a picture: wrapped, as tall as it must be, and never broken by what stands in a name.

The font is Pillow's own, the same on every host, and has ASCII alone. A letter with a mark is drawn without it; what
has no such letter is drawn as a replacement, so that a reader sees that something is missing.
"""

import functools
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

SIZE = 1024
MARGIN = 48
BACKGROUND, INK, DIM = 16, 255, 176
REPLACEMENT = "?"
_LEADING = 1.35
_LETTERS = {
    "ß": "ss",
    "æ": "ae",
    "Æ": "AE",
    "œ": "oe",
    "Œ": "OE",
    "þ": "th",
    "Þ": "Th",
    "ð": "d",
    "Ð": "D",
    "ø": "o",
    "Ø": "O",
    "ł": "l",
    "Ł": "L",
    "đ": "d",
    "Đ": "D",
    "ħ": "h",
    "ı": "i",
}


@dataclass(frozen=True, slots=True)
class Line:
    """A paragraph: its text, the size of its letters in pixels, how bright it is, the space above it in pixels.

    `banner` draws it dark on a white bar over the whole width.
    """

    text: str
    size: int = 26
    ink: int = INK
    space: int = 6
    banner: bool = False


def draw(lines: Iterable[Line]) -> npt.NDArray[np.uint8]:
    """Return the page, (rows, 1024) uint8 grey values: at least square, taller if the text needs it."""
    wrapped = [(line, _wrap(_drawable(line.text), line.size)) for line in lines]
    height = MARGIN * 2 + sum(line.space + len(rows) * _pitch(line) for line, rows in wrapped)
    page = Image.new("L", (SIZE, max(SIZE, height)), BACKGROUND)
    pen = ImageDraw.Draw(page)
    top = MARGIN
    for line, rows in wrapped:
        top += line.space
        if line.banner:
            pen.rectangle((0, top, SIZE, top + len(rows) * _pitch(line)), fill=INK)
        for row in rows:
            left = (SIZE - _width(row, line.size)) // 2 if line.banner else MARGIN
            middle = top + _pitch(line) // 2
            ink = BACKGROUND if line.banner else line.ink
            pen.text((left, middle), row, font=_font(line.size), fill=ink, anchor="lm")
            top += _pitch(line)
    return np.asarray(page, dtype=np.uint8)  # (rows, columns)


def spelled(words: str) -> str:
    """Return `words` with what the font lacks written as code points: an identifier must stay one."""
    return "".join(c if _has_glyph(c) else f"<U+{ord(c):04X}>" for c in words)


def _drawable(words: str) -> str:
    """Return `words` without control characters, in letters that the font has."""
    plain = unicodedata.normalize("NFC", words)
    return "".join(_nearest(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c) for c in plain)


def _nearest(character: str) -> str:
    """Return the character, its letter without marks, or the replacement."""
    if _has_glyph(character):
        return character
    parts = _LETTERS.get(character) or unicodedata.normalize("NFKD", character)
    bare = "".join(part for part in parts if not unicodedata.combining(part))
    return bare if bare and all(map(_has_glyph, bare)) else REPLACEMENT


def _wrap(words: str, size: int) -> list[str]:
    """Return rows that fit the page; a word that is longer than a row is cut into pieces, nothing is left out."""
    rows = [""]
    for word in words.split(" "):
        candidate = f"{rows[-1]} {word}".strip(" ") if rows[-1] else word
        if _fits(candidate, size):
            rows[-1] = candidate
            continue
        if rows[-1]:
            rows.append("")
        for letter in word:
            if not _fits(rows[-1] + letter, size):
                rows.append("")
            rows[-1] += letter
    return rows


def _fits(row: str, size: int) -> bool:
    return _width(row, size) <= SIZE - 2 * MARGIN


def _width(row: str, size: int) -> int:
    return round(_font(size).getlength(row))


def _pitch(line: Line) -> int:
    return round(line.size * (_LEADING + (0.5 if line.banner else 0)))


@functools.cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise TypeError("this Pillow has no FreeType: its default font cannot be scaled")
    return font


@functools.lru_cache(maxsize=4096)
def _has_glyph(character: str) -> bool:
    """Return whether the font draws something of its own: what it lacks looks like a character that nobody has."""
    if character.isspace():
        return True
    return bytes(_font(26).getmask(character)) != bytes(_font(26).getmask("\U0010ffff"))
