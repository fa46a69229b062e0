"""Everything that can be slow, full or down: local disk and PostgreSQL."""
