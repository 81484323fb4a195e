"""What `python -m serve` can do: one file per command, each with HELP, add_arguments(parser) and main(arguments)."""
