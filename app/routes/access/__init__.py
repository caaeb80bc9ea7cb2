"""Who is let in: hosts, origins, tokens, the cookie, and revocations."""
