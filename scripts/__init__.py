"""The `nightshift` command: one module a group of subcommands. Imports its weight when called, so that it starts at once."""
