"""Request handlers, one module per HTTP noun; none imports another."""
