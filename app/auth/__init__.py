"""Who may do what: tokens, API keys, grants, revocations. It knows no Flask."""
