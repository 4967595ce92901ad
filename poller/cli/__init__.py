"""One module a command, each thin: read arguments, call the part that does it, turn errors into exit codes."""
