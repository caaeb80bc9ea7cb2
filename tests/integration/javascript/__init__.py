"""The JavaScript client: its own tests in Node.js, its types, its size, and a real gateway."""
