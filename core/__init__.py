"""What every room needs and nothing of ours: settings, clock, database, log, errors, queue names."""
