"""From an upload to its transcript, for many requests at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from espnet_mtla.errors import UserError
from espnet_mtla.recognise.fusion import load_hotwords
from espnet_mtla.recognise.utterances import Sound
from espnet_mtla.serve.engine import LARGEST_BATCH, Engine
from espnet_mtla.serve.errors import ApiError
from espnet_mtla.serve.form import Form
from espnet_mtla.serve.job import DeadlinePassed, Job
from espnet_mtla.serve.metrics import Metrics
from espnet_mtla.settings.checks import check_count, check_number
from espnet_mtla.speech2text.result import Transcript, joined

if TYPE_CHECKING:
    from espnet_mtla.search.hotwords import Hotwords
    from espnet_mtla.speech2text import Speech2Text

Tell = Callable[[int, list[int]], None]
"""Gets the number of a part and the tokens that its text is known to begin with."""
PARTS_AT_ONCE = 4
"""Parts of one recording in the engine, so that a long one leaves room for others."""


@dataclass(frozen=True)
class Limits:
    """What one server and one request may take.

    Attributes:
        requests: transcriptions at a time, running and waiting.
        upload: bytes of a request.
        seconds: length of a recording.
        deadline: seconds from a request to its answer.
    """

    requests: int = 64
    upload: int = 100 * 2**20
    seconds: float = 7200.0
    deadline: float = 600.0

    def __post_init__(self) -> None:
        check_count(self, "requests", "upload", prefix="limit ")
        check_number(self, "seconds", "deadline", inside="(0, inf)", prefix="limit ")


@dataclass(frozen=True)
class Recording:
    """A recording that is read and cut.

    Attributes:
        name: of its file.
        starts: seconds at which the parts start.
        parts: what is decoded separately.
        hotwords: of this request.
        deadline: by :func:`time.monotonic`.
    """

    name: str
    starts: list[float]
    parts: list[Sound]
    hotwords: Hotwords | None
    deadline: float

    @property
    def seconds_left(self) -> float:
        return max(0.0, self.deadline - time.monotonic())


@dataclass
class Service:
    """A model, its engine, and what they may be asked.

    Args:
        speech2text: the model.
        name: by which clients name the model.
        language: of the text; None: unknown.
        limits: see there.
        budget: bytes for the decoder; None: a share of the free memory.
        largest_batch: most utterances at once.
    """

    speech2text: Speech2Text
    name: str
    language: str | None = None
    limits: Limits = field(default_factory=Limits)
    budget: int | None = None
    largest_batch: int = LARGEST_BATCH
    metrics: Metrics = field(default_factory=Metrics)
    in_flight: int = 0
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.trained = self.speech2text.trained
        options = self.speech2text.options
        sizes = self.budget, self.largest_batch
        self.engine = Engine(self.trained, options, *sizes)

    @property
    def translates(self) -> bool:
        """Whether the text is in another language than the speech."""
        return self.trained.task == "st"

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Count a request while it is being answered.

        Raises:
            ApiError: there are too many requests.
        """
        if self.in_flight >= self.limits.requests:
            seconds = str(max(1, round(self.metrics.mean_seconds)))
            raise ApiError(
                429,
                f"{self.limits.requests} requests are being answered; try again in "
                f"{seconds} s",
                code="rate_limit_exceeded",
                headers={"retry-after": seconds},
            )
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def open(
        self, data: bytes, name: str, form: Form, deadline: float
    ) -> Recording:
        """Read an upload.

        Args:
            data: contents of the file.
            name: of the file.
            form: the fields of the request.
            deadline: by :func:`time.monotonic`.

        Raises:
            ApiError: it is no sound, too long, or the request asks for what the model
                cannot do.
        """
        return await asyncio.to_thread(self._open, data, name, form, deadline)

    def _open(self, data: bytes, name: str, form: Form, deadline: float) -> Recording:
        try:
            if form.timed:
                self.speech2text.word_times()
        except UserError as error:
            raise ApiError(400, str(error), "response_format") from None
        try:
            hotwords = self._hotwords(form.phrases)
        except UserError as error:
            raise ApiError(400, f"prompt: {error}", "prompt") from None
        try:
            clip = self.speech2text.reader.of_bytes(data, name)
            if clip.seconds > self.limits.seconds:
                most = f"at most {self.limits.seconds:g} s are possible"
                message = f"{name}: {clip.seconds:.1f} s long, {most}"
                raise ApiError(413, message, "file")
            starts, parts = self.speech2text.cut(Sound(name, clip.read()))
        except UserError as error:
            raise ApiError(400, str(error), "file") from None
        return Recording(name, starts, parts, hotwords, deadline)

    def _hotwords(self, phrases: Sequence[str]) -> Hotwords | None:
        if not phrases:
            return None
        if self.trained.model.decoder is None:
            raise UserError("the model has no decoder, and takes no hotwords")
        bonus = self.speech2text.options.hotword_bonus
        return load_hotwords(phrases, bonus, self.trained)

    async def transcribe(
        self,
        recording: Recording,
        timed: bool,
        tell: Tell | None = None,
        tell_piece: Callable[[Transcript], None] | None = None,
    ) -> Transcript:
        """Decode a recording, its parts a few at a time.

        Args:
            recording: its parts.
            timed: also compute the times of words.
            tell: called, in another thread, with what is known of a part.
            tell_piece: called with the transcript of each part, in order.

        Raises:
            ApiError: a part cannot be decoded, or not in time.
        """
        times = self.speech2text.word_times() if timed else None
        jobs: list[Job] = []
        pieces: list[Transcript] = []
        try:
            for number, part in enumerate(recording.parts):
                while len(jobs) < min(number + PARTS_AT_ONCE, len(recording.parts)):
                    jobs.append(self._submit(recording, len(jobs), tell))
                result = await asyncio.wrap_future(jobs[number].future)
                piece = await asyncio.to_thread(
                    self.speech2text.transcript, result, part, times
                )
                pieces.append(piece)
                if tell_piece is not None:
                    tell_piece(piece)
        except UserError as error:
            raise ApiError(400, str(error), "file") from None
        except DeadlinePassed:
            raise too_late(self.limits) from None
        finally:
            for job in jobs:
                self.engine.drop(job)
        return joined(recording.name, pieces, recording.starts)

    def _submit(self, recording: Recording, number: int, tell: Tell | None) -> Job:
        def partial(tokens: list[int]) -> None:
            if tell is not None:
                tell(number, tokens)

        try:
            return self.engine.submit(
                recording.parts[number],
                hotwords=recording.hotwords,
                deadline=recording.deadline,
                partial=None if tell is None else partial,
            )
        except RuntimeError:
            raise ApiError(503, "the server is stopping") from None

    def gauges(self) -> dict[str, tuple[str, float]]:
        """Return present values with their help texts, for :class:`Metrics`."""
        engine = self.engine
        return {
            "requests_in_flight": ("Requests being answered.", self.in_flight),
            "utterances_running": ("Utterances in the batch.", engine.running),
            "utterances_waiting": ("Utterances in the queue.", engine.waiting),
            "steps_total": ("Steps of the batch.", engine.steps),
            "memory_budget_bytes": ("Planned for the decoder.", engine.budget or 0),
        }


def too_late(limits: Limits) -> ApiError:
    """Return the error of a request that takes longer than its deadline."""
    message = f"not answered within {limits.deadline:g} s"
    return ApiError(504, message, code="timeout", headers={"x-should-retry": "false"})


class Deltas:
    """Turn what is known of the parts of a recording into pieces of text to append.

    Args:
        service: gives the model.
        send: called with each piece of text, in the thread of the event loop.
    """

    def __init__(self, service: Service, send: Callable[[str], None]) -> None:
        self.trained, self._send = service.trained, send
        self.loop = asyncio.get_running_loop()
        self.pieces: list[str] = []
        self.sent = ""
        # The first word of a model of understanding is the intent, which is no text.
        self.partial = service.trained.task != "slu"

    def tell(self, number: int, tokens: list[int]) -> None:
        """Note what is known of a part; called in the engine's thread."""
        if self.partial:
            with suppress(RuntimeError):  # the loop is closed: nobody listens
                self.loop.call_soon_threadsafe(self._tell, number, tokens)

    def _tell(self, number: int, tokens: list[int]) -> None:
        if number == len(self.pieces):  # later parts have to wait for their turn
            names = [self.trained.model.token_list[token] for token in tokens]
            # An unfinished character of several bytes may become another one.
            self._extend(self.trained.to_text(names).rstrip("\ufffd "))

    def tell_piece(self, piece: Transcript) -> None:
        """Note the whole text of the next part."""
        self._extend(piece.text)
        self.pieces.append(piece.text)

    def _extend(self, text: str) -> None:
        whole = " ".join(one for one in (*self.pieces, text) if one)
        if whole.startswith(self.sent) and len(whole) > len(self.sent):
            self._send(whole[len(self.sent) :])
            self.sent = whole
