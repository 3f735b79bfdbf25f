"""The status page: what people see of the nights, and what operators may do. The exporter serves it."""
