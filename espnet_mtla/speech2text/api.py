"""``Speech2Text``: a trained model as one call."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from espnet_mtla.errors import UserError
from espnet_mtla.recognise.utterances import FRAMES_PER_SECOND
from espnet_mtla.search.options import DecodeOptions
from espnet_mtla.settings.checks import (
    check_choice,
    check_flags,
    check_number,
    plain,
    require,
)
from espnet_mtla.settings.names import CONFIG, DECODE
from espnet_mtla.speech2text.result import Alternative, Transcript, joined
from espnet_mtla.speech2text.sound import Clip, SoundReader

if TYPE_CHECKING:
    import torch

    from espnet_mtla.recognise.load import TrainedModel
    from espnet_mtla.recognise.recogniser import Recognised
    from espnet_mtla.recognise.utterances import Sound
    from espnet_mtla.speech2text.align import WordTimes

    Failed = Callable[[str, UserError], None]

logger = logging.getLogger(__name__)

LONGEST_SECONDS = 30.0
"""Longer recordings are cut where a model does not tell what it was trained on."""
LEEWAY = 1.1
"""Times the usual length of training that a recording may have in one piece, so that
an utterance like those of training gives what it gives in the recipe."""


class Speech2Text:
    """Sound to text with one trained model; see :meth:`from_pretrained`.

    Any number of threads may call one object; each gets what it would get alone. On a
    CPU the encoder runs in one thread at a time, since espnet2's keeps the tensors of a
    call on its modules, and searches run beside each other; on a GPU calls take turns.

    Args:
        longest_seconds: longer recordings are cut at quiet places and their parts
            decoded one by one; None never cuts.
        part_seconds: length of such a part at most; None: ``longest_seconds``.
        task: ``slu`` takes the first word of a hypothesis as the intent.
        words_spoken: the model's CTC is on another text than it writes.
    """

    def __init__(
        self,
        trained: TrainedModel,
        options: DecodeOptions,
        longest_seconds: float | None = LONGEST_SECONDS,
        part_seconds: float | None = None,
        task: str = "asr",
        words_spoken: bool = False,
    ) -> None:
        from espnet_mtla.recognise.recogniser import Recogniser

        if trained.read_source is not None:
            raise UserError(
                "the model takes texts, and not sound: python -m "
                "espnet_mtla.bin.inference decodes a data folder of them"
            )
        if trained.frontend is None:
            raise UserError("the model takes features (frontend none), and not sound")
        self.trained, self.options = trained, options
        self.longest_seconds = longest_seconds
        self.part_seconds = longest_seconds if part_seconds is None else part_seconds
        for name in ("longest_seconds", "part_seconds"):
            if getattr(self, name) is not None:
                check_number(self, name, inside="(0, inf]")
        self.task, self.words_spoken = task, words_spoken
        check_choice(self, "task", ("asr", "st", "slu"))
        check_flags(self, "words_spoken")
        self.reader = SoundReader(trained.fs)
        self._recogniser = Recogniser(trained, options)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path,
        *,
        device: str = "auto",
        revision: str | None = None,
        longest_seconds: float | Literal["trained"] | None = "trained",
        **options: object,
    ) -> Speech2Text:
        """Load an experiment folder, a packed folder, or a model of the hub by name.

        Args:
            model: folder, or ``owner/name`` on the hub.
            device: ``auto`` takes a GPU where there is one; else as torch spells it.
            revision: of a hub model: branch, tag or commit.
            longest_seconds: longer recordings are cut at quiet places. ``trained``:
                those longer than is usual in the model's training, since it does badly
                at lengths that it has not seen. None never cuts.
            options: fields of :class:`DecodeOptions`; what is not given comes from
                ``decode.yaml`` in the folder, if there is one.

        Raises:
            UserError: no such model, device or option, or files that do not fit.
        """
        from espnet_mtla.recognise.load import load_model
        from espnet_mtla.settings.yaml_files import load_yaml
        from espnet_mtla.share.hub import find_model

        folder = find_model(model, revision)
        chosen = decode_options(folder, options)
        trained = load_model(folder, find_device(device), chosen)
        settings = load_yaml(folder / CONFIG)
        part = None
        if longest_seconds == "trained":
            part = trained_seconds(folder, settings)
            longest_seconds = LEEWAY * part if part else LONGEST_SECONDS
        return cls(
            trained,
            chosen,
            longest_seconds,
            part,
            settings.get("task", "asr"),
            bool(settings.get("source_text")),
        )

    def __call__(
        self,
        sounds: object,
        rate: object = None,
        *,
        timestamps: bool = False,
    ) -> Transcript | list[Transcript]:
        """Transcribe one sound, or a list of them, in batches of like length.

        Args:
            sounds: a path, an array (with ``rate``), a dictionary of ``array`` and
                ``sampling_rate``, or a list of these. Any rate and any number of
                channels will do: both are changed as needed, which is logged. Arrays
                hold floats in [-1, 1], or int8, uint8, int16 or int32, of which each
                type's range is full scale.
            rate: sampling rate of arrays: a whole number of Hz, of any numeric type.
            timestamps: also find out when each word was said; takes CTC and a second
                run of the encoder.

        Returns:
            A transcript, or a list of them in the order of ``sounds``.
        Raises:
            UserError: names the sound that cannot be read or decoded.
        """
        timestamps = plain(timestamps)
        needed = "true or false is"
        require(isinstance(timestamps, bool), "timestamps", timestamps, needed)
        several = isinstance(sounds, list | tuple)
        given = list(sounds) if isinstance(sounds, list | tuple) else [sounds]
        clips = [
            self.reader.clip(sound, rate, f"sound {place}" if several else "sound")
            for place, sound in enumerate(given)
        ]
        found = dict(self.stream(clips, timestamps=timestamps))
        if len(found) != len(clips):
            raise AssertionError(f"{len(clips)} sounds in, {len(found)} out")
        results = [found[place] for place in range(len(clips))]
        return results if several else results[0]

    def stream(
        self,
        clips: Sequence[Clip],
        *,
        timestamps: bool = False,
        failed: Failed | None = None,
    ) -> Iterator[tuple[int, Transcript]]:
        """Place in ``clips`` and transcript of each, as batches become ready.

        Args:
            failed: called with key and reason where a sound cannot be read or decoded,
                which is then left out; None raises instead.
        """
        times = self._word_times() if timestamps else None
        for places in self._batches(clips):
            read = [(place, self._read(clips[place], failed)) for place in places]
            there = [(place, sound) for place, sound in read if sound is not None]
            found = self._transcribe([sound for _, sound in there], times, failed)
            for (place, _), transcript in zip(there, found, strict=True):
                if transcript is not None:
                    yield place, transcript

    def _word_times(self) -> WordTimes:
        from espnet_mtla.speech2text.align import WordTimes

        if self.words_spoken:
            raise UserError(
                "timestamps: the model's CTC tells the words spoken, not those written"
            )
        return WordTimes(self.trained)

    def _batches(self, clips: Sequence[Clip]) -> Iterator[list[int]]:
        """Places in ``clips``, those of like length together; long ones stay alone."""
        limit = self.options.batch_frames
        batch: list[int] = []
        for place in sorted(range(len(clips)), key=lambda i: clips[i].frames):
            clip = clips[place]
            full = (len(batch) + 1) * clip.frames > limit or self._is_long(clip.seconds)
            if batch and full:
                yield batch
                batch = []
            batch.append(place)
        if batch:
            yield batch

    def _is_long(self, seconds: float) -> bool:
        return self.longest_seconds is not None and seconds > self.longest_seconds

    def _read(self, clip: Clip, failed: Failed | None) -> Sound | None:
        from espnet_mtla.recognise.utterances import Sound

        try:
            return Sound(clip.key, clip.read())
        except UserError as error:
            if failed is None:
                raise
            failed(clip.key, error)
            return None

    def _transcribe(
        self, sounds: Sequence[Sound], times: WordTimes | None, failed: Failed | None
    ) -> list[Transcript | None]:
        """A batch; where it fails and failures are wanted by name, one by one."""
        try:
            if len(sounds) == 1 and self._is_long(self._seconds(sounds[0])):
                return [self._in_parts(sounds[0], times)]
            found = self._recogniser(sounds) if sounds else []
            pairs = zip(found, sounds, strict=True)
            return [self._transcript(result, sound, times) for result, sound in pairs]
        except UserError as error:
            if failed is None:
                raise
            if len(sounds) == 1:
                failed(sounds[0].key, error)
                return [None]
        return [self._transcribe([sound], times, failed)[0] for sound in sounds]

    def _in_parts(self, sound: Sound, times: WordTimes | None) -> Transcript:
        """A long recording, cut at quiet places."""
        from espnet_mtla.recognise.utterances import Sound
        from espnet_mtla.speech2text.split import cut_points

        key, fs, longest = sound.key, self.trained.fs, self.part_seconds or 0.0
        points = cut_points(sound.samples, fs, longest)
        logger.info(
            "%s: %.0f s cut into %d parts of at most %g s",
            *(key, self._seconds(sound), len(points) - 1, longest),
        )
        parts = [Sound(key, sound.samples[a:b]) for a, b in pairwise(points)]
        size = max(1, int(self.options.batch_frames / (longest * FRAMES_PER_SECOND)))
        found: list[Transcript] = []
        for first in range(0, len(parts), size):
            batch = self._transcribe(parts[first : first + size], times, None)
            # None stands for a failure that was reported; without ``failed`` it raises.
            found += [part for part in batch if part is not None]
        return joined(key, found, [point / fs for point in points[:-1]])

    def _transcript(
        self, result: Recognised, sound: Sound, times: WordTimes | None
    ) -> Transcript:
        names, to_text = self.trained.model.token_list, self.trained.to_text
        nbest = []
        for hypothesis in result.nbest:
            tokens = tuple(names[token] for token in hypothesis.tokens)
            nbest.append(Alternative(to_text(tokens), tokens, hypothesis.score))
        words = None
        if times is not None:
            words = tuple(times(sound.key, sound.samples, result.nbest[0].tokens))
        best, seconds = nbest[0], self._seconds(sound)
        text, intent = best.text, None
        if self.task == "slu":
            intent, _, text = best.text.partition(" ")
            words = None if words is None else words[1:]
        return Transcript(
            *(sound.key, seconds, text, best.score, tuple(nbest), words),
            intent=intent,
        )

    def _seconds(self, sound: Sound) -> float:
        return len(sound.samples) / self.trained.fs


def trained_seconds(folder: Path, settings: Mapping[str, Any]) -> float | None:
    """The usual length of the training's utterances, if the configuration says it.

    Raises:
        UserError: it says something else.
    """
    given = settings.get("trained_seconds")
    require(
        given is None
        or (
            isinstance(given, int | float)
            and not isinstance(given, bool)
            and 0 < given < math.inf
        ),
        f"{folder / CONFIG}: trained_seconds",
        given,
        "null, or a number of seconds, is",
    )
    return given


def decode_options(folder: Path, given: Mapping[str, object]) -> DecodeOptions:
    """``decode.yaml`` of the folder, if it has one, with ``given`` laid over it.

    Raises:
        UserError: an unknown option, or a value out of range.
    """
    from espnet_mtla.settings.yaml_files import load_yaml

    known = [field.name for field in fields(DecodeOptions)]
    file = folder / DECODE
    packed = load_yaml(file) if file.is_file() else {}
    for source, values in ((f"{file}: ", packed), ("", given)):
        for name in values:
            if name not in known:
                raise UserError(
                    f"{source}unknown option {name!r}; valid: {', '.join(known)}"
                )
    values = {name: plain(value) for name, value in {**packed, **given}.items()}
    # nbest may be asked for without a word about the beam.
    if "nbest" in given and "beam_size" not in given:
        least, beam = values["nbest"], values.get("beam_size", DecodeOptions.beam_size)
        if isinstance(least, int) and isinstance(beam, int):
            values["beam_size"] = max(beam, least)
    return DecodeOptions(**values)


def find_device(name: str) -> torch.device:
    """``auto``, or a device as torch spells it.

    Raises:
        UserError: torch knows no such device, or sees none here.
    """
    import torch

    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(
            f"device {name!r}: auto, cpu, cuda or cuda:1 and so on is needed"
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name}: torch sees no CUDA device here; use cpu")
    return device
