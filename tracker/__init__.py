"""Tracker: the click and conversion tracking core. The README draws the two paths; `tracker/app.py` builds them."""

__version__ = "0.1.0"
