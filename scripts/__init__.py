"""The `nightshift` command: one module a group of subcommands, each importing its weight when called."""
