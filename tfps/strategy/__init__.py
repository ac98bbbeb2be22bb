"""The strategy: variables where the plan says, inputs shared between workers, a thread a worker."""
