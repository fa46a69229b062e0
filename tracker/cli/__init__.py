"""Commands: what people type. Each file is one group of commands."""
