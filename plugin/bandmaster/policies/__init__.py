"""The policies. ``build`` alone knows them all."""
