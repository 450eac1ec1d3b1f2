"""Pages to fields: values that follow a schema, how certain each is, and where it stands."""
