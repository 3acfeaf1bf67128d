"""What can go wrong, as one short tree.

EdgesrError                  anything this package raises on purpose; exit code 1
├── UsageError (ValueError)  an option or argument that cannot be meant; exit code 2
├── ModelError               no such model, or a file that is not a usable one
├── MediaError (OSError)     a picture or video that cannot be read or written
├── BackendError             a runtime that is missing, or cannot do what was asked
├── MissingDependency (ImportError)  an optional package is needed; the message says what to type
└── Interrupted              stopped on request (Ctrl-C); exit code 130

A message is one line and is the manual for whoever reads it: what came, what is allowed,
what to type. The command line prints it as it is, without a traceback.
"""


class EdgesrError(Exception):
    """Base of all errors of this package."""

    exit_code = 1


class UsageError(EdgesrError, ValueError):
    """An option or argument that cannot be meant."""

    exit_code = 2


class ModelError(EdgesrError):
    """No such model, or a file that is not a usable model."""


class MediaError(EdgesrError, OSError):
    """A picture or video that cannot be read or written."""


class BackendError(EdgesrError):
    """A runtime that is missing, or cannot do what was asked of it."""


class MissingDependency(EdgesrError, ImportError):
    """An optional package is needed; the message says what to type."""


class Interrupted(EdgesrError):
    """Stopped on request before the work was complete."""

    exit_code = 130
