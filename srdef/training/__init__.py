"""Training of the networks that srdef ships."""
