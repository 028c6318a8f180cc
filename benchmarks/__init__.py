"""Measurements of fieldguide against what one would otherwise use; each file runs with ``python -m``."""
