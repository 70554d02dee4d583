"""Images: read safely from a source, shown to a model, encoded for an endpoint."""
