"""Errors a user of `objectives` can mend: one class per thing to mend, each message one line."""


class ObjectiveError(Exception):
    """Root of what can go wrong in tasks, scorers and engines through the user's input."""


class TaskError(ObjectiveError):
    """An item file, split or task definition is wrong."""


class ScorerError(ObjectiveError):
    """A scorer is unknown, has a wrong parameter, or lacks an optional package."""


class ServiceError(ScorerError):
    """What a scorer depends on outside failed over one answer: the next may do better."""


class EngineError(ObjectiveError):
    """An engine cannot start, or weights do not fit the live model."""


class EngineDiedError(EngineError):
    """An engine's own process has ended while it was used: a fresh engine may do better."""


class EngineMemoryError(EngineError):
    """The memory that is free now is too little for a start, a load or one prompt: another try may
    do better.
    """
