"""The connections to Redis: how they are made, shared and watched; scripts that it runs."""
