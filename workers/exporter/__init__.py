"""The exporter: one small HTTP server that says what the database and Redis know, at the moment it is asked."""
