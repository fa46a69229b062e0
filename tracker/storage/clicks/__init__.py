"""From the spool to the table `clicks`: rows, batches, statistics, exactly once."""
