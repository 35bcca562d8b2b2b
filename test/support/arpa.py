"""ARPA files drawn at random, and their scores by the definition."""

import math
import random

LN10 = math.log(10)


def plain_score(ngrams, history, word):
    """The definition: the longest n-gram, and the back-off weights on the way to it."""
    words = (*history[max(0, len(history) - ngrams.order + 1) :], word)
    total = 0.0
    while words not in ngrams.log_probs:
        total += ngrams.backoffs.get(words[:-1], 0.0)
        words = words[1:]
    return total + ngrams.log_probs[words]


def random_arpa(order, seed, holes=True):
    """A model whose n-grams may lack their suffixes, which kenlm has no room for."""
    words = ("a", "b", "c", "d", "<unk>")
    draw = random.Random(seed)
    number = lambda: f"{-draw.uniform(0.1, 3):.4f}"  # noqa: E731
    grams = [[("<s>",), ("</s>",), *((word,) for word in words)]]
    for _ in range(order - 1):
        longer = [
            (*context, word)
            for context in grams[-1]
            if context[-1] != "</s>"
            for word in (*words, "</s>")
            if draw.random() < 0.4 and (holes or (*context[1:], word) in grams[-1])
        ]
        grams.append(longer)
    lines = ["\\data\\", *(f"ngram {n}={len(g)}" for n, g in enumerate(grams, 1))]
    for n, section in enumerate(grams, 1):
        lines.append(f"\n\\{n}-grams:")
        for gram in section:
            weight = draw.random() < 0.7 and n < order and gram[-1] != "</s>"
            fields = [number(), " ".join(gram), *([number()] if weight else [])]
            lines.append("\t".join(fields))
    return "\n".join([*lines, "", "\\end\\", ""])
