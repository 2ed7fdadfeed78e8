"""What runs a model. ``build`` alone knows every kind."""
