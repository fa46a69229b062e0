"""PostgreSQL as a child of this process, for `tracker dev` and the tests."""
