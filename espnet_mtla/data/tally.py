"""Count the items of a corpus while it is prepared: kept, and dropped by reason."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from espnet_mtla.errors import UserError


class DropCounter:
    """Count the items of one set, such as the segments of ``train``.

    :meth:`drop` counts items that a corpus normally contains and training cannot use,
    such as segments without words. :meth:`refuse` counts items that show a broken
    corpus: unless ``drop_bad`` is true, :meth:`close` raises an error for them.
    """

    def __init__(
        self, name: str, unit: str, drop_bad: bool = False, source: str | Path = ""
    ) -> None:
        """Start at zero.

        Args:
            name: the set, printed before the counts.
            unit: plural noun of the items, such as "segments".
            drop_bad: count refused items as dropped, without an error.
            source: file or folder that errors name.
        """
        self.name, self.unit, self.drop_bad = name, unit, drop_bad
        self.source = source or name
        self.kept = 0
        self.dropped: Counter[str] = Counter()
        self._refused: set[str] = set()
        self._first: dict[str, str] = {}

    def keep(self) -> None:
        """Count an item that is kept."""
        self.kept += 1

    def drop(self, reason: str, item: object) -> None:
        """Count an item that is left out; :meth:`close` prints each reason's first."""
        self.dropped[reason] += 1
        self._first.setdefault(reason, str(item))

    def refuse(self, reason: str, item: object) -> None:
        """Count an item that shows a broken corpus."""
        self.drop(reason, item)
        self._refused.add(reason)

    def close(self) -> None:
        """Print the counts.

        Raises:
            UserError: items were refused and ``drop_bad`` is false, or none is left. It
                names the first item and the number of such items.
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


Tally = DropCounter
"""Former name, for recipes written for it."""
