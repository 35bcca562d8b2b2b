"""Counting while a corpus is prepared: what came in, what goes on, why the rest not."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from espnet_mtla.errors import UserError


class Tally:
    """Items of one kind in one set, such as the segments of ``train``.

    Some items are left out as a matter of course (:meth:`drop`): a segment in which
    nobody speaks. Others show that something is broken (:meth:`refuse`): they end the
    preparation, all of one kind in one line, unless ``drop_bad`` is true.
    """

    def __init__(
        self, name: str, unit: str, drop_bad: bool = False, source: str | Path = ""
    ) -> None:
        """``name`` stands before the counts, ``source`` before what is refused."""
        self.name, self.unit, self.drop_bad = name, unit, drop_bad
        self.source = source or name
        self.kept = 0
        self.dropped: Counter[str] = Counter()
        self._refused: set[str] = set()
        self._first: dict[str, str] = {}

    def keep(self) -> None:
        """Count an item that goes on."""
        self.kept += 1

    def drop(self, reason: str, item: object) -> None:
        """Count an item that is left out; the first one of each reason is named."""
        self.dropped[reason] += 1
        self._first.setdefault(reason, str(item))

    def refuse(self, reason: str, item: object) -> None:
        """Count an item that should not be there as it is."""
        self.drop(reason, item)
        self._refused.add(reason)

    def close(self) -> None:
        """Print the counts; check that they are worth going on with.

        Raises:
            UserError: something was refused and ``drop_bad`` is false, or nothing is
                left; it names the first item and says how many there are.
        """
        total = self.kept + self.dropped.total()
        bad = [reason for reason in self.dropped if reason in self._refused]
        if bad and not self.drop_bad:
            count = self.dropped[bad[0]]
            more = f" ({count} such {self.unit})" if count > 1 else ""
            raise UserError(
                f"{self.source}: {bad[0]}: {self._first[bad[0]]}{more}; repair it, or "
                f"leave such {self.unit} out (--local_data_opts of run.sh) with "
                "--drop_bad"
            )
        print(
            f"{self.name}: {total:,} {self.unit} in, {self.kept:,} kept, "
            f"{total - self.kept:,} dropped"
        )
        for reason, count in sorted(self.dropped.items()):
            print(f"{self.name}:   {count:,} {reason}, such as {self._first[reason]}")
        if not self.kept:
            why = "".join(
                f"; {count:,} {reason}, such as {self._first[reason]}"
                for reason, count in self.dropped.most_common(1)
            )
            raise UserError(f"{self.source}: no {self.unit} left of {total:,}{why}")
