"""Measurements made on this machine, without a vendor."""
