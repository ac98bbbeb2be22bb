"""Command line programs: arguments to calls."""
