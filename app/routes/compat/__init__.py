"""What the clients of other frameworks speak: each resumes the answer of a run in its own way."""
