"""The command line: one file per subcommand. Nothing here is needed to use trapgate from Python."""
