"""Counts of what is kept and dropped, and the one line of what is refused."""

from __future__ import annotations

import pytest

from espnet_mtla.data.tally import DropCounter
from espnet_mtla.errors import UserError


def count(drop_bad: bool = False) -> DropCounter:
    counter = DropCounter("dev", "cuts", drop_bad, "list.txt")
    for _ in range(1200):
        counter.keep()
    for name in ("a", "b"):
        counter.drop("empty", name)
        counter.refuse("broken", f"{name}2")
    return counter


def test_what_is_refused_is_one_line_with_the_way_out(capsys) -> None:
    with pytest.raises(UserError) as caught:
        count().close()
    assert str(caught.value) == (
        "list.txt: broken: a2 (2 such cuts); repair it, or leave such cuts out "
        "(--local_data_opts of run.sh) with --drop_bad"
    )
    assert not capsys.readouterr().out


def test_counts_add_up_and_name_the_first(capsys) -> None:
    count(drop_bad=True).close()
    assert capsys.readouterr().out == (
        "dev: 1,204 cuts in, 1,200 kept, 4 dropped\n"
        "dev:   2 broken, such as a2\n"
        "dev:   2 empty, such as a\n"
    )


def test_nothing_left_is_an_error() -> None:
    counter = DropCounter("dev", "cuts")
    counter.drop("empty", "a")
    with pytest.raises(UserError, match=r"dev: no cuts left of 1; 1 empty, such as a$"):
        counter.close()
