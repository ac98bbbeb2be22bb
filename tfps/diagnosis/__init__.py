"""Where the time of a step goes: profiles of all tasks, read as a timeline of stages. See docs/profiling.md."""
