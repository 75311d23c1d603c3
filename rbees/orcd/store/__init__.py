"""orcd's durable state in SQLite: the connection, the schema and its versions, and the named queries."""
