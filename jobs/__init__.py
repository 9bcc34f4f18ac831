"""What a person runs: one small module a command, which parses, calls the pipeline once and prints.

A command module has HELP, EXAMPLE, add_arguments(parser) and run(arguments) -> exit status; `jobs/cli.py` lists
them. Everything heavy is imported inside `run`, so that `groundlabel --help` stays quick.
"""
