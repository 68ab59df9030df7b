"""What goes wrong when a folder of weights is read, said in one line."""


class LoaderError(ValueError):
    """A folder, file, key or config value that cannot be used.

    The message is one line: the file, the key, what was found, what was expected.
    """
