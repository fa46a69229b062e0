"""Everything the doors must know, in memory, kept true."""
