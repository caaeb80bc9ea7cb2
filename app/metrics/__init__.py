"""What the workers count and measure, in memory that they share; it knows no Flask and no Redis."""
