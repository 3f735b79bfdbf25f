"""What tests share: the servers, databases cloned from a migrated template, polling."""
