"""Recorded responses, played to the real SDKs without a socket: one table a wire, ``NAME.json``.

Every response in these tables is SYNTHETIC: written by hand in the shapes and with the errors that the vendors document. None
was ever received from a live service.
"""
