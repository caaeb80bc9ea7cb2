"""Tests of what only AsyncClient has. tests/client runs over both clients."""
