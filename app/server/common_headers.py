"""The headers that every answer has, whether a view, Flask or gunicorn makes it."""

# No browser guesses another type, shows a page's URL to others, or lets a page of another origin
# embed an answer. Pages that CORS allows read it all the same: browsers look at
# Cross-Origin-Resource-Policy only where CORS is not asked (the Fetch Standard, section 3.7).
SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
)

# Without it, caches may store a 200 and a 204 for as long as they like (RFC 9111, section 4.2.2).
NO_STORE = ("Cache-Control", "no-store")
