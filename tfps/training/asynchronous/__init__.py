"""Asynchronous training: every step pushes its row gradients; dense variables are exchanged once a closure."""
