"""Tables: rows on their servers, lookups from the workers, first values."""
