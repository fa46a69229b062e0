"""Local disk: what is written before anything is answered. Rows are bytes here; what they mean is told elsewhere."""
