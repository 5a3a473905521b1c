"""Training of an adapter on one's own text: ``kronq train``."""
