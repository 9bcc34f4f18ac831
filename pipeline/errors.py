"""The error that a user can mend: shown as one message, without a traceback."""


class UserError(ValueError):
    """Input or options are wrong; the message names what and says what to do about it."""
