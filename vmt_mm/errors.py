"""Errors that are the user's to mend."""


class InputError(ValueError):
    """Bad input: the message names the file, key or value, and the rule it breaks.

    The tools print the message alone, without a traceback, and exit with a non-zero code.
    """


class DamagedFileError(InputError):
    """A data file that cannot be used; a data set may be told to skip it."""
