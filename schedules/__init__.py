"""When things are due: the calendar of nights, and the beat table."""
