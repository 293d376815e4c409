"""The errors that a user can cause, each one clear line."""


class PmniError(Exception):
    """Something a user can put right. The command line prints its message alone and exits with 2.

    The message is one line that names the file, the view where there is one, and what to do.
    """


class InputError(PmniError):
    """A file, folder or configuration that cannot be used as it is."""


class MissingBackendError(PmniError):
    """A configured backend that is not installed or has no device here. Never replaced silently."""


class DivergenceError(PmniError):
    """A solver met a non-finite value; names the step and the term."""


class ConvergenceError(PmniError):
    """A solver that ended where its data do not fit; says what does not."""


class LostSurfaceError(ConvergenceError):
    """No ray of any view meets the surface any more."""
