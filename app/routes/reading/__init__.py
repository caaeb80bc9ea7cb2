"""Reading runs: their state, their history, and what comes live."""
