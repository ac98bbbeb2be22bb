"""Embedding tables: their rows on the servers, lookups and pushes from the workers, and their first values."""
