"""Announcements that a telephone exchange joins from recordings: numbers, codes, dates.

A *combination* is a list of names of recordings; their words differ by language. Each
template draws a random combination. Codes and spellings fit any language; numbers,
dates and messages follow English grammar.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from random import Random

from espnet_mtla.errors import UserError

Words = tuple[str, ...]
MIN_PIECES, MAX_PIECES = 2, 8
# Words of a test combination, at least: nearly every pair of words occurs in training.
MIN_TEST_WORDS = 3
# Refused combinations in a row after which the templates count as exhausted.
PATIENCE = 500
# Of so many random combinations the one with the least used recording is chosen. Words
# such as "seventieth" would be too rare otherwise.
OFFERS = 5

ALPHABET = "abcdefghijklmnopqrstuvwxyz"
MARKS = ["dash", "dot", "slash", "plus", "equals", "at", "asterisk", "space"]
RARE_MARKS = [34, 36, 37, 38, 39, 40, 41, 42, 44, 58, 59, 60, 62, 63]
RARE_MARKS += [91, 92, 93, 94, 95, 96, 123, 124, 125, 126]
FOLDERS = ["vm-INBOX", "vm-Old", "vm-Urgent", "vm-Work", "vm-Family", "vm-Friends"]
CALLED = ["vm-extension", "number", "telephone-number", "vm-from-extension"]
CALLED += ["vm-num-i-have", "conf-enteringno", "vm-theperson", "to-extension"]


def cardinal(n: int) -> list[str]:
    """Return the recordings of a cardinal, ``0 <= n < 10**9``, without "and".

    >>> cardinal(123)
    ['digits/1', 'digits/hundred', 'digits/20', 'digits/3']
    """
    if n < 20:
        return [f"digits/{n}"]
    if n < 100:
        return [f"digits/{n // 10 * 10}", *(cardinal(n % 10) if n % 10 else [])]
    for unit, name in ((10**6, "million"), (1000, "thousand"), (100, "hundred")):
        if n >= unit:
            rest = cardinal(n % unit) if n % unit else []
            return [*cardinal(n // unit), f"digits/{name}", *rest]
    raise AssertionError(n)


def ordinal(n: int) -> list[str]:
    """Return the recordings of an ordinal, ``1 <= n < 100``.

    >>> ordinal(21)
    ['digits/20', 'digits/h-1']
    """
    if n <= 20 or n % 10 == 0:
        return [f"digits/h-{n}"]
    return [f"digits/{n // 10 * 10}", f"digits/h-{n % 10}"]


def _digits(rng: Random, low: int, high: int) -> list[str]:
    return [f"digits/{rng.randrange(10)}" for _ in range(rng.randint(low, high))]


def _spelled(rng: Random, words: list[str], low: int, high: int) -> str:
    """Draw letters to spell: a word of the corpus or, half the time, any letters."""
    fitting = [word for word in words if low <= len(word) <= high]
    if fitting and rng.random() < 0.5:
        return rng.choice(fitting)
    return "".join(rng.choices(ALPHABET, k=rng.randint(low, high)))


def code(rng: Random, _words: list[str]) -> list[str]:
    return _digits(rng, 3, 7)


def spelling(rng: Random, words: list[str]) -> list[str]:
    return [f"letters/{c}" for c in _spelled(rng, words, 3, 6)]


def phonetic(rng: Random, words: list[str]) -> list[str]:
    names = [f"phonetic/{c}_p" for c in _spelled(rng, words, 2, 5)]
    return names + (["phonetic/9_p"] if rng.random() < 0.15 else [])


def plate(rng: Random, _words: list[str]) -> list[str]:
    """Mix letters and digits as on number plates."""
    letters = [f"letters/{c}" for c in rng.choices([*ALPHABET, "zed"], k=3)]
    mark = [f"letters/{rng.choice(MARKS)}"]
    return letters[: rng.randint(1, 3)] + mark + _digits(rng, 1, 3)


def password(rng: Random, _words: list[str]) -> list[str]:
    names = []
    for _ in range(rng.randint(2, 4)):
        choice = rng.random()
        if choice < 0.6:
            names.append(f"letters/ascii{rng.choice(RARE_MARKS)}")
        elif choice < 0.75:
            names.append(f"letters/{rng.choice([*MARKS, 'dollar'])}")
        elif choice < 0.85:
            names += [rng.choice(["uppercase", "lowercase"])]
            names += [f"letters/{rng.choice(ALPHABET)}"]
        elif choice < 0.95:
            names.append(f"digits/{rng.randrange(10)}")
        else:
            names.append("letters/exclaimation-point")
    return names


def number(rng: Random, _words: list[str]) -> list[str]:
    n = rng.randrange(10 ** rng.randint(2, 6))
    names = cardinal(n)
    if rng.random() < 0.15:
        names = [*cardinal(rng.randint(1, 99)), f"digits/{_large(rng)}"]
    tail = ["digits/dollars"] if rng.random() < 0.3 else []
    return (["digits/minus"] if rng.random() < 0.2 else []) + names + tail


def _large(rng: Random) -> str:
    return rng.choice(["billion", "million", "thousand", "hundred"])


def rank(rng: Random, _words: list[str]) -> list[str]:
    if rng.random() < 0.4:
        return [*cardinal(rng.randint(1, 99)), f"digits/h-{_large(rng)}"]
    tens = 10 * rng.randint(1, 9)
    last = ordinal(tens if rng.random() < 0.5 else rng.randint(1, 99))
    return [*cardinal(rng.randint(1, 9)), "digits/hundred", *last]


def date(rng: Random, _words: list[str]) -> list[str]:
    names = [f"digits/mon-{rng.randrange(12)}", *ordinal(rng.randint(1, 31))]
    if rng.random() < 0.6:
        names.insert(0, f"digits/day-{rng.randrange(7)}")
    if rng.random() < 0.4:
        century, year = rng.choice([19, 20]), rng.randint(10, 99)
        names += [*cardinal(century), *cardinal(year)]
    return names


def clock(rng: Random, _words: list[str]) -> list[str]:
    minute = rng.randrange(60)
    said = ["digits/oclock"] if minute == 0 else cardinal(minute)
    if 0 < minute < 10:
        said.insert(0, "digits/oh")
    half = [rng.choice(["digits/a-m", "digits/p-m"])] if rng.random() < 0.7 else []
    names = [*cardinal(rng.randint(1, 12)), *said, *half]
    days = ["today", "tomorrow", "yesterday", *(f"day-{n}" for n in range(7))]
    if rng.random() < 0.5:
        names = [f"digits/{rng.choice(days)}", "digits/at", *names]
    return names


def duration(rng: Random, _words: list[str]) -> list[str]:
    parts = [(24, "hours"), (60, "minutes"), (60, "seconds")]
    first = rng.randrange(3)
    names = [] if first else [*cardinal(rng.randint(2, 23)), "hours"]
    for top, unit in parts[max(1, first) : rng.randint(max(2, first + 1), 3)]:
        names += [*cardinal(rng.randint(2, top - 1)), unit]
    return names


def message(rng: Random, _words: list[str]) -> list[str]:
    """Draw a voicemail, queue or conference announcement with a count or a number."""
    count = cardinal(rng.randint(2, 99))
    choice = rng.random()
    if choice < 0.35:
        names = ["vm-youhave", *count, rng.choice(FOLDERS), "vm-messages"]
        return (
            names if choice < 0.2 else [*names, "vm-and", *cardinal(rng.randint(2, 9))]
        )
    if choice < 0.65:
        return [rng.choice(CALLED), *_digits(rng, 3, 5)]
    if choice < 0.75:
        return ["queue-thereare", *count]
    if choice < 0.85:
        return ["queue-holdtime", *count, "queue-minutes"]
    if choice < 0.95:
        return ["conf-thereare", *count, "conf-otherinparty"]
    return ["vm-press", f"digits/{rng.randrange(10)}", "vm-for", rng.choice(FOLDERS)]


Template = Callable[[Random, list[str]], list[str]]
# {name: (template, relative frequency, whether it fits any language)}
TEMPLATES: dict[str, tuple[Template, int, bool]] = {
    "code": (code, 12, True),
    "spelling": (spelling, 16, True),
    "phonetic": (phonetic, 14, True),
    "plate": (plate, 11, True),
    "password": (password, 11, True),
    "number": (number, 12, False),
    "rank": (rank, 8, False),
    "date": (date, 11, False),
    "clock": (clock, 9, False),
    "duration": (duration, 5, False),
    "message": (message, 8, False),
}


@dataclass
class Combiner:
    """Draws combinations so that no test combination is part of a training text.

    Draw held-out sets first: word sequences of a held-out set are neither equal to nor
    part of a combination of a later set. Combinations with a recording that the
    language lacks are rejected.

    Args:
        texts: {name of recording: words}.
        english: whether templates of English grammar are used.
        seed: of all random choices.
    """

    texts: dict[str, str]
    english: bool
    seed: int
    used: set[Words] = field(default_factory=set)
    held_out: set[Words] = field(default_factory=set)

    def words(self, names: Iterable[str]) -> Words:
        return tuple(word for name in names for word in self.texts[name].split())

    def draw(self, set_name: str, count: int, held_out: bool) -> list[list[str]]:
        """Draw ``count`` new combinations.

        Args:
            set_name: part of the random seed.
            count: number of combinations.
            held_out: whether later sets must not contain them.
        Raises:
            UserError: the templates are exhausted.
        """
        rng = Random(f"{self.seed} {set_name}")
        templates = [t for t in TEMPLATES.values() if self.english or t[2]]
        weights = [weight for _, weight, _ in templates]
        vocabulary = sorted(
            {w for text in self.texts.values() for w in text.split() if w.isascii()}
        )
        spellable = [w for w in vocabulary if w.isalpha() and len(w) > 1]
        drawn: list[list[str]] = []
        uses: Counter[str] = Counter()
        refused = 0
        while len(drawn) < count:
            template = rng.choices(templates, weights)[0][0]
            offers = [template(rng, spellable) for _ in range(OFFERS)]
            fitting = [names for names in offers if self._fits(names, held_out)]
            if fitting:
                names = min(fitting, key=lambda names: min(uses[n] for n in names))
                words = self.words(names)
                self.used.add(words)
                if held_out:
                    self.held_out.add(words)
                drawn.append(names)
                uses.update(names)
                refused = 0
            elif (refused := refused + 1) > PATIENCE:
                raise UserError(
                    f"{set_name}: after {len(drawn)} of {count} combinations no new "
                    "one was drawn; ask for fewer"
                )
        return drawn

    def _fits(self, names: list[str], held_out: bool) -> bool:
        if not MIN_PIECES <= len(names) <= MAX_PIECES:
            return False
        if any(name not in self.texts for name in names):
            return False
        words = self.words(names)
        if words in self.used or contains_any(words, self.held_out):
            return False
        return not held_out or len(words) >= MIN_TEST_WORDS


def contains_any(words: Words, held_out: set[Words]) -> bool:
    """Return whether a contiguous part of ``words`` is in ``held_out``."""
    return any(
        words[start:end] in held_out
        for start in range(len(words))
        for end in range(start + 1, len(words) + 1)
    )


def piece_classes(counts: Counter[str]) -> dict[str, tuple[int, int, int]]:
    """Return {class of recordings: (number, uses of the least used, all uses)}."""
    by_class: dict[str, list[int]] = {}
    for name, uses in counts.items():
        by_class.setdefault(_class_of(name), []).append(uses)
    return {c: (len(n), min(n), sum(n)) for c, n in sorted(by_class.items())}


def _class_of(name: str) -> str:
    folder, slash, stem = name.partition("/")
    if not slash:
        return "phrases"
    if folder == "digits":
        prefixes = {"h-": "ordinals", "mon-": "months", "day-": "weekdays"}
        for prefix, name_of_class in prefixes.items():
            if stem.startswith(prefix):
                return name_of_class
        return "digits" if stem.isdigit() else "number words"
    if folder == "letters":
        return "letters" if len(stem) == 1 or stem == "zed" else "marks"
    return folder
