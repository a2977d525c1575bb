"""One error type for everything a user can put right."""


class InputError(ValueError):
    """Bad input: one line that says what was given and what to write instead.

    A ``ValueError``, so library users catch what they expect; the command line prints its text alone,
    without a trace, and exits with status 2.
    """

    def __str__(self) -> str:
        # A path or a name that is quoted may hold line ends.
        return " ".join(super().__str__().splitlines())
