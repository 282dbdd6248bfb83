"""Every error a user of aista can meet: what happened, what was got, what was expected, what to try.

AistaError
|- ConfigError        a setting is unknown, missing or contradicts another
|- AudioError         a sound cannot be read or used
|- ManifestError      a row of a manifest cannot be used
|- ModelInputError    what was handed to the model does not fit it
|- CheckpointError    weights do not belong together
|- TransportError     a transport problem cannot be solved (NotFiniteError: its states are not finite)
|- TrainingError      a run cannot go on (CorruptDataError: too many of its clips cannot be read)
|- EvaluationError    a score would be meaningless
`- Interrupted        Ctrl-C or SIGTERM: what was done is kept, the same command goes on
"""

from __future__ import annotations


class AistaError(Exception):
    """An error with its cure.

    Args:
        what: One sentence that says what went wrong.
        got: What was found.
        expected: What would have been right.
        advice: What the reader can do now.
    """

    def __init__(
        self, what: str, *, got: object = None, expected: object = None, advice: str | None = None
    ) -> None:
        self.what = what
        self.got = got
        self.expected = expected
        self.advice = advice
        rows = [("got", got), ("expected", expected), ("try", advice)]
        super().__init__("\n".join([what, *(f"  {name}: {text}" for name, text in rows if text is not None)]))


class ConfigError(AistaError):
    """A setting is unknown, missing, of the wrong type, or contradicts another."""


class AudioError(AistaError):
    """A sound is missing, empty, corrupt, or of a kind that cannot be used here."""


class ManifestError(AistaError):
    """A manifest or one of its rows cannot be used; the message names file and line."""


class ModelInputError(AistaError):
    """What was handed to the model or its processor does not fit it."""


class CheckpointError(AistaError):
    """Weights are missing, superfluous, of another shape, or belong to another base."""


class TransportError(AistaError):
    """A transport problem is malformed or could not be solved to the promised accuracy."""


class NotFiniteError(TransportError):
    """States are NaN or infinite, so that there is no distance between them."""


class TrainingError(AistaError):
    """A training run cannot start or cannot go on."""


class CorruptDataError(TrainingError):
    """More clips cannot be read than may be."""


class EvaluationError(AistaError):
    """A score cannot be computed, or would mean something else than it says."""


class Interrupted(AistaError):
    """A signal stopped what can go on: what was done is kept, and the same command goes on."""
