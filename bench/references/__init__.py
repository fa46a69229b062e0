"""What tracker is measured against, each a program of its own: a bare aiohttp Application, and the usual design twice."""
