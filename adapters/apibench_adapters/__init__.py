"""Adapters: a vendor's own SDK in, apibench's provider contract out. Found through the entry points ``apibench.providers``.

Each imports its SDK only when a client is made, and nothing of apibench but :mod:`apibench.query.contract`.
"""
