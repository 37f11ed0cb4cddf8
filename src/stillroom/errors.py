"""Errors a user can cause. The command line prints them as one line and exits with status 2."""

from __future__ import annotations


class StillroomError(ValueError):
    """Something the user gave cannot be used; the message says what, where, what is allowed and what to do."""


class ConfigError(StillroomError):
    """A recipe, a config file or a `--set` names an unknown key or a value out of range."""


class DataError(StillroomError):
    """The data as a whole cannot be read: a wrong path, a missing column, no samples."""


class ArtifactError(StillroomError):
    """An output folder belongs to another run, or an input folder is not a finished stage output."""


class WriteError(StillroomError, OSError):
    """A file cannot be written: the disk is full, the folder is read-only, a file stands where a folder should."""


class MissingDependencyError(StillroomError):
    """An optional package is needed for what was asked; the message names the extra to install."""

    def __init__(self, package: str, extra: str, purpose: str) -> None:
        self.arguments = (package, extra, purpose)
        super().__init__(f"{purpose} needs the package '{package}': pip install 'stillroom[{extra}]'")

    def __reduce__(self) -> tuple[type[MissingDependencyError], tuple[str, str, str]]:
        # A worker process raises it too; by default it would be rebuilt from its message alone, and fail.
        return MissingDependencyError, self.arguments


def printable(line: str) -> str:
    """Spell out line breaks and terminal codes: keys and paths come from whoever made the data."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in line)
