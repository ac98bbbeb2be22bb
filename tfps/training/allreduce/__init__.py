"""All-reduce training: workers have equal copies of the dense variables and sum their gradients in every step."""
