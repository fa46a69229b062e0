"""Decisions: standard library only; no await, clock, environment, logging or randomness in here."""
