"""The one error that srdef raises for bad input."""


class InputError(ValueError):
    """Bad input, explained in one line that names what is wrong and the valid choices.

    Experiment scripts print the message without a traceback and exit with code 2.
    """
