"""Events as bytes: the frame, the formats of a stream, and batches of frames."""
