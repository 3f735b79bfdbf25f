"""Tables, views, migrations and partitions: the shape of the database. Nothing here knows a use case."""
