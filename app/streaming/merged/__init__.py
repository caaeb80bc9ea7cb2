"""Several runs as one: their cursor, their batches as bytes, and what is delivered of them."""
