"""Images: read them safely from a source, prepare them for a model, and encode them for an endpoint."""
