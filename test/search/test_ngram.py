"""Token-level n-grams: by hand, by plain recursion, and as kenlm and ESPnet score."""

import gzip
import importlib.util
import random
import sys

import pytest
import torch

from espnet_mtla.errors import UserError
from espnet_mtla.search.backoff import BackoffScorer
from espnet_mtla.search.ngram import ngram_automaton, read_arpa
from test.support.arpa import LN10, plain_score, random_arpa
from test.support.espnet_nets import espnet_nets

TOKENS = ["<blank>", "<unk>", "a", "b", "c", "never", "<sos/eos>"]
EOS = len(TOKENS) - 1

TRIGRAM = """\\data\\
ngram 1=6
ngram 2=5
ngram 3=2

\\1-grams:
-1.5\t<unk>
-99\t<s>\t-0.4
-0.9\t</s>
-0.7\ta\t-0.3
-0.8\tb\t-0.2
-1.1\tc

\\2-grams:
-0.2\t<s> a\t-0.1
-0.6\ta b\t-0.25
-0.3\tb </s>
-0.5\tb a
-0.9\ta a\t-0.05

\\3-grams:
-0.15\t<s> a b
-0.35\ta b </s>

\\end\\
"""


@pytest.fixture
def arpa(tmp_path):
    path = tmp_path / "lm.arpa"
    path.write_text(TRIGRAM)
    return path


def scorer_of(path, batch=1, beam=1, tokens=TOKENS):
    automaton = ngram_automaton(read_arpa(path), tokens, len(tokens) - 1)
    return BackoffScorer(automaton, batch, beam)


def score_along(scorer, tokens):
    """Scores (V,) after <sos> and after each token of one hypothesis."""
    return [scorer.score(torch.tensor([token]))[0] for token in (EOS, *tokens)]


def test_scores_computed_by_hand(arpa):
    a, b, c, never = (TOKENS.index(token) for token in ("a", "b", "c", "never"))
    begin, after_a, after_ab, after_c = score_along(scorer_of(arpa), [a, b, c])
    wanted = {
        "P(a | <s>)": (begin[a], -0.2),
        "P(b | <s>): backs off once": (begin[b], -0.4 - 0.8),
        "P(unknown | <s>)": (begin[never], -0.4 - 1.5),
        "P(b | <s> a): a trigram": (after_a[b], -0.15),
        "P(a | <s> a): backs off to a bigram": (after_a[a], -0.1 - 0.9),
        "P(c | <s> a): backs off twice": (after_a[c], -0.1 - 0.3 - 1.1),
        "P(</s> | a b): a trigram": (after_ab[EOS], -0.35),
        "P(a | a b): backs off to a bigram": (after_ab[a], -0.25 - 0.5),
        "P(b | a b): backs off twice": (after_ab[b], -0.25 - 0.2 - 0.8),
        "P(a | b c): c has no weight": (after_c[a], -0.7),
    }
    for name, (found, log10) in wanted.items():
        assert found.item() == pytest.approx(log10 * LN10, abs=1e-6), name


@pytest.mark.parametrize("order", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_plain_recursion_in_a_moving_batch(tmp_path, order, seed):
    """Rows are reordered and utterances leave; every token is scored at every step."""
    path = tmp_path / "lm.arpa"
    path.write_text(random_arpa(order, seed))
    tokens = ["<blank>", "<unk>", "d", "a", "x", "c", "<sos/eos>"]  # no b; x is unknown
    names = [name if name in "acd" else "<unk>" for name in tokens[:-1]] + ["</s>"]
    ngrams, draw = read_arpa(path), random.Random(seed)
    batch, beam = 3, 4
    scorer = scorer_of(path, batch, beam, tokens)
    histories = [["<s>"] for _ in range(batch * beam)]
    last = torch.full((batch * beam,), len(tokens) - 1)
    for step in range(9):
        found = scorer.score(last)
        wanted = [[plain_score(ngrams, h, name) for name in names] for h in histories]
        torch.testing.assert_close(found, torch.tensor(wanted))
        rows = [b * beam + draw.randrange(beam) for b in range(batch) for _ in "1234"]
        scorer.reorder(torch.tensor(rows))
        last = torch.tensor([draw.randrange(1, len(tokens) - 1) for _ in rows])
        histories = [histories[row] for row in rows]
        if step == 4:
            scorer.select(torch.tensor([2, 0]))
            keep = [*range(8, 12), *range(4)]
            histories, last = [histories[row] for row in keep], last[keep]
            batch = 2
        histories = [
            [*h, names[token]]
            for h, token in zip(histories, last.tolist(), strict=True)
        ]


def test_a_compressed_file_reads_the_same(arpa):
    packed = arpa.with_suffix(".arpa.gz")
    packed.write_bytes(gzip.compress(arpa.read_bytes()))
    assert read_arpa(packed) == read_arpa(arpa)


def test_equals_kenlm(tmp_path):
    kenlm = pytest.importorskip("kenlm")
    path = tmp_path / "lm.arpa"
    path.write_text(random_arpa(3, seed=8, holes=False))
    theirs, ngrams = kenlm.LanguageModel(str(path)), read_arpa(path)
    text = "a b d x c c a b b d a c"
    found = [log10 for log10, _, _ in theirs.full_scores(text)]
    history = ["<s>"]
    for word, log10 in zip([*text.split(), "</s>"], found, strict=True):
        known = word if word != "x" else "<unk>"
        assert plain_score(ngrams, history, known) == pytest.approx(log10 * LN10, 1e-5)
        history.append(known)


class PlainKenlm:
    """The part of kenlm's interface that ESPnet's scorer calls, by plain recursion."""

    class State:
        history: tuple[str, ...] = ()

    class LanguageModel:
        def __init__(self, path):
            self.ngrams = read_arpa(path)

        def NullContextWrite(self, state):
            state.history = ()

        def BaseScore(self, state, word, out):
            word = word if (word,) in self.ngrams.log_probs else "<unk>"
            out.history = (*state.history, word)
            return plain_score(self.ngrams, state.history, word) / LN10


def test_equals_espnets_scorer(arpa, monkeypatch):
    """It gives base-10 logarithms, and knows <eos> by the name ``<eos>`` alone."""
    pytest.importorskip("espnet2", reason="espnet's scorer")
    if importlib.util.find_spec("kenlm") is None:
        monkeypatch.setitem(sys.modules, "kenlm", PlainKenlm)
    names = [*TOKENS[:-1], "<eos>"]
    theirs = espnet_nets("scorers.ngram").NgramFullScorer(str(arpa), names)
    history = [EOS, 2, 3, 3, 5, 2, 2, 4]
    state, ours = theirs.init_state(None), scorer_of(arpa)
    for step, token in enumerate(history):
        prefix = torch.tensor(history[: step + 1])
        wanted, state = theirs.score(prefix, state, torch.zeros(1))
        found = ours.score(torch.tensor([token]))[0]
        torch.testing.assert_close(found, wanted * LN10, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\\end\\\n", "", r"lm.arpa: cut off: ends in \\3-grams:"),
        ("\\data\\", "data", r"lm.arpa: not an ARPA file: it has no \\data\\"),
        ("ngram 2=5", "ngram 2=6", r"lm.arpa:21: \\2-grams: has 5 n-grams, .* 6"),
        ("ngram 2=5\n", "", r"lm.arpa:3: ngram 2= expected, not 'ngram 3=2'"),
        ("ngram 1=6\nngram 2=5\nngram 3=2\n", "", "lm.arpa:3: ngram 1= expected"),
        ("\\2-grams:", "\\3-grams:", r"lm.arpa:14: \\2-grams: expected"),
        ("-0.6\ta b", "nan\ta b", "lm.arpa:16: log-probability nan is not a number"),
        ("-0.6\ta b", "0.6\ta b", "lm.arpa:16: log-probability 0.6 is not"),
        ("-0.6\ta b", "minus\ta b", "lm.arpa:16: 'minus' is not a number"),
        ("a b\t-0.25", "a b\tinf", "lm.arpa:16: back-off weight inf is not finite"),
        ("a b\t-0.25", "a\t-0.25", "lm.arpa:23: the context 'a b'"),
        ("-0.6\ta b", "-0.6", "lm.arpa:16: not a probability and 2 words"),
        ("-0.5\tb a", "-0.5\ta b", "lm.arpa:18: n-gram 'a b' is listed twice"),
        ("-0.35\ta b", "-0.35\tc b", "lm.arpa:23: the context 'c b' is not listed"),
        ("ngram 1=6", "ngram 1=5", r"lm.arpa:14: \\1-grams: has 6 n-grams"),
        ("-99\t<s>", "-99\t<S>", "lm.arpa:15: the context '<s>' is not listed"),
        ("-1.5\t<unk>", "-1.5\t<UNK>", "lm.arpa: the 1-grams lack <unk>"),
        ("-0.9\t</s>", "-0.9\t<e>", "lm.arpa: the 1-grams lack </s>"),
    ],
)
def test_a_broken_file_is_named_in_one_line(arpa, old, new, message):
    assert old in TRIGRAM
    arpa.write_text(TRIGRAM.replace(old, new, 1))
    with pytest.raises(UserError, match=message) as caught:
        read_arpa(arpa)
    assert "\n" not in str(caught.value)


def test_cut_off_anywhere_is_noticed(arpa):
    lines = TRIGRAM.splitlines(keepends=True)
    for count in range(len(lines)):
        arpa.write_text("".join(lines[:count]))
        with pytest.raises(UserError, match=r"lm\.arpa"):
            read_arpa(arpa)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"none\.arpa: no such file"):
        read_arpa(tmp_path / "none.arpa")
    packed = tmp_path / "lm.arpa.gz"
    packed.write_bytes(gzip.compress(TRIGRAM.encode())[:-20])
    with pytest.raises(UserError, match=r"lm\.arpa\.gz: cut off, or not a gzip file"):
        read_arpa(packed)
    packed.write_text(TRIGRAM)
    with pytest.raises(UserError, match=r"lm\.arpa\.gz: cut off, or not a gzip file"):
        read_arpa(packed)
    binary = tmp_path / "lm.arpa"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match=r"lm\.arpa: not UTF-8 text"):
        read_arpa(binary)


def test_an_arpa_of_other_tokens_is_refused(arpa):
    with pytest.raises(UserError, match="know none of the model's tokens"):
        scorer_of(arpa, tokens=["<blank>", "<unk>", "x", "y", "<sos/eos>"])
