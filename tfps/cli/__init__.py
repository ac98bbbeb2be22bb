"""The command line programs: they parse flags and call the library."""
