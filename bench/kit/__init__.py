"""What the benchmarks share: servers and their database, loads, accounts of CPU, results. Nothing here measures by itself."""
