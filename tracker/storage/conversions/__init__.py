"""From the journal to conversions and the ledger: read, claim, decide, write, in groups."""
