"""Commands in files of their own: one click command each, registered by :mod:`apibench.cli`."""
