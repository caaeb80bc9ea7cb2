"""Random schedules: logs that change in every way while followers' records are checked."""
