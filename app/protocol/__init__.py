"""What a client and a gateway send each other. Nothing here does I/O; both clients share it."""
