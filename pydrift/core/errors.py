"""The errors a user can cause; the command line turns each into its exit code, and anything else into 5."""

from __future__ import annotations

from pydrift.core.text import printable


class PydriftError(Exception):
    """Base of the errors that carry a sentence for the user. `exit_code` is what the command line returns.

    Names in the sentence may be from files that others wrote: what a terminal would obey is escaped.
    """

    exit_code = 5

    def __init__(self, sentence: str) -> None:
        super().__init__(printable(sentence))


class UsageError(PydriftError):
    """The call is off: an unknown name, an impossible combination of options, a folder in use."""

    exit_code = 2


class InputRefused(PydriftError):
    """A file or data set is unsafe, damaged or incompatible; nothing was computed from it."""

    exit_code = 4
