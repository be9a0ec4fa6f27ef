"""The error of this package, in a file of its own: every other one of its files raises it."""


class CheckpointError(RuntimeError):
    """A checkpoint is missing, incomplete or damaged."""
