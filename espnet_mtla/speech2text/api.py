"""``Speech2Text``: sound to text with a trained model, in one call."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from espnet_mtla.errors import UserError
from espnet_mtla.search.options import ESPNET_REFUSED, DecodeOptions
from espnet_mtla.settings.checks import check_number, plain, require
from espnet_mtla.speech2text.result import Alternative, Transcript, joined
from espnet_mtla.speech2text.sound import Clip, SoundReader

if TYPE_CHECKING:
    from espnet_mtla.recognise.load import TrainedModel
    from espnet_mtla.recognise.recogniser import Recognised
    from espnet_mtla.recognise.utterances import Sound
    from espnet_mtla.speech2text.align import WordTimes

    Failed = Callable[[str, UserError], None]

logger = logging.getLogger(__name__)

LONGEST_SECONDS = 30.0
"""Longer recordings are cut if the length of the training's utterances is unknown."""
LEEWAY = 1.1
"""A recording stays in one piece up to so many times the usual length in training, so
that an utterance like those of training gives the result of the recipe."""


class Speech2Text:
    """Transcribe sound with one trained model; see :meth:`from_pretrained`.

    Any number of threads may call one object; each gets the result of a call by itself.
    On a CPU the encoder runs in one thread at a time, since espnet2's encoders store
    tensors of a call in their modules; searches run concurrently. On a GPU calls run
    one after another.

    Args:
        trained: the model.
        options: how it decodes.
        longest_seconds: longer recordings are cut at quiet places and their parts
            decoded separately; None never cuts.
        part_seconds: length of such a part at most; None: ``longest_seconds``.
    Raises:
        UserError: the model takes no sound, or a value is out of range.
    """

    def __new__(cls, *arguments: object, **keywords: object) -> Speech2Text:
        """Refuse files, as ESPnet's class takes them, in favour of from_pretrained."""
        foreign = [value for name, value in keywords.items() if name in ESPNET_REFUSED]
        values = (*arguments[:1], *foreign)
        files = [value for value in values if isinstance(value, str | Path)]
        if files or foreign:
            folder = Path(files[0]).parent if files else "FOLDER"
            raise UserError(
                "Speech2Text of files is ESPnet's; here "
                f'Speech2Text.from_pretrained("{folder}") loads a model\'s folder'
            )
        return super().__new__(cls)

    def __init__(
        self,
        trained: TrainedModel,
        options: DecodeOptions,
        longest_seconds: float | None = LONGEST_SECONDS,
        part_seconds: float | None = None,
    ) -> None:
        from espnet_mtla.recognise.recogniser import Recogniser

        if trained.unit == "token":
            raise UserError(
                "the model takes texts, not sound: espnet-mtla inference decodes a "
                "data folder of texts"
            )
        if trained.frontend is None:
            raise UserError("the model takes features (frontend none), not sound")
        self.trained, self.options = trained, options
        self.longest_seconds = longest_seconds
        self.part_seconds = longest_seconds if part_seconds is None else part_seconds
        for name in ("longest_seconds", "part_seconds"):
            if getattr(self, name) is not None:
                check_number(self, name, inside="(0, inf]")
        self.reader = SoundReader(trained.fs)
        self._recogniser = Recogniser(trained, options)

    @classmethod
    def from_pretrained(
        cls,
        model: str | Path | None = None,
        *,
        device: str = "auto",
        revision: str | None = None,
        longest_seconds: float | Literal["trained"] | None = "trained",
        **options: object,
    ) -> Speech2Text:
        """Load an experiment folder, a packed folder, or a model of the hub by name.

        Args:
            model: folder, or ``owner/name`` on the hub.
            device: ``auto`` takes a GPU if there is one; else as torch spells it.
            revision: of a hub model: branch, tag or commit.
            longest_seconds: longer recordings are cut at quiet places. ``trained``:
                those longer than is usual in the model's training, since accuracy drops
                at lengths beyond those of training. None never cuts.
            options: fields of :class:`DecodeOptions`, also by ESPnet's names. The
                others are those of ``decode.yaml`` in the folder, if there is one.

        Raises:
            UserError: no such model, device or option, or files that do not fit.
        """
        from espnet_mtla.recognise.load import TrainedModel, choose_device
        from espnet_mtla.recognise.options import folder_options
        from espnet_mtla.share.hub import find_model

        if model is None:
            raise UserError(
                "from_pretrained: name the model in the first argument, by its folder "
                "or as owner/name on the hub; it is ESPnet's model_tag"
            )
        folder = find_model(model, revision)
        chosen = folder_options(folder).replaced(**options)
        trained = TrainedModel.from_folder(folder, choose_device(device), chosen)
        part = None
        if longest_seconds == "trained":
            part = trained.trained_seconds
            longest_seconds = LEEWAY * part if part else LONGEST_SECONDS
        return cls(trained, chosen, longest_seconds, part)

    def __call__(
        self,
        sounds: object,
        rate: object = None,
        *,
        timestamps: bool = False,
    ) -> Transcript | list[Transcript]:
        """Transcribe one sound, or a list of them in batches of similar length.

        A :class:`Transcript` can be read as the list of tuples that ESPnet's
        ``Speech2Text`` returns::

            for text, token, token_int, hyp in speech2text("talk.flac"): ...

        Args:
            sounds: a path, an array (with ``rate``), a dictionary of ``array`` and
                ``sampling_rate``, or a list of these. Any rate and number of channels
                is converted as needed, which is logged. Arrays hold floats in [-1, 1],
                or int8, uint8, int16 or int32, of which the range is full scale.
            rate: sampling rate of arrays in Hz, a whole number of any numeric type.
            timestamps: also compute when each word was said; needs CTC, and runs the
                encoder once more.

        Returns:
            A transcript, or a list of them in the order of ``sounds``.
        Raises:
            UserError: a sound cannot be read or decoded; names it.
        """
        timestamps = plain(timestamps)
        needed = "true or false is"
        require(isinstance(timestamps, bool), "timestamps", timestamps, needed)
        several = isinstance(sounds, list | tuple)
        inputs = list(sounds) if isinstance(sounds, list | tuple) else [sounds]
        clips = [
            self.reader.clip(sound, rate, f"sound {index}" if several else "sound")
            for index, sound in enumerate(inputs)
        ]
        results = dict(self.stream(clips, timestamps=timestamps))
        if len(results) != len(clips):
            raise AssertionError(f"{len(clips)} sounds in, {len(results)} out")
        transcripts = [results[index] for index in range(len(clips))]
        return transcripts if several else transcripts[0]

    def stream(
        self,
        clips: Sequence[Clip],
        *,
        timestamps: bool = False,
        failed: Failed | None = None,
    ) -> Iterator[tuple[int, Transcript]]:
        """Yield the index in ``clips`` and the transcript of each, batch by batch.

        Args:
            clips: the sounds; each is read when its batch is decoded.
            timestamps: also compute when each word was said.
            failed: called with key and reason if a sound cannot be read or decoded,
                which is then left out; None raises the error instead.
        """
        times = self.word_times() if timestamps else None
        for batch in self._batches(clips):
            sounds = {index: self._read(clips[index], failed) for index in batch}
            loaded = {i: sound for i, sound in sounds.items() if sound is not None}
            transcripts = self._transcribe([*loaded.values()], times, failed)
            for index, transcript in zip(loaded, transcripts, strict=True):
                if transcript is not None:
                    yield index, transcript

    def word_times(self) -> WordTimes:
        """Return what computes the times of words.

        Raises:
            UserError: the model has no CTC of the text that it writes.
        """
        from espnet_mtla.speech2text.align import WordTimes

        return WordTimes(self.trained)

    def _batches(self, clips: Sequence[Clip]) -> Iterator[list[int]]:
        """Yield indices into ``clips``; a long recording, to be cut, stays alone."""
        from espnet_mtla.recognise.batches import plan_batches

        indices = range(len(clips))
        short = [index for index in indices if not self._is_long(clips[index].seconds)]
        frames = [clips[index].frames for index in short]
        for batch in plan_batches(self.trained, self.options, frames):
            yield [short[index] for index in batch]
        for index in indices:
            if self._is_long(clips[index].seconds):
                yield [index]

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
        """Decode a batch; after an error, one by one if ``failed`` collects errors."""
        if not sounds:
            return []
        try:
            if len(sounds) == 1 and self._is_long(self._seconds(sounds[0])):
                return [self._in_parts(sounds[0], times)]
            pairs = zip(self._recogniser(sounds), sounds, strict=True)
            return [self.transcript(result, sound, times) for result, sound in pairs]
        except UserError as error:
            if failed is None:
                raise
            if len(sounds) == 1:
                failed(sounds[0].key, error)
                return [None]
        return [self._transcribe([sound], times, failed)[0] for sound in sounds]

    def _in_parts(self, sound: Sound, times: WordTimes | None) -> Transcript:
        """Transcribe a long recording, cut at quiet places."""
        starts, parts = self.cut(sound)
        pairs = zip(self._recogniser.in_batches(parts), parts, strict=True)
        pieces = [self.transcript(result, part, times) for result, part in pairs]
        return joined(sound.key, pieces, starts)

    def cut(self, sound: Sound) -> tuple[list[float], list[Sound]]:
        """Cut a long recording at quiet places; a shorter one is a single part.

        Returns:
            Seconds at which the parts start, and the parts.
        """
        from espnet_mtla.recognise.utterances import Sound
        from espnet_mtla.speech2text.split import cut_points

        if not self._is_long(self._seconds(sound)):
            return [0.0], [sound]
        key, fs, longest = sound.key, self.trained.fs, self.part_seconds or 0.0
        points = cut_points(sound.samples, fs, longest)
        logger.info(
            "%s: %.0f s cut into %d parts of at most %g s",
            *(key, self._seconds(sound), len(points) - 1, longest),
        )
        parts = [Sound(key, sound.samples[a:b]) for a, b in pairwise(points)]
        return [point / fs for point in points[:-1]], parts

    def transcript(
        self, result: Recognised, sound: Sound, times: WordTimes | None
    ) -> Transcript:
        """Return the transcript of one decoded part.

        Args:
            result: its hypotheses.
            sound: its samples.
            times: computes the times of words; None: they are left out.
        """
        names, to_text = self.trained.model.token_list, self.trained.to_text
        nbest = []
        for hypothesis in result.nbest:
            ids = tuple(hypothesis.tokens)
            tokens = tuple(names[token] for token in ids)
            nbest.append(Alternative(to_text(tokens), tokens, hypothesis.score, ids))
        words = None
        if times is not None:
            words = tuple(times(sound.key, sound.samples, result.nbest[0].tokens))
        best, seconds = nbest[0], self._seconds(sound)
        text, intent = best.text, None
        if self.trained.task == "slu":
            intent, _, text = best.text.partition(" ")
            words = None if words is None else words[1:]
        return Transcript(
            *(sound.key, seconds, text, best.score, tuple(nbest), words),
            intent=intent,
        )

    def _seconds(self, sound: Sound) -> float:
        return len(sound.samples) / self.trained.fs
